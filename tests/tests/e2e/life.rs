//! What a user does with a sandbox, from create to delete.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use chiton_tests::crash::leftovers;
use serde_json::{Value, json};

use crate::harness::terminal::Terminal;
use crate::harness::{Gateway, Output, root};

/// Extensions that ship, and the one that notes what it was called for.
pub(crate) const CHAIN: &str = r#"
[compute]
extensions = ["fleet-labels", "fault", "address-lease"]
[compute.extension."fleet-labels"]
labels = { fleet = "test" }
[compute.extension."fault"]
folder = "{folder}"
[compute.extension."address-lease"]
range = "10.88.0.2-10.88.0.254"
folder = "{folder}/leases"
"#;

/// What a whole life calls the fault extension for.
const CREATED: [&str; 4] = ["before_create", "after_create", "before_start", "after_ready"];

/// Waits in a sandbox until its main process has got that far.
const BEGUN: &str = "until [ -e /workspace/begun ]; do sleep 0.01; done";

#[track_caller]
fn id(sandbox: &Value) -> &str {
    sandbox["id"].as_str().expect("an id")
}

/// The log of the box once it has so many lines: what a process has written is on its way to it for a while.
#[track_caller]
fn logged(gateway: &Gateway, lines: usize) -> Output {
    let end = Instant::now() + Duration::from_mins(1);
    loop {
        let logs = gateway.chiton(&["sandbox", "logs", "box"]);
        if logs.stdout.lines().count() + logs.stderr.lines().count() >= lines {
            return logs;
        }
        assert!(Instant::now() < end, "there are not {lines} lines: {logs:#?}");
    }
}

#[test]
fn exec_gives_codes_streams_and_surroundings() {
    if !root() {
        return;
    }
    let gateway = Gateway::start(CHAIN);
    let created = ["sandbox", "create", "box", "--env", "GREETING=hello", "--memory", "128Mi", "--pids", "64"];
    assert_eq!(gateway.chiton(&created).ok(), "box\n");
    let sandbox = gateway.get("box");

    for code in [0, 3, 255] {
        assert_eq!(gateway.shell("box", &format!("exit {code}")).code, code);
    }
    assert_eq!(gateway.shell("box", "kill -9 $$").code, 137, "ended by a signal");
    let exec = |arguments: &[&str]| gateway.chiton(&[&["sandbox", "exec", "box"], arguments].concat());
    let missing = exec(&["--", "no-such-program"]);
    assert_eq!((missing.code, missing.stdout.as_str()), (127, ""));
    insta::assert_snapshot!(missing.stderr, @r#"error: "no-such-program" was not found in the sandbox; check its path or PATH [not_found]"#);
    let folder = exec(&["--", "/usr/bin"]);
    assert_eq!((folder.code, folder.stdout.as_str()), (126, ""));
    insta::assert_snapshot!(folder.stderr, @r#"error: "/usr/bin" cannot be executed: Permission denied (os error 13) [invalid]"#);
    let late = exec(&["--timeout", "200ms", "--", "sleep", "600"]);
    assert_eq!(late.code, 124);
    insta::assert_snapshot!(late.stderr, @r#"error: the command was ended by --timeout [deadline]"#);

    let both = gateway.shell("box", "echo out; echo err >&2");
    assert_eq!((both.code, both.stdout.as_str(), both.stderr.as_str()), (0, "out\n", "err\n"));
    let fed = gateway.chiton_with(&["sandbox", "exec", "-i", "box", "--", "sha256sum"], &vec![b'x'; 3_000_000]);
    assert_eq!(fed.ok(), "e55b8bdf621ddaa8f462c74745db9680d3bb7536a9cf854f8d6668b34a287890  -\n");
    let unfed = gateway.chiton_with(&["sandbox", "exec", "box", "--", "cat"], b"nobody reads this");
    assert_eq!(unfed.ok(), "", "without -i standard input is empty");

    let surroundings =
        ["--env", "OWN=1", "--workdir", "/tmp", "--", "sh", "-c", "echo $GREETING $OWN $(pwd) $FAULT_TICKET"];
    assert_eq!(exec(&surroundings).ok(), format!("hello 1 /tmp ticket-{}\n", id(&sandbox)));
    assert_eq!(sandbox["slots"]["fault.ticket"], format!("ticket-{}", id(&sandbox)));
}

#[test]
fn a_terminal_feels_like_one() {
    if !root() {
        return;
    }
    let gateway = Gateway::start("");
    gateway.chiton(&["sandbox", "create", "box"]).ok();
    // A resize and what is typed are two streams: which of them is first is no matter.
    let script = "stty size; tty | grep -c pts; read line; until [ \"$(stty size)\" = '50 120' ]; do sleep 0.05; done; \
                  stty size; echo got $line; exit 5";
    let command = gateway.plain_command(&["sandbox", "exec", "-t", "box", "--", "sh", "-c", script]);
    let mut terminal = Terminal::run(command, 40, 100);
    terminal.until("40 100\r\n1\r\n");
    terminal.resize(50, 120);
    terminal.type_in("typed\r");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(5));
    assert!(shown.ends_with("typed\r\n50 120\r\ngot typed\r\n"), "{shown:?}");
    let refused = gateway.chiton(&["sandbox", "exec", "-t", "box", "--", "true"]);
    assert_eq!(refused.code, 125);
    insta::assert_snapshot!(refused.stderr, @r#"
    error: standard input is not a terminal [invalid]
      cure: leave -t out, or run it from a terminal
    "#);
}

#[test]
fn files_and_folders_go_in_and_out_as_they_were() {
    if !root() {
        return;
    }
    let gateway = Gateway::start("");
    gateway.chiton(&["sandbox", "create", "box"]).ok();
    let here = |name: &str| gateway.path(name);
    let big: Vec<u8> = (0..5_000_000_u32).flat_map(u32::to_le_bytes).take(5_000_000).collect();
    fs::create_dir_all(here("tree/inner")).expect("a folder");
    fs::write(here("tree/inner/big"), &big).expect("a file");
    fs::write(here("tree/run.sh"), "#!/bin/sh\necho ran\n").expect("a file");
    fs::set_permissions(here("tree/run.sh"), fs::Permissions::from_mode(0o750)).expect("a mode");
    fs::write(here("tree/empty"), "").expect("a file");
    std::os::unix::fs::symlink("run.sh", here("tree/link")).expect("a link");

    gateway.chiton(&["sandbox", "cp", "tree/run.sh", "box:/workspace/one.sh"]).ok();
    assert_eq!(gateway.shell("box", "/workspace/one.sh; stat -c %a /workspace/one.sh").ok(), "ran\n750\n");
    gateway.chiton(&["sandbox", "cp", "tree/run.sh", "box:/workspace"]).ok();
    assert_eq!(gateway.shell("box", "/workspace/run.sh").ok(), "ran\n", "into a folder that is there");
    gateway.chiton(&["sandbox", "cp", "tree", "box:/workspace/tree"]).ok();
    assert_eq!(
        gateway.shell("box", "cd /workspace/tree && ls -A . inner && readlink link && stat -c %s inner/big empty").ok(),
        ".:\nempty\ninner\nlink\nrun.sh\n\ninner:\nbig\nrun.sh\n5000000\n0\n"
    );

    gateway.chiton(&["sandbox", "cp", "box:/workspace/tree", "back"]).ok();
    assert_eq!(fs::read(here("back/inner/big")).expect("a file"), big);
    assert_eq!(fs::read_link(here("back/link")).expect("a link").to_str(), Some("run.sh"));
    assert_eq!(fs::metadata(here("back/run.sh")).expect("a file").permissions().mode() & 0o777, 0o750);
    gateway.chiton(&["sandbox", "cp", "box:/workspace/tree/inner/big", "big"]).ok();
    assert_eq!(fs::read(here("big")).expect("a file"), big);
}

#[test]
fn a_whole_life_keeps_files_and_owes_nothing() {
    if !root() {
        return;
    }
    let gateway = Gateway::start(CHAIN);
    let script = "echo begun; echo oops >&2; touch /workspace/begun; exec sleep 600";
    let created = gateway.json(&["sandbox", "create", "box", "--label", "team=red", "--", "sh", "-c", script]);
    let id = id(&created).to_owned();
    assert_eq!(created["phase"], "Ready");
    assert_eq!(created["labels"], json!({ "team": "red" }));
    let mut held = CREATED.map(|phase| format!("{id}.{phase}")).to_vec();
    held.push("default.ensure_workspace".to_owned());
    held.sort();
    assert_eq!(gateway.entries("effects"), held);
    assert_eq!(gateway.entries("leases").len(), 1);

    gateway.shell("box", BEGUN).ok();
    let logs = logged(&gateway, 2);
    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("begun\n", "oops\n"));
    gateway.shell("box", "rm /workspace/begun; echo kept > /workspace/note; echo also > /tmp/note").ok();

    assert_eq!(gateway.chiton(&["sandbox", "stop", "box"]).ok(), "box Stopped\n");
    let exit = &gateway.get("box")["exit"];
    assert!(exit["code"].is_i64(), "how its process ended is kept: {exit}");
    assert_eq!(gateway.get("box")["phase"], "Stopped");
    let listed = gateway.json(&["sandbox", "list", "--label", "team=red"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    assert_eq!(gateway.json(&["sandbox", "list", "--label", "team=blue"]), json!([]));
    assert_eq!(gateway.chiton(&["sandbox", "start", "box"]).ok(), "box Ready\n");
    assert_eq!(gateway.shell("box", "cat /workspace/note /tmp/note").ok(), "kept\nalso\n", "files are kept");
    let lines = |logs: Output| (logs.stdout + &logs.stderr).lines().count();
    gateway.shell("box", BEGUN).ok();
    let all = logged(&gateway, 4);
    let last = gateway.chiton(&["sandbox", "logs", "box", "--tail", "1"]);
    assert_eq!((lines(all), lines(last)), (4, 1), "of both runs");

    assert_eq!(gateway.chiton(&["sandbox", "delete", "box"]).ok(), "box Deleted\n");
    assert_eq!(gateway.json(&["sandbox", "list", "--all"]), json!([]));
    assert_eq!(
        gateway.phases(&id),
        [
            "before_create",
            "after_create",
            "before_start",
            "after_ready",
            "approve_stop",
            "before_stop",
            "after_stop/completed",
            "before_start",
            "after_ready",
            "before_stop",
            "after_stop/completed",
            "before_delete",
            "after_delete/completed",
        ]
    );
    assert_eq!((gateway.entries("leases"), gateway.entries("effects").len()), (vec![], 1), "the workspace's is left");
}

#[test]
fn a_main_process_that_ends_completes_its_sandbox_and_starts_again() {
    if !root() {
        return;
    }
    let gateway = Gateway::start(CHAIN);
    let script =
        "echo x >> /workspace/runs; while ! [ -e /workspace/go ]; do sleep 0.02; done; rm /workspace/go; exit 3";
    let sandbox = gateway.json(&["sandbox", "create", "job", "--", "sh", "-c", script]);
    let completed = |gateway: &Gateway| {
        gateway.shell("job", "touch /workspace/go");
        gateway.until(id(&sandbox), |sandbox| sandbox.is_some_and(|sandbox| sandbox.phase == "Completed"));
        let after = gateway.get("job");
        assert_eq!((&after["exit"]["code"], &after["exit"]["reason"]), (&json!(3), &json!("Exited")));
    };
    completed(&gateway);
    gateway.chiton(&["sandbox", "start", "job"]).ok();
    assert_eq!(gateway.get("job")["exit"], Value::Null, "a new run has not ended");
    // Ready is before the main process's first word.
    let runs = "until [ \"$(wc -l < /workspace/runs)\" -ge 2 ]; do sleep 0.01; done; cat /workspace/runs";
    assert_eq!(gateway.shell("job", runs).ok(), "x\nx\n");
    completed(&gateway);
    let phases = gateway.phases(id(&sandbox));
    assert_eq!(phases.iter().filter(|phase| *phase == "after_stop/completed").count(), 2, "{phases:?}");
}

#[test]
fn a_sandbox_outlives_its_gateway() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::start(CHAIN);
    gateway.chiton(&["sandbox", "create", "box"]).ok();
    gateway.shell("box", "sleep 600 & echo $! > /workspace/pid").ok();
    let phases = gateway.phases(id(&gateway.get("box")));
    for crash in [false, true, true] {
        if crash {
            gateway.kill();
        } else {
            gateway.terminate();
        }
        gateway.begin();
        gateway.until(id(&gateway.get("box")), |sandbox| sandbox.is_some_and(|sandbox| sandbox.phase == "Ready"));
        gateway.until_reached("box");
        let same = gateway.shell("box", "kill -0 $(cat /workspace/pid) && echo alive");
        assert_eq!(same.ok(), "alive\n", "its processes are the same ones");
    }
    assert_eq!(gateway.phases(id(&gateway.get("box"))), phases, "nothing was called again");
}

#[test]
fn an_exit_that_no_gateway_saw_is_known_afterwards() {
    if !root() {
        return;
    }
    let mut gateway = Gateway::start(CHAIN);
    let script = "echo begun; touch /workspace/begun; sleep 424242; echo ended; exit 7";
    let sandbox = gateway.json(&["sandbox", "create", "job", "--", "sh", "-c", script]);
    gateway.shell("job", &format!("{BEGUN}; until pgrep -fx 'sleep 424242' > /dev/null; do :; done")).ok();
    gateway.kill();
    let sleeping = leftovers::pids(gateway.id(), gateway.folder());
    let (pid, _) = sleeping.iter().find(|(_, what)| what.ends_with(": sleep 424242")).expect("its child");
    let pid = rustix::process::Pid::from_raw(*pid).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    gateway.until_sandboxes_ended();
    gateway.begin();
    gateway.until(id(&sandbox), |sandbox| sandbox.is_some_and(|sandbox| sandbox.phase == "Completed"));
    let after = gateway.get("job");
    assert_eq!((&after["exit"]["code"], &after["exit"]["reason"]), (&json!(7), &json!("Exited")));
    assert_eq!(gateway.chiton(&["sandbox", "logs", "job"]).stdout, "begun\nended\n");
}

#[test]
fn a_watch_tells_every_change_and_json_and_table_agree() {
    if !root() {
        return;
    }
    let gateway = Gateway::start(CHAIN);
    let cured = gateway.path("cured");
    let mut command = gateway.plain_command(&["--json", "sandbox", "watch"]);
    let mut watch = command.stdout(std::process::Stdio::piped()).spawn().expect("the program");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(watch.stdout.take().expect("its output")));
    let mut next = || -> Value { serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON") };
    assert_eq!((next()["event"].clone(), next()["event"].clone()), (json!("reset"), json!("snapshot_end")));

    // A watch tells how things are when it gets to it: each phase lasts until it was told.
    let held = ["--label", "fault/after_create=hold", "--label", "fault/before_delete=hold"];
    let created = gateway.json(&[&["sandbox", "create", "box", "--no-wait"], &held[..]].concat());
    let mut phases = Vec::new();
    loop {
        let event = next();
        if event["event"] == "removed" {
            assert_eq!(event["id"], created["id"]);
            break;
        }
        let phase = event["sandbox"]["phase"].as_str().expect("a phase").to_owned();
        if phases.last() == Some(&phase) {
            continue;
        }
        match phase.as_str() {
            "Provisioning" | "Deleting" => fs::write(&cured, "").expect("a file"),
            "Ready" => {
                fs::remove_file(&cured).expect("it was told before");
                gateway.chiton(&["sandbox", "delete", "box", "--no-wait"]).ok();
            }
            _ => {}
        }
        phases.push(phase);
    }
    watch.kill().expect("a signal");
    watch.wait().expect("a status");
    assert_eq!(phases, ["Provisioning", "Ready", "Deleting"]);
}

#[test]
fn exec_and_copy_find_a_sandbox_by_its_id() {
    if !root() {
        return;
    }
    let gateway = Gateway::start("");
    gateway.chiton(&["sandbox", "create", "box"]).ok();
    let sandbox = gateway.get("box");
    let id = id(&sandbox);
    fs::write(gateway.path("file"), "content").expect("a file");
    gateway.chiton(&["sandbox", "cp", "--id", "file", &format!("{id}:/tmp/file")]).ok();
    assert_eq!(gateway.chiton(&["sandbox", "exec", "--id", id, "--", "cat", "/tmp/file"]).ok(), "content");
    gateway.chiton(&["sandbox", "cp", "--id", &format!("{id}:/tmp/file"), "back"]).ok();
    assert_eq!(fs::read_to_string(gateway.path("back")).expect("a file"), "content");
    // A name is no id, and an id is no name.
    assert_eq!(gateway.chiton(&["sandbox", "exec", "--id", "box", "--", "true"]).code, 125);
    assert_eq!(gateway.chiton(&["sandbox", "exec", id, "--", "true"]).code, 125);
}
