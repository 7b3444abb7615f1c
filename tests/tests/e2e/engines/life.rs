//! What a user does with a sandbox on an engine, from create to delete.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use chiton_tests::engines::Engine;
use serde_json::json;

use super::{Scene, id, on_each};
use crate::harness::terminal::Terminal;

on_each!(commands_and_copies, a_life_from_plan_to_delete, a_main_process_that_ends_completes_its_sandbox);

/// Waits in a sandbox until its main process has got that far.
const BEGUN: &str = "until [ -e /tmp/begun ]; do sleep 0.01; done";

fn commands_and_copies(engine: &Engine) {
    let gateway = Scene::new(engine, "", "");
    let created = ["sandbox", "create", "box", "--env", "GREETING=hello", "--memory", "128Mi", "--pids", "64"];
    assert_eq!(gateway.chiton(&created).ok(), "box\n");
    for code in [0, 3, 255] {
        assert_eq!(gateway.shell("box", &format!("exit {code}")).code, code);
    }
    assert_eq!(gateway.shell("box", "kill -9 $$").code, 137, "ended by a signal");
    let exec = |arguments: &[&str]| gateway.chiton(&[&["sandbox", "exec", "box"], arguments].concat());
    assert_eq!(exec(&["--", "no-such-program"]).code, 127);
    assert_eq!(exec(&["--timeout", "200ms", "--", "sleep", "600"]).code, 124);
    let both = gateway.shell("box", "echo out; echo err >&2");
    assert_eq!((both.code, both.stdout.as_str(), both.stderr.as_str()), (0, "out\n", "err\n"));
    let fed = gateway.chiton_with(&["sandbox", "exec", "-i", "box", "--", "sha256sum"], &vec![b'x'; 3_000_000]);
    assert_eq!(fed.ok(), "e55b8bdf621ddaa8f462c74745db9680d3bb7536a9cf854f8d6668b34a287890  -\n");
    let script = "echo $GREETING $OWN $(pwd)";
    assert_eq!(exec(&["--env", "OWN=1", "--workdir", "/tmp", "--", "sh", "-c", script]).ok(), "hello 1 /tmp\n");
    // The limits are the kernel's.
    let limits = &engine.container(id(&gateway.get("box"))).expect("a container")["HostConfig"];
    assert_eq!((&limits["Memory"], &limits["PidsLimit"]), (&json!(128 << 20), &json!(64)), "{limits:#}");

    // A resize and what is typed are two streams: which of them is first is no matter.
    let script = "stty size; read line; until [ \"$(stty size)\" = '50 120' ]; do sleep 0.05; done; \
                  stty size; echo got $line; exit 5";
    let command = gateway.plain_command(&["sandbox", "exec", "-it", "box", "--", "sh", "-c", script]);
    let mut terminal = Terminal::run(command, 40, 100);
    terminal.until("40 100\r\n");
    terminal.resize(50, 120);
    terminal.type_in("typed\r");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(5));
    assert!(shown.ends_with("typed\r\n50 120\r\ngot typed\r\n"), "{shown:?}");

    let here = |name: &str| gateway.path(name);
    let big: Vec<u8> = (0..500_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::create_dir_all(here("tree/inner")).expect("a folder");
    fs::write(here("tree/inner/big"), &big).expect("a file");
    fs::write(here("tree/run.sh"), "#!/bin/sh\necho ran\n").expect("a file");
    std::os::unix::fs::symlink("run.sh", here("tree/link")).expect("a link");
    gateway.chiton(&["sandbox", "cp", "tree", "box:/tmp/tree"]).ok();
    assert_eq!(gateway.shell("box", "cd /tmp/tree && sh run.sh && readlink link").ok(), "ran\nrun.sh\n");
    gateway.chiton(&["sandbox", "cp", "box:/tmp/tree", "back"]).ok();
    assert_eq!(fs::read(here("back/inner/big")).expect("a file"), big);
    assert_eq!(fs::read_link(here("back/link")).expect("a link").to_str(), Some("run.sh"));
    gateway.chiton(&["sandbox", "cp", "box:/tmp/tree/inner/big", "big"]).ok();
    assert_eq!(fs::read(here("big")).expect("a file"), big);
}

fn a_life_from_plan_to_delete(engine: &Engine) {
    let gateway = Scene::new(engine, "", "");
    let script = "echo begun; echo oops >&2; touch /tmp/begun; trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let request =
        ["box", "--label", "team=red", "--network", "bridge", "--volume", "work:/data", "--", "sh", "-c", script];
    let planned = gateway.json(&[&["plan"], &request[..]].concat());
    let digest = planned["digest"].as_str().expect("a digest").to_owned();
    assert_eq!(gateway.json(&["sandbox", "list", "--all"]), json!([]), "a plan stores nothing");
    assert_eq!(engine.left(gateway.id()), [""; 0], "a plan makes nothing");
    let create = |digest: &str| {
        let options = ["sandbox", "create", "--expect-plan", digest];
        gateway.chiton(&[&options[..], &request[..]].concat())
    };
    let refused = create(&format!("sha256:{}", "0".repeat(64))).refused();
    assert!(refused.contains("the plan's digest is"), "{refused}");
    create(&digest).ok();
    let sandbox = gateway.get("box");
    let id = id(&sandbox).to_owned();
    assert_eq!((&sandbox["phase"], &sandbox["plan_digest"]), (&json!("Ready"), &json!(digest)));
    let explained = gateway.json(&["explain", "box"]);
    let values = explained["values"].as_array().unwrap_or_else(|| explained.as_array().expect("values"));
    let value = values.iter().find(|value| value["path"] == "/labels/team").expect("the label");
    assert_eq!((&value["value"], &value["writer"]), (&json!("red"), &json!("request")));
    assert_eq!(gateway.json(&[&["plan"], &request[..]].concat())["digest"], digest.as_str(), "after as before");

    gateway.shell("box", BEGUN).ok();
    let mut logs = gateway.plain_command(&["sandbox", "logs", "--follow", "box"]);
    let mut logs = logs.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program");
    let mut followed = BufReader::new(logs.stdout.take().expect("its output"));
    let mut line = String::new();
    followed.read_line(&mut line).expect("a line");
    assert_eq!(line, "begun\n");
    gateway.shell("box", "rm /tmp/begun; echo kept > /tmp/note; echo kept > /data/note").ok();
    assert_eq!(gateway.chiton(&["sandbox", "stop", "box"]).ok(), "box Stopped\n");
    line.clear();
    assert_eq!(followed.read_line(&mut line).expect("an end"), 0, "it ends with the sandbox: {line:?}");
    assert!(logs.wait().expect("a status").success());
    assert!(!engine.runs(&id) && engine.container(&id).is_some(), "stopped, and kept");

    let attempt = |gateway: &Scene<'_>| gateway.shell("box", "cat /proc/1/stat").ok();
    assert_eq!(gateway.chiton(&["sandbox", "start", "box"]).ok(), "box Ready\n");
    gateway.shell("box", BEGUN).ok();
    assert_eq!(gateway.shell("box", "cat /tmp/note /data/note").ok(), "kept\nkept\n", "files are kept");
    let first = attempt(&gateway);
    gateway.chiton(&["sandbox", "stop", "box"]).ok();
    gateway.chiton(&["sandbox", "start", "box"]).ok();
    assert_ne!(attempt(&gateway), first, "a start is a new life of the agent");
    let listed = gateway.json(&["sandbox", "list", "--label", "team=red"]);
    assert_eq!((listed.as_array().map(Vec::len), &listed[0]["phase"]), (Some(1), &json!("Ready")));

    assert_eq!(gateway.chiton(&["sandbox", "delete", "box"]).ok(), "box Deleted\n");
    assert_eq!(gateway.json(&["sandbox", "list", "--all"]), json!([]));
    let volume = format!("chiton.{}.default.work", gateway.id());
    assert_eq!(engine.left(gateway.id()), [format!("{} volume {:?}", engine.kind, volume)], "only the volume is left");
    assert_eq!(gateway.entries(&format!("data/run/drivers/{}/agent", engine.kind)), [""; 0]);
    gateway.chiton(&["volume", "delete", "work"]).ok();
    assert_eq!(engine.left(gateway.id()), [""; 0]);
}

fn a_main_process_that_ends_completes_its_sandbox(engine: &Engine) {
    let gateway = Scene::new(engine, "", "");
    let script = "echo x >> /tmp/runs; while ! [ -e /tmp/go ]; do sleep 0.02; done; rm /tmp/go; echo ended; exit 3";
    let sandbox = gateway.json(&["sandbox", "create", "job", "--", "sh", "-c", script]);
    let completed = || {
        gateway.shell("job", "touch /tmp/go");
        gateway.until(id(&sandbox), |sandbox| sandbox.is_some_and(|sandbox| sandbox.phase == "Completed"));
        let after = gateway.get("job");
        assert_eq!((&after["exit"]["code"], &after["exit"]["reason"]), (&json!(3), &json!("Exited")));
    };
    completed();
    assert_eq!(gateway.chiton(&["sandbox", "logs", "job"]).ok(), "ended\n");
    gateway.chiton(&["sandbox", "start", "job"]).ok();
    assert_eq!(gateway.get("job")["exit"], json!(null), "a new run has not ended");
    // Ready is before the main process's first word.
    let runs = "until [ \"$(wc -l < /tmp/runs)\" -ge 2 ]; do sleep 0.01; done; cat /tmp/runs";
    assert_eq!(gateway.shell("job", runs).ok(), "x\nx\n");
    completed();
}
