//! A gateway of a test's own: the real program in a folder of its own, asked by its own command line and API, killed and
//! started again at will. When it is dropped everything of it is deleted, and the machine is looked at: what is left of
//! it is a failure of the test.
//!
//! - `process`: its life; `ask`: asking it; `look`: what it said and did; `end`: its end
//! - `alone`, `terminal`, `user`: a network of its own, the command line on a terminal, an ordinary user

mod alone;
mod ask;
mod end;
mod look;
mod process;
pub(crate) mod terminal;
pub(crate) mod user;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rustix::fs::FlockOperation;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use alone::Holder;

/// No command and no wait of these tests takes longer on a machine that works.
const DEADLINE: Duration = Duration::from_mins(3);
/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_chiton-test");

/// Whether the test can run here; says by name when it cannot.
pub(crate) fn root() -> bool {
    let can = rustix::process::geteuid().is_root();
    if !can {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("a test").to_owned();
        // Not by a macro, which the test runner would swallow.
        drop(writeln!(std::io::stderr(), "SKIPPED {name}: it makes real sandboxes, which needs root"));
    }
    can
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// Its standard output; fails the test when the command failed.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "the command failed: {self:#?}");
        self.stdout
    }

    /// What it said about its failure; fails the test when it did not fail.
    #[track_caller]
    pub(crate) fn refused(self) -> String {
        assert_eq!(self.code, 1, "the command was to be refused: {self:#?}");
        self.stderr
    }
}

/// One line of the fault extension's `calls.jsonl`.
pub(crate) type Call = Value;

/// How much of the machine a gateway's test needs.
#[derive(Clone, Copy)]
pub(crate) enum Share {
    /// Others may run beside it.
    Part,
    /// It measures or races: nothing else may run.
    Whole,
}

/// Waits for a share of the machine; it is held until the file is dropped.
pub(crate) fn share(share: Share) -> File {
    let lock = File::create(Path::new(PROGRAM).with_extension("lock")).expect("a lock file");
    let mode = match share {
        Share::Part => FlockOperation::LockShared,
        Share::Whole => FlockOperation::LockExclusive,
    };
    rustix::fs::flock(&lock, mode).expect("a share of the machine");
    lock
}

/// The parent of a process that is there.
pub(crate) fn parent(pid: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

/// A gateway of a test's own.
pub(crate) struct Gateway {
    folder: TempDir,
    child: Option<Child>,
    /// Variables of the program's, by which it is another build.
    surroundings: Vec<(&'static str, String)>,
    /// What it said on standard error, over all its lives.
    said: Arc<Mutex<Vec<String>>>,
    /// Told of every line of that.
    news: Arc<Condvar>,
    /// What is run as the gateway from its next start on: the program, with what makes another machine of this one before it.
    program: Vec<PathBuf>,
    /// How many files it may have open, where it is limited.
    files: Option<u32>,
    id: String,
    runtime: Runtime,
    /// As whom it runs, when not as root.
    _user: Option<user::User>,
    /// Who keeps its network, when that is not the machine's.
    _network: Option<Holder>,
    _share: File,
}

/// Waits for a message; false when none came in time or none can come any more.
fn wait(receiver: &Receiver<()>) -> bool {
    receiver.recv_timeout(DEADLINE).is_ok()
}
