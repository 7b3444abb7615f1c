//! Taking what others need.

use std::process::Stdio;
use std::time::Duration;

use super::{PROGRAM, Scene, control};
use crate::harness::root;
use crate::harness::user::By;

#[test]
fn a_fork_bomb_ends_at_its_limit_and_neither_neighbour_nor_gateway_feel_it() {
    if !root() {
        return;
    }
    let scene = Scene::alone(By::Root, &["--pids", "64", "--cpu", "500m"]);
    let before = scene.latency();
    scene.refused(&[("fork-bomb=2000", "EAGAIN")]);
    // Its processes live; now they and their children all want more, without a pause.
    let storm = format!("{PROGRAM} fork-storm");
    let mut command = scene.gateway.plain_command(&["sandbox", "exec", "box", "--", "sh", "-c", &storm]);
    let mut call =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program");
    let bound = before * 8 + Duration::from_millis(250);
    // The storm goes on, whatever else goes on for a moment on this machine.
    let during: Vec<Duration> = std::iter::repeat_with(|| scene.latency()).take(3).collect();
    assert!(during.iter().any(|during| *during <= bound), "a neighbour waits: {before:?} -> {during:?}");
    scene.unharmed();
    // Whoever owns it can end it.
    scene.gateway.chiton(&["sandbox", "delete", "box"]).ok();
    call.wait().expect("a status");
    scene.unharmed();
    control::succeed(&["fork-bomb=200"]);
}

#[test]
fn the_kernels_own_file_systems_fill_up_at_their_sizes() {
    if !root() {
        return;
    }
    let scene = Scene::with(By::Root, &["--memory", "512Mi"]);
    scene.refused(&[("fill=/dev/shm/fill,100", "ENOSPC"), ("fill=/dev/fill,100", "ENOSPC|EACCES|EPERM|EROFS")]);
    scene.gateway.shell("box", "rm -f /dev/shm/fill /dev/fill").ok();
    control::succeed(&["fill=/dev/shm/chiton-e2e-control,100"]);
    std::fs::remove_file("/dev/shm/chiton-e2e-control").expect("the control's file");
}

#[test]
fn a_full_disk_is_the_sandboxs_own() {
    if !root() {
        return;
    }
    let scene = Scene::with(By::Root, &["--disk", "128Mi", "--inodes", "2000"]);
    scene.refused(&[("fill=/workspace/fill,400", "ENOSPC|EDQUOT")]);
    scene.gateway.shell("box", "rm /workspace/fill").ok();
    scene.refused(&[("fill-files=/workspace/many,5000", "ENOSPC|EDQUOT")]);
    // It goes on, and can be used again with room.
    assert_eq!(
        scene.gateway.shell("box", "rm -r /workspace/many; echo words > /tmp/file; cat /tmp/file").ok(),
        "words\n"
    );
    control::succeed(&["fill=/var/tmp/chiton-e2e-control,160"]);
    std::fs::remove_file("/var/tmp/chiton-e2e-control").expect("the control's file");
}

fn a_process_cannot_open_files_without_end(by: By) {
    let scene = Scene::new(by);
    scene.refused(&[("open-files=200000", "EMFILE")]);
    control::succeed(&["open-files=200"]);
}

#[test]
fn memory_beyond_the_limit_ends_the_taker_and_nobody_else() {
    if !root() {
        return;
    }
    let scene = Scene::with(By::Root, &["--memory", "128Mi"]);
    let said = &scene.attack(&["take-memory=512"])["take-memory=512"];
    assert!(said.starts_with("killed 9") || said.starts_with("refused ENOMEM"), "{said}");
    scene.unharmed();
    control::succeed(&["take-memory=160"]);
}

by_both!(a_process_cannot_open_files_without_end,);
