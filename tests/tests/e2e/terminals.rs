//! `sandbox exec -it` on a real pseudo terminal.

use std::io::Write as _;

use rustix::process::Signal;

use crate::harness::terminal::Terminal;
use crate::harness::{Gateway, root};

/// A gateway with a sandbox.
fn with_box() -> Gateway {
    let gateway = Gateway::start("");
    gateway.chiton(&["sandbox", "create", "box"]).ok();
    gateway
}

/// How much is pasted at once, in bytes.
const PASTED: usize = 3_000_000;

fn run(gateway: &Gateway, options: &[&str], script: &str) -> Terminal {
    let arguments = [&["sandbox", "exec", "-it"], options, &["box", "--", "sh", "-c", script]].concat();
    let mut command = gateway.plain_command(&arguments);
    command.env("TERM", "vt220");
    Terminal::run(command, 40, 100)
}

#[test]
fn a_program_sees_a_terminal_of_the_callers_kind_and_size() {
    if !root() {
        return;
    }
    let gateway = with_box();
    let script = "tty | grep -c pts; echo $TERM $(tput lines) $(tput cols); stty -a | grep -c -- ' -icanon'; \
                  stty raw -echo; stty -a | grep -c -- ' -echo '; exit 9";
    let (code, shown) = run(&gateway, &[], script).end();
    assert_eq!((code, shown.as_str()), (Some(9), "1\r\nvt220 40 100\r\n0\r\n1\n"), "settings inside stay inside");
    let (code, shown) = run(&gateway, &["--env", "TERM=dumb"], "echo $TERM").end();
    assert_eq!((code, shown.as_str()), (Some(0), "dumb\r\n"), "what is asked for wins");
}

#[test]
fn keys_become_signals_for_the_program_and_a_new_size_is_seen() {
    if !root() {
        return;
    }
    let gateway = with_box();
    let script = "trap 'echo size $(stty size)' WINCH; trap 'echo interrupted' INT; trap 'echo quit' QUIT; \
                  echo up; until [ -e /tmp/end ]; do sleep 0.02; done; exit 3";
    let mut terminal = run(&gateway, &[], script);
    terminal.until("up\r\n");
    terminal.resize(50, 120);
    terminal.until("size 50 120\r\n");
    terminal.type_in("\u{3}");
    terminal.until("interrupted\r\n");
    terminal.type_in("\u{1c}");
    terminal.until("quit\r\n");
    gateway.shell("box", "touch /tmp/end").ok();
    let (code, _) = terminal.end();
    assert_eq!(code, Some(3));

    // With job control Ctrl-Z stops the job and not the shell.
    let mut shell = run(&gateway, &[], "exec sh -im 2>&1");
    // Before the shell is there, and before the terminal is raw: what is typed early is not lost.
    shell.type_in("echo early $((40 + 2))\r");
    shell.until("early 42\r\n");
    shell.type_in("sleep 600; echo back $?\r");
    gateway.shell("box", "until grep -qs '^sleep' /proc/[0-9]*/cmdline; do :; done").ok();
    shell.type_in("\u{1a}");
    // 128 + SIGTSTP: the job is stopped, the shell goes on.
    shell.until("back 148\r\n");
    // A shell leaves a stopped job behind only when it is told so twice.
    shell.type_in("kill -9 %1; exit 4\rexit 4\r");
    assert_eq!(shell.end().0, Some(4));
}

#[test]
fn the_terminal_is_given_back_whatever_ends_the_command() {
    if !root() {
        return;
    }
    let mut gateway = with_box();
    let (code, shown) = run(&gateway, &["--workdir", "/nowhere"], "true").end();
    assert_eq!(code, Some(126), "{shown}");
    let mut killed = run(&gateway, &[], "echo up; kill -9 $$");
    killed.until("up\r\n");
    assert_eq!(killed.end().0, Some(137));
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130), (Signal::QUIT, 131)] {
        let mut terminal = run(&gateway, &[], "echo up; sleep 600");
        terminal.until("up\r\n");
        assert!(terminal.is_changed(), "it was raw");
        terminal.signal(signal);
        assert_eq!(terminal.end().0, Some(code), "{signal:?}");
    }
    let mut left = run(&gateway, &[], "echo up; trap '' INT HUP; sleep 600");
    left.until("up\r\n");
    left.type_in("\r~.");
    let (code, shown) = left.end();
    assert_eq!(code, Some(125));
    assert!(
        shown.ends_with("error: left by the escape sequence; the command is hung up [unavailable]\r\n"),
        "{shown:?}"
    );

    let mut orphan = run(&gateway, &[], "echo up; sleep 600");
    orphan.until("up\r\n");
    gateway.kill();
    let (code, shown) = orphan.end();
    assert_eq!(code, Some(125));
    assert!(shown.contains("error: ") && shown.contains("[unavailable]"), "{shown:?}");
    gateway.begin();
    gateway.until_reached("box");
}

#[test]
fn a_stopped_command_line_lends_its_terminal_and_takes_it_back() {
    if !root() {
        return;
    }
    let gateway = with_box();
    let mut terminal = run(&gateway, &[], "echo up; read line; echo got $line; exit 6");
    terminal.until("up\r\n");
    terminal.signal(Signal::TSTP);
    terminal.until_stopped();
    assert!(!terminal.is_changed(), "given back while it is stopped");
    terminal.signal(Signal::CONT);
    terminal.type_in("on\r");
    terminal.until("got on\r\n");
    assert_eq!(terminal.end().0, Some(6));
}

#[test]
fn everything_that_was_pasted_arrives_and_everything_that_was_written_is_shown() {
    if !root() {
        return;
    }
    let gateway = with_box();
    // All of it comes back while more is pasted: nobody may wait for the other in a circle.
    let script = format!("stty raw -echo; echo up; head -c {PASTED} | tee /tmp/pasted; exit 8");
    let mut terminal = run(&gateway, &[], &script);
    terminal.until("up\n");
    let mut keyboard = terminal.keyboard();
    let typing = std::thread::spawn(move || keyboard.write_all(&vec![b'p'; PASTED]));
    let (code, shown) = terminal.end();
    typing.join().expect("a thread").expect("typed");
    assert_eq!((code, shown.matches('p').count()), (Some(8), PASTED + 1), "one of them is in \"up\"");
    assert_eq!(
        gateway.shell("box", "tr -d p < /tmp/pasted | wc -c; wc -c < /tmp/pasted").ok(),
        format!("0\n{PASTED}\n")
    );

    // A program that ends at once after much output: all of it was written, so all of it is shown.
    let (code, shown) = run(&gateway, &[], "seq 1 200000; exit 7").end();
    assert_eq!((code, shown.lines().count()), (Some(7), 200_000));
    assert!(shown.ends_with("200000\r\n"));
}
