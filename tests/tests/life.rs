//! A sandbox's life through the command line.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use chiton_tests::{Gateway, root_or_skip};

const PROGRAM: &str = env!("CARGO_BIN_EXE_chiton-test");
const PLAIN: &str = "[log]\nlevel = \"error\"\n";

#[test]
fn a_sandbox_is_created_used_stopped_started_and_deleted() {
    if !root_or_skip("a_sandbox_is_created_used_stopped_started_and_deleted") {
        return;
    }
    let gateway = Gateway::start(PROGRAM, PLAIN);
    let created = gateway.chiton(&["sandbox", "create", "life", "--env", "COLOR=blue", "--json"]).ok().json();
    assert_eq!(created["phase"], "Ready");

    let exec = |arguments: &[&str]| gateway.chiton(&[&["sandbox", "exec", "life", "--"], arguments].concat());
    assert_eq!(exec(&["true"]).code, 0);
    assert_eq!(exec(&["sh", "-c", "exit 3"]).code, 3);
    assert_eq!(exec(&["/no/such/program"]).code, 127);
    assert_eq!(exec(&["/etc"]).code, 126);
    assert_eq!(exec(&["sh", "-c", "kill -9 $$"]).code, 137);
    let said = exec(&["sh", "-c", "echo $COLOR; echo oops >&2"]);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("blue\n", "oops\n"));
    let timed = gateway.chiton(&["sandbox", "exec", "--timeout", "200ms", "life", "--", "sleep", "60"]);
    assert_eq!(timed.code, 137, "{timed:?}");
    assert!(timed.err.contains("ended by --timeout"), "{timed:?}");

    let mut child = gateway
        .command(&["sandbox", "exec", "-i", "life", "--", "wc", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    child.stdin.take().expect("piped").write_all(&vec![b'x'; 300_000]).expect("written");
    let counted = child.wait_with_output().expect("ends");
    assert_eq!(String::from_utf8_lossy(&counted.stdout).trim(), "300000");

    let tree = gateway.folder().join("tree");
    fs::create_dir_all(tree.join("inner")).expect("a folder");
    fs::write(tree.join("inner/file"), "in and out").expect("a file");
    gateway.chiton(&["sandbox", "cp", &tree.to_string_lossy(), "life:/workspace/tree"]).ok();
    assert_eq!(exec(&["cat", "/workspace/tree/inner/file"]).out, "in and out");
    let back = gateway.folder().join("back");
    gateway.chiton(&["sandbox", "cp", "life:/workspace/tree", &back.to_string_lossy()]).ok();
    assert_eq!(fs::read_to_string(back.join("inner/file")).expect("copied"), "in and out");
    let one = gateway.folder().join("one");
    gateway.chiton(&["sandbox", "cp", "life:/workspace/tree/inner/file", &one.to_string_lossy()]).ok();
    assert_eq!(fs::read_to_string(&one).expect("copied"), "in and out");

    gateway.chiton(&["sandbox", "stop", "life"]).ok();
    assert_eq!(gateway.chiton(&["sandbox", "get", "life", "--json"]).ok().json()["phase"], "Stopped");
    let refused = exec(&["true"]);
    assert_eq!(refused.code, 125);
    assert!(refused.err.contains("is Stopped, not Ready"), "{refused:?}");
    gateway.chiton(&["sandbox", "start", "life"]).ok();
    assert_eq!(exec(&["cat", "/workspace/tree/inner/file"]).out, "in and out");
    gateway.chiton(&["sandbox", "delete", "life"]).ok();
    assert_eq!(gateway.sandboxes().len(), 0);
    assert_eq!(gateway.chiton(&["sandbox", "get", "life"]).code, 1);
}

#[test]
fn a_main_process_that_ends_leaves_its_code_its_output_and_its_files() {
    if !root_or_skip("a_main_process_that_ends_leaves_its_code_its_output_and_its_files") {
        return;
    }
    let gateway = Gateway::start(PROGRAM, PLAIN);
    gateway.chiton(&["sandbox", "create", "job", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]).ok();
    let ended = wait_for_phase(&gateway, "job", "Completed");
    assert_eq!(ended["exit"]["code"], 3);
    let logs = gateway.chiton(&["sandbox", "logs", "job"]).ok();
    assert_eq!((logs.out.as_str(), logs.err.as_str()), ("out\n", "err\n"));
    gateway.chiton(&["sandbox", "start", "job"]).ok();
    assert_eq!(wait_for_phase(&gateway, "job", "Completed")["exit"]["code"], 3);
}

#[test]
fn sandboxes_outlive_the_gateway_and_exits_that_nobody_saw_are_known_afterwards() {
    if !root_or_skip("sandboxes_outlive_the_gateway_and_exits_that_nobody_saw_are_known_afterwards") {
        return;
    }
    let mut gateway = Gateway::start(PROGRAM, PLAIN);
    gateway.chiton(&["sandbox", "create", "stays"]).ok();
    gateway
        .chiton(&[
            "sandbox",
            "create",
            "ends",
            "--",
            "sh",
            "-c",
            "while [ ! -e /workspace/go ]; do sleep 0.05; done; exit 7",
        ])
        .ok();
    gateway.chiton(&["sandbox", "exec", "stays", "--", "sh", "-c", "echo kept > /workspace/file"]).ok();
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::KILL] {
        gateway.end(signal);
        gateway.run();
        assert_eq!(exec_when_connected(&gateway, "stays", &["cat", "/workspace/file"]).out, "kept\n");
        exec_when_connected(&gateway, "ends", &["true"]);
    }
    // It ends while no gateway runs, as soon as the file is there.
    gateway
        .chiton(&["sandbox", "exec", "ends", "--", "sh", "-c", "(sleep 0.5; touch /workspace/go) >/dev/null 2>&1 &"])
        .ok();
    gateway.kill();
    let id_gone = || {
        let listing = fs::read_dir("/proc").expect("/proc");
        !listing
            .flatten()
            .any(|entry| fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default().contains("/workspace/go"))
    };
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !id_gone() {
        assert!(std::time::Instant::now() < until, "the main process does not end");
    }
    gateway.run();
    assert_eq!(wait_for_phase(&gateway, "ends", "Completed")["exit"]["code"], 7);
}

/// Runs a command as soon as the agent has dialled again, which it does by itself.
fn exec_when_connected(gateway: &Gateway, name: &str, arguments: &[&str]) -> chiton_tests::Output {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let answer = gateway.chiton(&[&["sandbox", "exec", name, "--"], arguments].concat());
        if answer.code != 125 || std::time::Instant::now() > until {
            return answer.ok();
        }
    }
}

fn wait_for_phase(gateway: &Gateway, name: &str, phase: &str) -> serde_json::Value {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let sandbox = gateway.chiton(&["sandbox", "get", name, "--json"]).ok().json();
        if sandbox["phase"] == phase {
            return sandbox;
        }
        assert!(std::time::Instant::now() < until, "{name} is {}, not {phase}", sandbox["phase"]);
    }
}
