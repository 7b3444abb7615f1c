//! What is particular to an ordinary user: limits and their substitutes, files of other ids, what is said of it all.
//! Run as that user, by `ordinary.rs` or by hand.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use chiton_driver::{CallError, ComputeDriver};
use chiton_driver_oci::{doctor, probe};
use chiton_model::{CpuQuantity, ErrorKind, MemoryQuantity};
use common::*;
use serde_json::json;

/// Whether the test can run: as a user other than root.
fn user(test: &str) -> bool {
    if is_root() && !module_path!().starts_with("ordinary") {
        eprintln!("SKIPPED {test}: it is about users other than root");
    }
    able(test) && !is_root()
}

/// Whether this user has more ids than its own.
fn granted() -> bool {
    let name = std::env::var("USER").unwrap_or_default();
    let file = fs::read_to_string("/etc/subuid").unwrap_or_default();
    file.lines().any(|line| line.starts_with(&format!("{name}:")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_nothing_enforces_is_refused_with_what_is_missing() {
    if !user("a_limit_that_nothing_enforces_is_refused_with_what_is_missing") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let mut with_memory = request("host", &["true"]);
    with_memory.resources.memory = Some(MemoryQuantity::parse("memory", "64Mi").unwrap());
    let mut with_cpu = request("host", &["true"]);
    with_cpu.resources.cpu = Some(CpuQuantity::parse("cpu", "1").unwrap());
    for (name, request) in [("memory", with_memory), ("cpu", with_cpu)] {
        let plan = driver.default_plan(&request).await.unwrap().plan;
        let refused = driver.validate(&plan).await.unwrap_err();
        assert!(matches!(refused.kind, ErrorKind::Refused { .. }), "{refused:?}");
        assert!(refused.message.contains(&format!("resources.{name}")), "{refused:?}");
        assert!(refused.cure.as_deref().is_some_and(|cure| cure.contains("Delegate=yes")), "{refused:?}");
        match driver.create(&fill(plan, &sandbox_id())).await {
            Err(CallError::NotRun(error)) => assert_eq!(error.message, refused.message),
            other => panic!("created without the limit: {other:?}"),
        }
        let findings = doctor(&world.options);
        let finding = findings.iter().find(|finding| finding.what == format!("limit {name}")).unwrap();
        assert!(finding.ok && finding.detail.contains("not enforceable") && finding.cure.contains("Delegate=yes"));
    }
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sandboxes_have_a_limit_of_processes_each() {
    if !user("two_sandboxes_have_a_limit_of_processes_each") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    // Fifteen each, which is more than the limit of one when both are counted together.
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do sleep 60 & done; echo all; \
                  while :; do sleep 0.05; done";
    let mut request = request("host", &["bash", "-c", script]);
    request.resources.pids = Some(20);
    let mut made = Vec::new();
    for _ in 0..2 {
        let id = sandbox_id();
        let call = call(&driver, &request, &id).await;
        driver.create(&call).await.unwrap();
        driver.start(&call).await.unwrap();
        made.push(id);
    }
    for id in &made {
        let mut stream = driver
            .logs(id, chiton_driver::LogOptions { follow: true, ..chiton_driver::LogOptions::default() })
            .await
            .unwrap();
        let chunk = within("the log", futures::StreamExt::next(&mut stream)).await.unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&chunk.data), "all\n");
    }
    let bomb = "while :; do sleep 60 & done";
    let mut bombs = request.clone();
    bombs.command = ["bash", "-c", bomb].map(str::to_owned).to_vec();
    bombs.env.insert("LC_ALL".to_owned(), "C".to_owned());
    let id = sandbox_id();
    let call = call(&driver, &bombs, &id).await;
    driver.create(&call).await.unwrap();
    driver.start(&call).await.unwrap();
    let mut stream = driver
        .logs(&id, chiton_driver::LogOptions { follow: true, ..chiton_driver::LogOptions::default() })
        .await
        .unwrap();
    within("the kernel's refusal", async {
        let mut text = String::new();
        while !text.contains("Resource temporarily unavailable") {
            text += &String::from_utf8_lossy(&futures::StreamExt::next(&mut stream).await.unwrap().unwrap().data);
        }
    })
    .await;
    let members = descendants(monitor_of(&id).unwrap()).len();
    assert!(members <= 20, "{members} processes with a limit of 20");
    made.push(id);
    for id in &made {
        driver.delete(id).await.unwrap();
    }
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_closed_to_its_owner_is_removed_too() {
    if !user("what_is_closed_to_its_owner_is_removed_too") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let script = "mkdir -p /workspace/a/b && echo x > /workspace/a/b/c && chmod 0 /workspace/a/b /workspace/a; \
                  mkdir /tmp/closed && chmod 0 /tmp/closed";
    let (exit, _) = run(&driver, &request("host", &["sh", "-c", script])).await;
    assert_eq!(exit.code, Some(0));
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandboxs_root_is_another_host_id_where_ids_were_granted() {
    if !user("the_sandboxs_root_is_another_host_id_where_ids_were_granted") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let id = sandbox_id();
    let script = "echo x > /workspace/mine; while :; do sleep 0.1; done";
    let call = call(&driver, &request("host", &["sh", "-c", script]), &id).await;
    driver.create(&call).await.unwrap();
    driver.start(&call).await.unwrap();
    let upper = fs::metadata(world.sandbox(&id).join("upper")).unwrap();
    let own = rustix::process::geteuid().as_raw();
    assert_eq!(upper.uid() != own, granted(), "the upper layer belongs to {}", upper.uid());
    assert_eq!(upper.permissions().mode() & 0o777, 0o755);
    driver.delete(&id).await.unwrap();
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_users_own_processes_and_files_are_out_of_reach() {
    if !user("the_users_own_processes_and_files_are_out_of_reach") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let secret = world.folder.path().join("secret");
    fs::write(&secret, "the user's own\n").unwrap();
    let script = format!(
        "cat {0} 2>&1; cat /proc/1/root{0} 2>&1; kill -9 -1; kill -9 {1} 2>/dev/null && echo killed; \
         mount -t tmpfs none /mnt 2>/dev/null && echo mounted; \
         ls /proc | grep -c '^[0-9]'",
        secret.display(),
        std::process::id()
    );
    let (exit, text) = run(&driver, &request("host", &["bash", "-c", &script])).await;
    assert_eq!(exit.code, Some(0), "{text}");
    assert!(!text.contains("own\n") && !text.contains("killed") && !text.contains("mounted"), "{text}");
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_says_by_which_means_each_limit_is_enforced() {
    if !user("the_doctor_says_by_which_means_each_limit_is_enforced") {
        return;
    }
    let world = World::new();
    let findings = doctor(&world.options);
    let of = |what: &str| findings.iter().find(|finding| finding.what == what).unwrap();
    assert!(of("limit pids").detail.contains("RLIMIT_NPROC"));
    assert!(of("user").detail.contains("without root"));
    let ids = of("ids of sandboxes");
    assert!(ids.ok);
    assert_eq!(ids.cure.contains("--add-subuids"), !granted(), "{ids:?}");
    let missing: Vec<_> = findings.iter().filter(|finding| !finding.ok).collect();
    assert!(missing.is_empty(), "{missing:#?}");
    assert_eq!(json!(findings).as_array().unwrap().len(), findings.len());
    assert!(probe().unwrap().ends_with(", without root"));
}

/// The cgroup of version 2 that this user owns and this process is in, with `controllers`; says by name that there is
/// none.
fn delegated(test: &str, controllers: &[&str]) -> Option<std::path::PathBuf> {
    if !user(test) {
        return None;
    }
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let root = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?.to_owned();
    let own = std::path::Path::new(&root).join(path);
    // An earlier test of this process has moved it.
    let base = if own.ends_with("gateway") { own.parent()?.to_path_buf() } else { own };
    let listed = fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default();
    let has = |name: &&str| listed.split_whitespace().any(|word| word == *name);
    let owned = fs::metadata(&base).is_ok_and(|it| it.uid() == rustix::process::geteuid().as_raw());
    if owned && controllers.iter().all(has) {
        return Some(base);
    }
    eprintln!("SKIPPED {test}: it needs a delegated cgroup with the controllers {controllers:?}");
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn delegated_a_sandbox_is_in_a_cgroup_of_its_own_that_goes_with_it() {
    let Some(base) = delegated("delegated_a_sandbox_is_in_a_cgroup_of_its_own_that_goes_with_it", &[]) else { return };
    let world = World::new();
    let driver = world.driver();
    let id = sandbox_id();
    let call = call(&driver, &request("host", &["sh", "-c", "while :; do sleep 0.1; done"]), &id).await;
    driver.create(&call).await.unwrap();
    driver.start(&call).await.unwrap();
    let cgroup = base.join(format!("chiton-{}", world.gateway)).join(id.as_str());
    let members = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
    let init = init(&id).to_string();
    assert!(members.lines().any(|line| line == init), "{init} in {members:?}");
    driver.delete(&id).await.unwrap();
    assert!(!cgroup.exists());
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn delegated_limits_of_memory_and_processor_time_bite() {
    let test = "delegated_limits_of_memory_and_processor_time_bite";
    let Some(base) = delegated(test, &["cpu", "memory", "pids"]) else { return };
    let world = World::new();
    let driver = world.driver();
    let mut fat = request("host", &["bash", "-c", "x=a; while :; do x=$x$x; done"]);
    fat.resources.memory = Some(MemoryQuantity::parse("memory", "48Mi").unwrap());
    let (exit, _) = run(&driver, &fat).await;
    assert_eq!((exit.code, exit.reason.as_str()), (Some(137), "OOMKilled"));
    let id = sandbox_id();
    let mut slow = request("host", &["sh", "-c", "while :; do sleep 0.1; done"]);
    slow.resources.cpu = Some(CpuQuantity::parse("cpu", "250m").unwrap());
    slow.resources.pids = Some(30);
    let call = call(&driver, &slow, &id).await;
    driver.create(&call).await.unwrap();
    driver.start(&call).await.unwrap();
    let cgroup = base.join(format!("chiton-{}", world.gateway)).join(id.as_str());
    assert_eq!(fs::read_to_string(cgroup.join("cpu.max")).unwrap(), "25000 100000\n");
    assert_eq!(fs::read_to_string(cgroup.join("pids.max")).unwrap(), "30\n");
    driver.delete(&id).await.unwrap();
    world.assert_no_traces();
}
