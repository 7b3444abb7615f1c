//! The command line on a terminal.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

use super::DEADLINE;

/// A terminal with a program on it.
pub(crate) struct Terminal {
    master: File,
    /// Its other side, held so that its settings can be looked at when the program has ended.
    slave: OwnedFd,
    child: std::process::Child,
    shown: String,
    before: String,
}

impl Terminal {
    /// Runs a program on a terminal of this many rows and columns.
    pub(crate) fn run(mut command: Command, rows: u16, columns: u16) -> Self {
        // No program of another test's is to hold it open.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a terminal");
        grantpt(&master).expect("a terminal");
        unlockpt(&master).expect("a terminal");
        let name = ptsname(&master, Vec::new()).expect("its name").into_string().expect("plain text");
        size(&master, rows, columns);
        let open = || OpenOptions::new().read(true).write(true).open(&name).expect("its other side");
        let slave = OwnedFd::from(open());
        let before = settings(&slave);
        let child = command.stdin(Stdio::from(open())).stdout(Stdio::from(open())).stderr(Stdio::from(open())).spawn();
        Self { master: File::from(master), slave, child: child.expect("the program"), shown: String::new(), before }
    }

    /// Reads until the text was shown; fails the test when the program ends first or nothing comes any more.
    #[track_caller]
    pub(crate) fn until(&mut self, text: &str) {
        while !self.shown.contains(text) {
            assert!(self.read(), "the program ended and showed {:?}, not {text:?}", self.shown);
        }
    }

    /// Reads what comes next; false when the program has ended and everything was read.
    #[track_caller]
    fn read(&mut self) -> bool {
        let pid = Pid::from_child(&self.child);
        // A program that was waited for cannot be opened, and has ended.
        let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
        let process = process.expect("the program's handle");
        let limit = Timespec::try_from(DEADLINE).expect("a time");
        let mut ready = [PollFd::new(&self.master, PollFlags::IN), PollFd::new(&process, PollFlags::IN)];
        let count = poll(&mut ready, Some(&limit)).expect("a wait");
        assert_ne!(count, 0, "nothing was shown for {DEADLINE:?} after {:?}", last(&self.shown));
        if !ready[0].revents().contains(PollFlags::IN) {
            // The terminal was looked at first: the program may have written its last words and ended since.
            let mut rest = [PollFd::new(&self.master, PollFlags::IN)];
            poll(&mut rest, Some(&Timespec::default())).expect("a look");
            if !rest[0].revents().contains(PollFlags::IN) {
                return false;
            }
        }
        let mut buffer = [0; 4096];
        let length = self.master.read(&mut buffer).unwrap_or(0);
        self.shown.push_str(&String::from_utf8_lossy(&buffer[..length]));
        length > 0
    }

    /// Types.
    pub(crate) fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("a terminal");
    }

    /// Another hand on the keyboard, for what is too much to be typed while nobody reads.
    pub(crate) fn keyboard(&self) -> File {
        self.master.try_clone().expect("a copy")
    }

    /// Changes its size, and says so as a terminal would.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        size(&self.master, rows, columns);
        self.signal(Signal::WINCH);
    }

    /// Sends the program a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a signal");
    }

    /// Waits until the program is stopped by a signal.
    pub(crate) fn until_stopped(&self) {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let pid = Pid::from_child(&self.child);
        let status = waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED).expect("a wait").expect("a status");
        assert!(status.stopped(), "it ended instead: {status:?}");
    }

    /// Whether the program has changed the terminal's settings.
    pub(crate) fn is_changed(&self) -> bool {
        settings(&self.slave) != self.before
    }

    /// Reads to the end; the exit code and everything that was shown. Fails the test when the terminal is not as it was.
    #[track_caller]
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        while self.read() {}
        let code = self.child.wait().expect("a status").code();
        assert_eq!(settings(&self.slave), self.before, "the terminal was not given back; it showed {:?}", self.shown);
        (code, self.shown)
    }
}

/// What `stty -a` tells, and more.
fn settings(terminal: &OwnedFd) -> String {
    format!("{:?}", tcgetattr(terminal).expect("settings"))
}

/// The end of a text that may be long.
fn last(text: &str) -> String {
    let mut end: Vec<char> = text.chars().rev().take(200).collect();
    end.reverse();
    end.into_iter().collect()
}

fn size(master: impl std::os::fd::AsFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).expect("a size");
}
