//! The agent, which knows the token, and what processes are started with.

use super::{Scene, control};
use crate::harness::user::By;

const NO: &str = "EPERM|ENOSYS|EACCES";

fn the_agent_cannot_be_traced_read_or_written(by: By) {
    let scene = Scene::new(by);
    scene.refused(&[
        ("ptrace-attach=1", NO),
        ("ptrace-seize=1", NO),
        ("read-memory=1", NO),
        ("write-memory=1", NO),
        ("pidfd-getfd=1", NO),
        ("kcmp=1", NO),
        ("read=/proc/1/environ", NO),
        ("read=/proc/1/mem", NO),
        ("read=/proc/1/auxv", NO),
        ("read=/proc/1/maps", NO),
        ("read=/proc/1/stack", NO),
        ("read=/proc/1/syscall", NO),
        ("read=/proc/1/task/1/environ", NO),
        // That there are descriptors can be seen; what they are cannot, and none can be opened.
        ("read=/proc/1/fd/0", NO),
        ("read=/proc/1/fd/3", NO),
        ("read=/proc/1/fd/5", NO),
        ("read=/proc/1/fd/7", NO),
        ("list=/proc/1/fdinfo", NO),
        ("list=/proc/1/root/", NO),
        ("list=/proc/1/cwd/", NO),
        ("list=/proc/1/map_files", NO),
        ("write-memory-of-init=1", NO),
        // Nobody becomes safer from the out-of-memory killer than its neighbours.
        ("write=/proc/self/oom_score_adj,-1000", NO),
        ("write=/proc/1/exe", "EACCES|EPERM|ETXTBSY|EROFS"),
    ]);
    control::succeed(&[
        "ptrace-attach=own",
        "ptrace-seize=own",
        "read-memory=own",
        "pidfd-getfd=own",
        "kcmp=own",
        "read=/proc/1/environ",
        "read=/proc/1/fd/0",
        "list=/proc/1/root/",
    ]);
}

fn a_kill_of_init_from_inside_ends_nothing(by: By) {
    let scene = Scene::new(by);
    let before = scene.gateway.get("box");
    // The kernel throws the signal away: it is init of its namespace, and it is to be killed from within.
    assert_eq!(scene.attack(&["kill=1"])["kill=1"].split(' ').next(), Some("succeeded"));
    assert_eq!(scene.gateway.shell("box", "echo alive").ok(), "alive\n");
    assert_eq!(scene.gateway.get("box"), before);
    scene.unharmed();
}

fn the_token_is_in_nothing_that_a_process_can_read(by: By) {
    let scene = Scene::new(by);
    let token = super::liar::secrets(&scene, "box").0;
    // The token itself is not an argument, or it would be found there: its second half is enough.
    let half = &token[token.len() / 2..];
    let found = scene.gateway.chiton_with(
        &["sandbox", "exec", "-i", "box", "--", "sh", "-c", "read half; timeout 20 grep -r -a -l -F -f - /etc /home /mnt /opt /root /run /srv /tmp /var /workspace /proc/1 /dev/shm 2>/dev/null <<EOF\n$half\nEOF\nenv; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'"],
        format!("{half}\n").as_bytes(),
    );
    assert!(!found.stdout.contains(half), "{}", found.stdout.replace(half, "TOKEN"));
    let files: Vec<&str> = found.stdout.lines().filter(|line| line.starts_with('/')).collect();
    assert!(files.is_empty(), "the token is in {files:?}");
    assert!(found.stdout.contains("PATH="), "the environment was read: {found:?}");
    scene.unharmed();
}

fn a_process_is_given_its_standard_streams_and_nothing_else(by: By) {
    let scene = Scene::with(
        by,
        &[
            "--",
            "sh",
            "-c",
            "until [ -e /workspace/go ]; do sleep 0.01; done; /workspace/attacker descriptors > /workspace/main; exec sleep 600",
        ],
    );
    let by_exec = scene.attack(&["descriptors"]);
    scene.gateway.shell("box", "touch /workspace/go; until [ -s /workspace/main ]; do sleep 0.01; done").ok();
    let by_main = scene.gateway.shell("box", "cat /workspace/main").ok();
    for said in [by_exec["descriptors"].as_str(), by_main.trim()] {
        let list = said.split_once("succeeded ").expect("a list").1;
        let mut numbers = Vec::new();
        for one in list.split(' ') {
            let (number, target) = one.split_once(':').expect("a number and a target");
            numbers.push(number);
            let harmless = target == "/dev/null" || target.starts_with("pipe:") || target.starts_with("/workspace/");
            assert!(harmless, "{number} is {target}: {said}");
        }
        assert_eq!(numbers, ["0", "1", "2"], "{said}");
    }
    scene.unharmed();
}

fn no_program_gives_more_privileges_than_its_caller_has(by: By) {
    let scene = Scene::new(by);
    let found = scene.attack(&["privileges", "setuid-memfd"]);
    for said in found.values() {
        assert!(said.contains("Uid: 0 0 0 0; CapInh: 0000000000000000; CapPrm: 0000000000000000; CapEff: 0000000000000000; CapBnd: 0000000000000000; CapAmb: 0000000000000000; NoNewPrivs: 1; Seccomp: 2"), "{said}");
    }
    scene.refused(&[
        ("setuid-program=/usr/bin/passwd", "EPERM"),
        ("setuid-program=/usr/bin/su", "EPERM"),
        ("become=1000", NO),
        ("become=65534", NO),
        ("chown=/workspace/attacker,1000", "EPERM|EINVAL"),
    ]);
    control::succeed(&["become=1000"]);
}

by_both!(
    the_agent_cannot_be_traced_read_or_written,
    a_kill_of_init_from_inside_ends_nothing,
    the_token_is_in_nothing_that_a_process_can_read,
    a_process_is_given_its_standard_streams_and_nothing_else,
    no_program_gives_more_privileges_than_its_caller_has,
);
