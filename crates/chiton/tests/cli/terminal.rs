//! The terminal is given back whatever happens.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::scripted::{Server, Then, exit, started, stdout};

/// A pseudo terminal's two ends.
struct Terminal {
    ours: File,
    theirs: OwnedFd,
}

impl Terminal {
    fn open() -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&ours).expect("granted");
        unlockpt(&ours).expect("unlocked");
        let name = ptsname(&ours, Vec::new()).expect("a name").into_string().expect("UTF-8");
        let theirs = File::options().read(true).write(true).open(name).expect("opens").into();
        Self { ours: ours.into(), theirs }
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.theirs).expect("attributes").local_modes.contains(LocalModes::ECHO)
    }

    fn run(&self, server: &Server) -> Child {
        let end = || Stdio::from(self.theirs.try_clone().expect("clones"));
        let mut command = server.command(&["sandbox", "exec", "-t", "box", "--", "sh"]);
        command.stdin(end()).stdout(end()).stderr(Stdio::null()).spawn().expect("runs")
    }

    /// Reads until this was shown.
    fn until(&mut self, text: &str) {
        let mut shown = Vec::new();
        while !String::from_utf8_lossy(&shown).contains(text) {
            let mut byte = [0];
            self.ours.read_exact(&mut byte).expect("more");
            shown.push(byte[0]);
        }
    }
}

#[test]
fn it_is_raw_while_the_command_runs_and_as_before_at_its_end() {
    for (outputs, then, signal, code) in [
        (vec![started(), stdout(b"up"), exit(3)], Then::End, None, Some(3)),
        (vec![started(), stdout(b"up")], Then::End, None, Some(125)),
        (vec![started(), stdout(b"up")], Then::Hang, Some(Signal::TERM), Some(143)),
        (vec![started(), stdout(b"up")], Then::Hang, Some(Signal::INT), Some(130)),
        (vec![started(), stdout(b"up")], Then::Hang, Some(Signal::QUIT), Some(131)),
        (vec![started(), stdout(b"up")], Then::Hang, Some(Signal::HUP), Some(129)),
    ] {
        let server = Server::start();
        server.execs(outputs, then);
        let mut terminal = Terminal::open();
        assert!(!terminal.is_raw());
        let mut child = terminal.run(&server);
        terminal.until("up");
        if let Some(signal) = signal {
            assert!(terminal.is_raw());
            kill_process(Pid::from_child(&child), signal).expect("it runs");
        }
        assert_eq!(child.wait().expect("ends").code(), code);
        assert!(!terminal.is_raw(), "left raw after {signal:?}, {code:?}");
        let asked = server.asked("exec_sandbox");
        assert!(asked[1].contains("terminal: Some"), "{}", asked[1]);
    }
}

#[test]
fn it_is_given_back_when_the_call_is_refused() {
    let server = Server::start();
    let refused = chiton_model::Error::conflict("it is Stopped");
    server.fails::<chiton_proto::agent::v1::ExecOutput>("exec_sandbox", refused);
    let terminal = Terminal::open();
    assert_eq!(terminal.run(&server).wait().expect("ends").code(), Some(125));
    assert!(!terminal.is_raw());
}
