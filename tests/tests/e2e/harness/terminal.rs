//! The command line on a terminal.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// A terminal with a program on it.
pub(crate) struct Terminal {
    master: File,
    child: std::process::Child,
    shown: String,
}

impl Terminal {
    /// Runs a program on a terminal of this many rows and columns.
    pub(crate) fn run(mut command: Command, rows: u16, columns: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).expect("a terminal");
        unlockpt(&master).expect("a terminal");
        let name = ptsname(&master, Vec::new()).expect("its name").into_string().expect("plain text");
        size(&master, rows, columns);
        let slave = || Stdio::from(OpenOptions::new().read(true).write(true).open(&name).expect("its other side"));
        let child = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().expect("the program");
        // The command keeps its copies of the other side; while they live the terminal would never end.
        drop(command);
        Self { master: File::from(master), child, shown: String::new() }
    }

    /// Reads until the text was shown; fails the test when the program ends first.
    #[track_caller]
    pub(crate) fn until(&mut self, text: &str) {
        while !self.shown.contains(text) {
            assert!(self.read(), "the program ended and showed {:?}, not {text:?}", self.shown);
        }
    }

    fn read(&mut self) -> bool {
        let mut buffer = [0; 1024];
        // The end of a terminal is an error, not an end of file.
        let length = self.master.read(&mut buffer).unwrap_or(0);
        self.shown.push_str(&String::from_utf8_lossy(&buffer[..length]));
        length > 0
    }

    /// Types.
    pub(crate) fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("a terminal");
    }

    /// Changes its size, and says so as a terminal would.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        size(&self.master, rows, columns);
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::WINCH).expect("a signal");
    }

    /// Reads to the end; the exit code and everything that was shown.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        while self.read() {}
        (self.child.wait().expect("a status").code(), self.shown)
    }
}

fn size(master: impl std::os::fd::AsFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).expect("a size");
}
