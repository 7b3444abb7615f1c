//! Limits that bite, tried for real.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use chiton_driver::{ComputeDriver, ObservedStatus, PlanRequest};
use chiton_model::MemoryQuantity;
use common::*;
use serde_json::json;

fn bytes(text: &str) -> MemoryQuantity {
    MemoryQuantity::parse("test", text).unwrap()
}

fn script(text: &str) -> PlanRequest {
    let mut request = request("host", &["bash", "-c", text]);
    request.env = BTreeMap::from([("LC_ALL".to_owned(), "C".to_owned())]);
    request
}

/// Loop devices that hold a file of this world's; nothing of other tests on this machine.
fn loops(world: &World) -> Vec<String> {
    let folder = world.folder.path().to_string_lossy().into_owned();
    let devices = fs::read_dir("/sys/block").unwrap().flatten();
    let files = devices.filter_map(|entry| fs::read_to_string(entry.path().join("loop/backing_file")).ok());
    files.filter(|file| file.starts_with(&folder)).collect()
}

/// Waits until this world's devices are free. One is kept for as long as anybody has it open, and who looks for a free
/// device, as another sandbox's maker, opens it for a moment.
async fn freed(world: &World, what: &str) {
    let freed = async {
        while !loops(world).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    within(what, freed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_limit_refuses_more_bytes_and_what_is_deleted_can_be_written_again() {
    if !root("a_disk_limit_refuses_more_bytes_and_what_is_deleted_can_be_written_again") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let mut request = script(
        "dd if=/dev/zero of=/workspace/a bs=64k; stat -c %s /workspace/a; rm /workspace/a; sync; \
         dd if=/dev/zero of=/tmp/b bs=1M count=24 && echo again",
    );
    request.resources.disk = Some(bytes("32Mi"));
    let (exit, text) = run(&driver, &request).await;
    assert_eq!(exit.code, Some(0), "{text}");
    assert!(text.contains("No space left on device"), "{text}");
    let size = text.lines().find_map(|line| line.parse::<u64>().ok()).unwrap();
    assert!((31 << 20..=33 << 20).contains(&size), "{size} bytes of 32 MiB\n{text}");
    assert!(text.lines().any(|line| line == "again"), "{text}");
    freed(&world, "the device after a delete").await;
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inode_limit_refuses_more_files() {
    if !root("an_inode_limit_refuses_more_files") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    for means in ["image", "memory"] {
        let mut request = script("i=0; while : > /workspace/$i; do i=$((i+1)); done; echo $i");
        request.resources.disk = Some(bytes("16Mi"));
        request.resources.inodes = Some(200);
        request.driver_config = json!({ "disk": means });
        let (_, text) = run(&driver, &request).await;
        assert!(text.contains("No space left on device"), "{text}");
        let files = text.lines().find_map(|line| line.parse::<u64>().ok()).unwrap();
        // The root has some of its own: mount points that are made in the upper layer.
        assert!((190..=216).contains(&files), "{files} files by {means}: {text}");
    }
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_layer_is_kept_over_a_stop_and_another_gateway_and_removed_with_the_sandbox() {
    if !root("a_limited_layer_is_kept_over_a_stop_and_another_gateway_and_removed_with_the_sandbox") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let id = sandbox_id();
    let mut request =
        script("cat /workspace/kept && exit 7; echo once > /workspace/kept; echo written; while :; do sleep 0.1; done");
    request.resources.disk = Some(bytes("16Mi"));
    let call = call(&driver, &request, &id).await;
    driver.create(&call).await.unwrap();
    driver.start(&call).await.unwrap();
    said(&driver, &id, "written").await;
    driver.stop(&id).await.unwrap();
    freed(&world, "the device after a stop").await;
    drop(driver);
    let driver = world.driver();
    driver.start(&call).await.unwrap();
    assert_eq!(exit(&driver, &id).await.code, Some(7));
    let text = output(&driver, &id).await;
    assert!(text.starts_with("written\nonce\n"), "{text}");
    assert!(world.sandbox(&id).join("disk.img").exists());
    driver.delete(&id).await.unwrap();
    freed(&world, "the device after a delete").await;
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_in_memory_bites_and_is_empty_after_a_stop() {
    if !root("a_layer_in_memory_bites_and_is_empty_after_a_stop") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let id = sandbox_id();
    let mut request = script(
        "[ -e /workspace/x ] && exit 9; dd if=/dev/zero of=/workspace/x bs=64k; stat -c %s /workspace/x; exit 3",
    );
    request.resources.disk = Some(bytes("8Mi"));
    request.resources.memory = Some(bytes("64Mi"));
    request.driver_config = json!({ "disk": "memory" });
    let call = call(&driver, &request, &id).await;
    assert_eq!(call.plan["resources"]["disk_lost_at_stop"], json!(true));
    for _ in 0..2 {
        driver.create(&call).await.unwrap();
        driver.start(&call).await.unwrap();
        assert_eq!(exit(&driver, &id).await.code, Some(3));
    }
    let text = output(&driver, &id).await;
    assert!(text.contains("No space left on device") && text.contains("8388608"), "{text}");
    driver.delete(&id).await.unwrap();
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_larger_than_the_memory_limit_can_be_filled_without_being_killed() {
    if !root("a_disk_larger_than_the_memory_limit_can_be_filled_without_being_killed") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let mut request = script("dd if=/dev/zero of=/workspace/a bs=1M; stat -c %s /workspace/a");
    request.resources.disk = Some(bytes("192Mi"));
    request.resources.memory = Some(bytes("48Mi"));
    let (exit, text) = run(&driver, &request).await;
    assert_eq!((exit.code, exit.reason.as_str()), (Some(0), "Exited"), "{text}");
    assert!(text.contains("No space left on device"), "{text}");
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_files_limit_refuses_more_and_cannot_be_raised_inside() {
    if !root("an_open_files_limit_refuses_more_and_cannot_be_raised_inside") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let mut request = script("ulimit -Hn; ulimit -Sn; ulimit -n 100 || echo fixed; ulimit -c; exec 70< /dev/null");
    request.resources.open_files = Some(64);
    let (exit, text) = run(&driver, &request).await;
    assert_ne!(exit.code, Some(0), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    let of_stdout: Vec<&str> = lines.into_iter().filter(|line| !line.starts_with("bash: ")).collect();
    assert_eq!(of_stdout, ["64", "64", "fixed", "0"], "{text}");
    assert!(text.contains("cannot modify limit") && text.contains("70: Bad file descriptor"), "{text}");
    request.resources.open_files = Some(u32::MAX);
    let plan = driver.default_plan(&request).await.unwrap().plan;
    let error = driver.validate(&plan).await.unwrap_err();
    assert!(error.message.contains("more than this gateway may give"), "{error}");
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_sandboxes_with_disk_limits_are_made_at_once_and_every_device_is_freed() {
    if !root("twenty_sandboxes_with_disk_limits_are_made_at_once_and_every_device_is_freed") {
        return;
    }
    let world = World::new();
    let driver = std::sync::Arc::new(world.driver());
    let mut request = script("echo mine > /workspace/x; while :; do sleep 0.2; done");
    request.resources.disk = Some(bytes("64Mi"));
    let made: Vec<_> = (0..20)
        .map(|_| {
            let (driver, request) = (std::sync::Arc::clone(&driver), request.clone());
            tokio::spawn(async move {
                let id = sandbox_id();
                let call = call(&driver, &request, &id).await;
                driver.create(&call).await.unwrap();
                driver.start(&call).await.unwrap();
                id
            })
        })
        .collect();
    let mut ids = Vec::new();
    for made in made {
        ids.push(within("a create", made).await.unwrap());
    }
    for id in &ids {
        assert_eq!(status(&driver, id).await, Some(ObservedStatus::Running));
    }
    assert_eq!(loops(&world).len(), 20, "each has a device of its own");
    for id in &ids {
        driver.delete(id).await.unwrap();
    }
    freed(&world, "the devices after their deletes").await;
    world.assert_no_traces();
}

/// Kills the monitor, and with it whatever it is making, at a moment of a create; the sandbox is then deleted.
async fn interrupted(world: &World, driver: &chiton_driver_oci::OciDriver, after: Duration) {
    let id = sandbox_id();
    let mut request = script("while :; do sleep 0.05; done");
    request.resources.disk = Some(bytes("16Mi"));
    let call = call(driver, &request, &id).await;
    let victim = {
        let (id, begin) = (id.clone(), Instant::now());
        std::thread::spawn(move || {
            let arguments = format!("monitor\0{id}\0");
            let found = || {
                fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
                    let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
                    let line = fs::read(entry.path().join("cmdline")).ok()?;
                    String::from_utf8_lossy(&line).ends_with(&arguments).then_some(pid)
                })
            };
            let monitor = loop {
                if let Some(pid) = found() {
                    break pid;
                }
                if begin.elapsed() > PATIENCE {
                    return;
                }
            };
            let begin = Instant::now();
            while begin.elapsed() < after {
                std::hint::spin_loop();
            }
            let _ = rustix::process::kill_process(
                rustix::process::Pid::from_raw(monitor).unwrap(),
                rustix::process::Signal::KILL,
            );
        })
    };
    let _ = driver.create(&call).await;
    let _ = driver.start(&call).await;
    victim.join().unwrap();
    driver.delete(&id).await.unwrap();
    // The kernel takes mounts of killed processes apart in its own time.
    freed(world, &format!("a device after a kill at {after:?}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_loop_device_is_left_whenever_its_makers_are_killed() {
    if !root("no_loop_device_is_left_whenever_its_makers_are_killed") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    for step in 0..40 {
        interrupted(&world, &driver, Duration::from_micros(step * 600)).await;
    }
    world.await_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_cannot_take_the_hosts_inotify_instances() {
    if !able("a_sandbox_cannot_take_the_hosts_inotify_instances") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let count = "import ctypes; c = ctypes.CDLL(None); print(sum(c.inotify_init1(0) >= 0 for _ in range(200)))";
    let (exit, text) = run(&driver, &request("host", &["python3", "-c", count])).await;
    assert_eq!(exit.code, Some(0), "{text}");
    assert_eq!(text.trim(), "24");
    world.assert_no_traces();
}
