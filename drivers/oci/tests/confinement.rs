//! What a sandbox can see and do, looked at from inside and outside, and limits that bite.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use chiton_driver::{ComputeDriver, ObservedStatus, PortableWrite};
use chiton_model::{CpuQuantity, MemoryQuantity};
use common::*;
use serde_json::json;

/// A root folder with a static shell, owned by the host's root as an unpacked image is.
fn busybox(world: &World) -> PathBuf {
    let root = world.folder.path().join("image");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("package busybox-static is installed");
    for name in ["sh", "cat", "stat", "rm", "ls", "touch", "id"] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("etc/release"), "test image\n").unwrap();
    root
}

async fn started(driver: &chiton_driver_oci::OciDriver, script: &str) -> (chiton_model::SandboxId, i32) {
    let id = sandbox_id();
    let call = call(driver, &request("host", &["sh", "-c", script]), &id).await;
    driver.create(&call).await.unwrap();
    driver.start(&call).await.unwrap();
    (id.clone(), init(&id))
}

#[tokio::test(flavor = "multi_thread")]
async fn init_has_seven_namespaces_of_its_own_no_capability_and_no_new_privileges() {
    if !able("init_has_seven_namespaces_of_its_own_no_capability_and_no_new_privileges") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let (id, pid) = started(&driver, "while :; do sleep 0.1; done").await;
    for namespace in ["user", "mnt", "pid", "net", "uts", "ipc", "cgroup"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        assert_ne!(of(&pid.to_string()), of("self"), "shares the {namespace} namespace");
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).map_or("", str::trim).trim_start_matches(':').trim()
    };
    assert_eq!(field("NoNewPrivs"), "1");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    let uid: u32 = field("Uid").split_whitespace().next().unwrap().parse().unwrap();
    assert!(!is_root() || uid >= world.options.first_id, "runs as host uid {uid}");
    driver.delete(&id).await.unwrap();
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_image_is_read_only_and_shows_no_more_than_programs() {
    if !able("the_host_image_is_read_only_and_shows_no_more_than_programs") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let script = "for path in /usr/x /bin/x /lib/x /etc/ssl/certs/x /sys/x /proc/sys/kernel/hostname; do \
                    if (echo x > $path) 2>/dev/null; then echo \"wrote $path\"; fi; done; \
                  for path in /etc/shadow /etc/ssh /etc/ssl/private /home/* /work /root/.cargo /run/dbus; do \
                    if [ -e $path ]; then echo \"sees $path\"; fi; done; \
                  echo x > /tmp/mine && echo x > /workspace/mine && cat /tmp/mine; id -u; hostname; pwd";
    let (exit, text) = run(&driver, &request("host", &["sh", "-c", script])).await;
    assert_eq!((exit.code, text.as_str()), (Some(0), "x\n0\nbox\n/workspace\n"));
    assert!(!Path::new("/usr/x").exists() && !Path::new("/tmp/mine").exists());
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_a_loopback_interface_and_no_other_way_out() {
    if !able("there_is_a_loopback_interface_and_no_other_way_out") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let script = "grep -c : /proc/net/dev; grep lo: /proc/net/dev | wc -l; cat /proc/net/route | wc -l; \
                  cat /proc/net/fib_trie | grep -c 127.0.0.1; ls /sys/class/net";
    let (exit, text) = run(&driver, &request("host", &["bash", "-c", script])).await;
    assert_eq!(exit.code, Some(0));
    // One interface, lo; no route but the table's title; the loopback address is assigned, so it is up.
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines[1], lines[2], lines[4]), ("1", "1", "1", "lo"), "{text}");
    assert_ne!(lines[3], "0", "lo is down: {text}");
    let connect = "exec 3<>/dev/tcp/192.0.2.1/80";
    let (exit, text) = run(&driver, &request("host", &["bash", "-c", connect])).await;
    assert_eq!(exit.code, Some(1));
    assert!(text.contains("Network is unreachable"), "{text}");
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_inherits_no_descriptor_no_signal_setting_and_no_keyring() {
    if !able("a_process_inherits_no_descriptor_no_signal_setting_and_no_keyring") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let script = "ls /proc/self/fd | tr '\\n' ' '; echo; grep -E '^Sig(Blk|Ign):' /proc/self/status; umask; \
                  readlink /proc/$$/fd/0; yes | head -1 > /dev/null; echo ${PIPESTATUS[0]}; cat /proc/keys 2>&1 | wc -l";
    let (exit, text) = run(&driver, &request("host", &["bash", "-c", script])).await;
    assert_eq!(exit.code, Some(0));
    // 3 is the folder that ls reads. Signals 32 and 33 are the C library's own and cannot be set.
    let text = text.replace('\t', " ").replace("SigIgn: 0000000180000000", "SigIgn: 0000000000000000");
    let wanted = "0 1 2 3 \nSigBlk: 0000000000000000\nSigIgn: 0000000000000000\n0022\n/dev/null\n141\n0\n";
    assert_eq!(text, wanted);
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_image_belongs_to_the_sandboxs_root_and_is_never_changed() {
    if !able("a_folder_image_belongs_to_the_sandboxs_root_and_is_never_changed") {
        return;
    }
    let world = World::new();
    let image = busybox(&world);
    let driver = world.driver();
    let script = "stat -c %u:%g /etc/release; cat /etc/release; echo mine > /etc/release; rm -r /bin/id; \
                  touch /new; cat /etc/release; ls /proc/self/exe >/dev/null && echo proc";
    let reference = format!("dir:{}", image.display());
    let (exit, text) = run(&driver, &request(&reference, &["/bin/sh", "-c", script])).await;
    assert_eq!((exit.code, text.as_str()), (Some(0), "0:0\ntest image\nmine\nproc\n"));
    assert_eq!(fs::read_to_string(image.join("etc/release")).unwrap(), "test image\n");
    assert!(image.join("bin/id").symlink_metadata().is_ok() && !image.join("new").exists());
    assert_eq!(fs::metadata(image.join("etc/release")).unwrap().uid(), rustix::process::geteuid().as_raw());
    fs::remove_dir_all(&image).unwrap();
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_left_in_the_root_does_not_lead_a_mount_out_of_it() {
    if !able("a_link_left_in_the_root_does_not_lead_a_mount_out_of_it") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let id = sandbox_id();
    let shown = world.folder.path().join("shown");
    fs::create_dir(&shown).unwrap();
    fs::set_permissions(&shown, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(shown.join("note"), "shown\n").unwrap();
    // A run replaces the mount's target by a link that climbs as far as it can; /home is on the host and inside.
    let script = "ln -s ../../../../../../../../../home /workspace/target; exit 0";
    let first = call(&driver, &request("host", &["sh", "-c", script]), &id).await;
    driver.create(&first).await.unwrap();
    driver.start(&first).await.unwrap();
    exit(&driver, &id).await;
    let script = "cat /workspace/target/note /home/note; touch /home/x || exit 9";
    let mut plan = driver.default_plan(&request("host", &["sh", "-c", script])).await.unwrap().plan;
    let mount = PortableWrite::Mount {
        source: shown.display().to_string(),
        target: "/workspace/target".to_owned(),
        read_only: true,
    };
    driver.write_portable(&mut plan, &mount).unwrap();
    driver.validate(&plan).await.unwrap();
    driver.start(&fill(plan, &id)).await.unwrap();
    let status = until(
        &driver,
        &id,
        "the second exit",
        |status| matches!(status, ObservedStatus::Exited(exit) if exit.code == Some(9)),
    );
    status.await;
    assert!(output(&driver, &id).await.starts_with("shown\nshown\n"));
    assert!(!Path::new("/home/note").exists());
    driver.delete(&id).await.unwrap();
    fs::remove_dir_all(shown).unwrap();
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_limit_kills_and_is_reported_as_the_reason() {
    if !root("a_memory_limit_kills_and_is_reported_as_the_reason") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let mut request = request("host", &["bash", "-c", "x=a; while :; do x=$x$x; done"]);
    request.resources.memory = Some(MemoryQuantity::parse("memory", "48Mi").unwrap());
    let (exit, _) = run(&driver, &request).await;
    assert_eq!((exit.code, exit.reason.as_str()), (Some(137), "OOMKilled"));
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pids_limit_refuses_more_processes() {
    if !able("a_pids_limit_refuses_more_processes") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done; echo all";
    let mut request = request("host", &["bash", "-c", script]);
    request.resources.pids = Some(8);
    request.env = BTreeMap::from([("LC_ALL".to_owned(), "C".to_owned())]);
    let (_, text) = run(&driver, &request).await;
    assert!(text.contains("Resource temporarily unavailable"), "{text}");
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cpu_limit_stands_in_the_kernels_file_while_the_sandbox_runs() {
    if !root("a_cpu_limit_stands_in_the_kernels_file_while_the_sandbox_runs") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let id = sandbox_id();
    let mut request = request("host", &["sh", "-c", "while :; do sleep 0.1; done"]);
    request.resources.cpu = Some(CpuQuantity::parse("cpu", "250m").unwrap());
    let call = call(&driver, &request, &id).await;
    driver.create(&call).await.unwrap();
    driver.start(&call).await.unwrap();
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(world.sandbox(&id).join("record.json")).unwrap()).unwrap();
    let quota = record["cgroups"].as_array().unwrap().iter().find_map(|cgroup| {
        let has = cgroup["controllers"].as_array()?.contains(&json!("cpu"));
        let file = if cgroup["unified"] == json!(true) { "cpu.max" } else { "cpu.cfs_quota_us" };
        has.then(|| fs::read_to_string(Path::new(cgroup["dir"].as_str()?).join(file)).ok())?
    });
    let quota = quota.expect("a cgroup with the cpu controller");
    assert_eq!(quota.split_whitespace().next(), Some("25000"));
    driver.delete(&id).await.unwrap();
    world.assert_no_traces();
}
