//! Much data: files that are copied while something dies or has no room, output without end, logs within their limit.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use chiton_proto::v1 as wire;
use chiton_tests::crash::leftovers;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::damage::Disk;
use crate::harness::{Gateway, root};

/// Larger than any copy gets in the moment that these tests leave it, and without a byte on the disk.
const LARGE: u64 = 64 << 30;
/// What a flood is: a gigabyte.
const WRITTEN: u64 = 1_000_000_000;
/// Log files of 64 KiB.
const SMALL_LOGS: &str = "[compute.driver.oci]\nlog_bytes = 65536\n";

fn id(sandbox: &Value) -> &str {
    sandbox["id"].as_str().expect("an id")
}

fn large(path: &Path) {
    fs::File::create(path).expect("a file").set_len(LARGE).expect("a size");
}

/// A command line that goes on while the test does.
fn begin(gateway: &Gateway, arguments: &[&str]) -> Child {
    let mut command = gateway.plain_command(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program")
}

/// What is in a folder of the sandbox, hidden files too.
fn listed(gateway: &Gateway, folder: &str) -> String {
    gateway.shell("box", &format!("ls -A {folder}")).ok()
}

/// Waits until a folder of the sandbox is as wanted.
fn until_listed(gateway: &Gateway, test: &str) {
    gateway.shell("box", &format!("until {test}; do sleep 0.02; done")).ok();
}

/// Memory that a gateway holds, in KiB.
fn memory(gateway: &Gateway) -> u64 {
    let all = leftovers::pids(gateway.id(), gateway.folder());
    let (pid, _) = all.iter().find(|(_, what)| what.contains(" gateway --config ")).expect("the gateway");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn an_upload_that_breaks_off_anywhere_leaves_nothing_under_its_name() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::start("");
    let sandbox = gateway.json(&["sandbox", "create", "box"]);
    large(&gateway.path("large"));
    let copy = ["sandbox", "cp", "large", "box:/workspace/target"];

    for signal in [Signal::KILL, Signal::TERM] {
        let mut copying = begin(&gateway, &copy);
        until_listed(&gateway, "ls -A /workspace | grep -q chiton");
        kill_process(Pid::from_child(&copying), signal).expect("a signal");
        let code = copying.wait().expect("a status").code();
        assert_eq!(code, (signal == Signal::TERM).then_some(143));
        until_listed(&gateway, "[ -z \"$(ls -A /workspace)\" ]");
    }

    let copying = begin(&gateway, &copy);
    until_listed(&gateway, "ls -A /workspace | grep -q chiton");
    gateway.kill();
    let output = copying.wait_with_output().expect("an output");
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    gateway.begin();
    gateway.until_reached("box");
    until_listed(&gateway, "[ -z \"$(ls -A /workspace)\" ]");

    let copying = begin(&gateway, &copy);
    until_listed(&gateway, "ls -A /workspace | grep -q chiton");
    let agents = leftovers::pids(gateway.id(), gateway.folder());
    let (agent, _) = agents.iter().find(|(_, what)| what.contains("/run/chiton-agent agent")).expect("the agent");
    kill_process(Pid::from_raw(*agent).expect("a process id"), Signal::KILL).expect("a signal");
    assert_eq!(copying.wait_with_output().expect("an output").status.code(), Some(1));
    gateway.until(id(&sandbox), |sandbox| sandbox.is_some_and(|sandbox| sandbox.phase == "Completed"));
    gateway.chiton(&["sandbox", "start", "box"]).ok();
    assert_eq!(gateway.shell("box", "ls /workspace").ok(), "", "what an agent leaves that is killed is hidden");
}

#[test]
fn a_download_that_breaks_off_anywhere_leaves_nothing_under_its_name() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::start("");
    gateway.chiton(&["sandbox", "create", "box"]).ok();
    gateway.shell("box", &format!("mkdir -p /workspace/tree && truncate -s {LARGE} /workspace/tree/large")).ok();
    for (source, target) in [("box:/workspace/tree/large", "here/file"), ("box:/workspace/tree", "here/tree")] {
        let here = gateway.path("here");
        fs::create_dir_all(&here).expect("a folder");
        let begun = |gateway: &Gateway| {
            let end = Instant::now() + Duration::from_mins(1);
            while gateway.entries("here").is_empty() {
                assert!(Instant::now() < end, "no copy began");
                std::thread::yield_now();
            }
        };
        let copying = begin(&gateway, &["sandbox", "cp", source, target]);
        begun(&gateway);
        kill_process(Pid::from_child(&copying), Signal::INT).expect("a signal");
        assert_eq!(copying.wait_with_output().expect("an output").status.code(), Some(130));
        assert_eq!(gateway.entries("here"), Vec::<String>::new(), "an interrupted copy of {source} leaves nothing");

        let copying = begin(&gateway, &["sandbox", "cp", source, target]);
        begun(&gateway);
        gateway.kill();
        let output = copying.wait_with_output().expect("an output");
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(gateway.entries("here"), Vec::<String>::new(), "a failed copy of {source} leaves nothing");
        gateway.begin();
        gateway.until_reached("box");

        let mut copying = begin(&gateway, &["sandbox", "cp", source, target]);
        begun(&gateway);
        copying.kill().expect("a signal");
        copying.wait().expect("a status");
        let left = gateway.entries("here");
        assert!(left.iter().all(|name| name.starts_with(".chiton-cp-")), "nothing has the name: {left:?}");
        fs::remove_dir_all(&here).expect("removed");
    }
}

#[test]
fn without_room_a_copy_says_so_and_leaves_nothing() {
    if !root() {
        return;
    }
    let gateway = Gateway::start("");
    let disk = Disk::mount(gateway.path("data/drivers/oci/sandboxes"), "8m");
    gateway.chiton(&["sandbox", "create", "box"]).ok();
    fs::write(gateway.path("big"), vec![1; 16 << 20]).expect("a file");
    fs::create_dir(gateway.path("tree")).expect("a folder");
    fs::copy(gateway.path("big"), gateway.path("tree/big")).expect("a file");
    for source in ["big", "tree"] {
        let refused = gateway.chiton(&["sandbox", "cp", source, "box:/workspace/target"]).refused();
        assert!(refused.contains("No space left on device") && refused.contains("[exhausted]"), "{refused}");
        assert_eq!(gateway.shell("box", "find /workspace -type f").ok(), "", "of {source}");
    }
    gateway.chiton(&["sandbox", "delete", "box"]).ok();
    drop(disk);

    gateway.chiton(&["sandbox", "create", "box"]).ok();
    gateway.shell("box", "mkdir /workspace/tree; head -c 16M /dev/zero > /workspace/tree/big").ok();
    let disk = Disk::mount(gateway.path("small"), "8m");
    for source in ["box:/workspace/tree/big", "box:/workspace/tree"] {
        let refused = gateway.chiton(&["sandbox", "cp", source, "small/target"]).refused();
        assert!(refused.contains("No space left on device") && refused.contains("[exhausted]"), "{refused}");
        assert_eq!(gateway.entries("small"), Vec::<String>::new(), "of {source}");
    }
    drop(disk);
}

#[test]
fn a_copy_is_not_led_into_the_agent_and_many_small_files_arrive() {
    if !root() {
        return;
    }
    let gateway = Gateway::start("");
    gateway.chiton(&["sandbox", "create", "box"]).ok();
    for target in
        ["/proc/1/environ", "/proc/self/environ", "/proc/1/task/1/environ", "/proc/1/fd/0", "/proc/1/root/etc/passwd"]
    {
        gateway.shell("box", &format!("ln -sfn {target} /workspace/report")).ok();
        let refused = gateway.chiton(&["sandbox", "cp", "box:/workspace/report", "report"]).refused();
        assert!(refused.contains("[refused]") || refused.contains("[not_found]"), "{target}: {refused}");
        assert!(!gateway.path("report").exists(), "{target}");
    }
    gateway.shell("box", "ln -sfn /etc/passwd /workspace/report").ok();
    gateway.chiton(&["sandbox", "cp", "box:/workspace/report", "report"]).ok();
    assert!(fs::read_to_string(gateway.path("report")).expect("a file").contains("root"), "plain links are followed");

    for folder in 0..20 {
        fs::create_dir_all(gateway.path(&format!("many/{folder}"))).expect("a folder");
        for file in 0..100 {
            fs::write(gateway.path(&format!("many/{folder}/{file}")), format!("{folder}-{file}")).expect("a file");
        }
    }
    gateway.chiton(&["sandbox", "cp", "many", "box:/workspace"]).ok();
    assert_eq!(gateway.shell("box", "find /workspace/many -type f | wc -l").ok(), "2000\n");
    gateway.chiton(&["sandbox", "cp", "box:/workspace/many", "back"]).ok();
    let same = std::process::Command::new("diff").arg("-r").args([gateway.path("many"), gateway.path("back")]).status();
    assert!(same.expect("diff").success());
    assert_eq!(listed(&gateway, "/workspace"), "many\nreport\n");
}

#[test]
fn a_flood_of_output_stays_within_its_limit_and_what_is_missing_is_counted() {
    if !root() {
        return;
    }
    let gateway = Gateway::start(SMALL_LOGS);
    let script = format!("until [ -e /workspace/go ]; do sleep 0.02; done; head -c {WRITTEN} /dev/zero; exit 3");
    let sandbox = gateway.json(&["sandbox", "create", "box", "--", "sh", "-c", &script]);
    let before = memory(&gateway);
    let of_name = |follow| wire::GetLogsRequest {
        sandbox: Some(wire::SandboxSelector {
            workspace: String::new(),
            by: Some(wire::sandbox_selector::By::Id(id(&sandbox).to_owned())),
        }),
        follow,
        tail: None,
        since: None,
    };
    gateway.shell("box", "touch /workspace/go").ok();
    let (mut read, mut dropped, mut most) = (0, 0, before);
    gateway.ask(async |mut client| {
        let mut chunks = client.get_logs(of_name(true)).await.expect("logs").into_inner();
        while let Some(chunk) = chunks.message().await.expect("a chunk") {
            read += chunk.data.len() as u64;
            dropped += chunk.dropped;
            if read % 512 == 0 {
                most = most.max(memory(&gateway));
            }
        }
    });
    assert_eq!(read + dropped, WRITTEN, "every byte was read or is known to be missing: {read} and {dropped}");
    assert!(most < before + 48 * 1024, "the gateway grew from {before} to {most} KiB");
    gateway.until(id(&sandbox), |sandbox| sandbox.is_some_and(|sandbox| sandbox.phase == "Completed"));
    assert_eq!(gateway.get("box")["exit"]["code"], 3);
    let folder = gateway.path(&format!("data/drivers/oci/sandboxes/{}/log", id(&sandbox)));
    let sizes =
        fs::read_dir(folder).expect("the log").map(|file| file.expect("a file").metadata().expect("a size").len());
    let sizes: Vec<u64> = sizes.collect();
    assert!(sizes.len() == 2 && sizes.iter().all(|size| *size <= 65_536), "{sizes:?}");
    let shown = gateway.chiton(&["sandbox", "logs", "box", "--follow"]);
    assert_eq!(shown.code, 0, "following what has ended ends");
    assert!(shown.stderr.starts_with("chiton: 99") && shown.stderr.contains("bytes of output were not kept here"));
    assert_eq!(gateway.chiton(&["sandbox", "logs", "box", "--since", "2999-01-01T00:00:00Z"]).stdout, "");
}

#[test]
fn output_that_finds_no_room_is_dropped_counted_and_told() {
    if !root() {
        return;
    }
    let gateway = Gateway::start(SMALL_LOGS);
    let disk = Disk::mount(gateway.path("data/drivers/oci/sandboxes"), "8m");
    // More than a pipe holds: when all of it is written, some of it was read while there was no room.
    let script = "echo before; touch /workspace/up; until [ -e /tmp/full ]; do sleep 0.02; done; \
                  head -c 200000 /dev/zero; touch /tmp/written; until [ -e /tmp/free ]; do sleep 0.02; done; \
                  echo after; sleep 600";
    gateway.json(&["sandbox", "create", "box", "--", "sh", "-c", script]);
    gateway.shell("box", "until [ -e /workspace/up ]; do sleep 0.02; done").ok();
    let script = "head -c 20M /dev/zero > /workspace/fill; echo x > /workspace/y; true";
    gateway.shell("box", script).ok();
    gateway.shell("box", "touch /tmp/full; until [ -e /tmp/written ]; do sleep 0.02; done").ok();
    gateway.shell("box", "rm /workspace/fill; touch /tmp/free").ok();
    let mut command = gateway.plain_command(&["--json", "sandbox", "logs", "box", "--follow"]);
    let mut following = command.stdout(Stdio::piped()).spawn().expect("the program");
    let lines = std::io::BufRead::lines(std::io::BufReader::new(following.stdout.take().expect("its output")));
    let (mut zeros, mut dropped) = (0, 0);
    for line in lines {
        let line: Value = serde_json::from_str(&line.expect("text")).expect("JSON");
        dropped += line["dropped"].as_u64().unwrap_or(0);
        zeros += line["text"].as_str().unwrap_or_default().matches('\0').count();
        // What was written before it may be in one piece with it.
        if line["text"].as_str().is_some_and(|text| text.ends_with("after\n")) {
            break;
        }
    }
    following.kill().expect("a signal");
    following.wait().expect("a status");
    assert!(dropped > 0, "something found no room");
    assert_eq!(u64::try_from(zeros).expect("a number") + dropped, 200_000, "and all of that is known");
    let counted = |text: &str| text.contains(&format!("chiton_log_dropped_bytes_total{{driver=\"oci\"}} {dropped}\n"));
    gateway.until_said(1, "output of it could not be written and was dropped");
    let end = Instant::now() + Duration::from_mins(1);
    while !counted(&gateway.http("data/gateway.sock", "/metrics").1) {
        assert!(Instant::now() < end, "{dropped} dropped bytes are not in the metrics");
    }
    gateway.chiton(&["sandbox", "delete", "box"]).ok();
    drop(disk);
}

#[test]
fn an_exec_whose_reader_does_not_read_stalls_nothing_but_itself() {
    if !root() {
        return;
    }
    let gateway = Gateway::start("");
    gateway.chiton(&["sandbox", "create", "box"]).ok();
    let before = memory(&gateway);
    let yes = ["sandbox", "exec", "box", "--", "sh", "-c", "exec yes"];
    let mut stalled: Vec<Child> = (0..8).map(|_| begin(&gateway, &yes)).collect();
    // And programs that do not read what they are given.
    for _ in 0..4 {
        let zeros = std::fs::File::open("/dev/zero").expect("zeros");
        let mut command = gateway.plain_command(&["sandbox", "exec", "-i", "box", "--", "sleep", "600"]);
        stalled.push(command.stdin(zeros).stdout(Stdio::null()).spawn().expect("the program"));
    }
    // Each has written all that fits anywhere when it is not given processor time any more.
    let script = "until [ \"$(pgrep -cx yes)\" = 8 ]; do sleep 0.02; done; \
                  for pid in $(pgrep -x yes); do before=-1; now=0; while [ $before != $now ]; do before=$now; sleep 0.3; \
                  now=$(cut -d' ' -f14,15 /proc/$pid/stat | tr -d ' '); done; done; pgrep -cx yes";
    assert_eq!(gateway.shell("box", script).ok(), "8\n", "they wait, and none was ended");
    for number in 0..50 {
        assert_eq!(gateway.shell("box", &format!("echo {number}")).ok(), format!("{number}\n"));
    }
    let after = memory(&gateway);
    assert!(after < before + 48 * 1024, "the gateway grew from {before} to {after} KiB");
    for mut child in stalled {
        child.kill().expect("a signal");
        child.wait().expect("a status");
    }
    until_listed(&gateway, "! pgrep -x yes");
    assert_eq!(gateway.json(&["obligations", "list"]), json!([]));
}
