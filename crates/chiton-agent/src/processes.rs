//! The one place that waits for children.
//!
//! As process 1 (or a subreaper) the agent inherits every orphan of the sandbox, so it must wait for *any* child; whoever
//! waited for one child in particular would race with that. So all exits pass here and are handed to whom they concern.
//! It also is the only place that signals: a process group is signalled only while its leader is not reaped, or the
//! number might already be somebody else's.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};

use crate::spawn::{self, Program, SpawnError, Streams};

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// The signal that ended it; 0 when none did.
    pub signal: i32,
}

impl Exit {
    fn of(status: WaitStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (_, Some(signal)) => Self { code: 128 + signal, signal },
            (code, None) => Self { code: code.unwrap_or_default(), signal: 0 },
        }
    }
}

/// A program that runs.
#[derive(Debug)]
pub struct Running {
    /// Its process id, which is its group's too.
    pub pid: i32,
    /// Resolves when it was reaped.
    pub exit: oneshot::Receiver<Exit>,
}

#[derive(Debug)]
struct Child {
    exit: oneshot::Sender<Exit>,
    /// Whether what is left of its group dies with it.
    sweep: bool,
}

#[derive(Debug, Default)]
struct Table {
    children: HashMap<i32, Child>,
    reaped: u64,
}

/// All programs the agent started. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Processes {
    // Held over each fork and each reaping: an exit is never seen before its child is known.
    table: Arc<Mutex<Table>>,
    running: watch::Sender<usize>,
}

impl Default for Processes {
    fn default() -> Self {
        Self { table: Arc::default(), running: watch::Sender::new(0) }
    }
}

impl Processes {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change to the table is complete before anything that could panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a program.
    ///
    /// # Errors
    /// As [`SpawnError`] says.
    pub fn spawn(&self, program: &Program, streams: Streams) -> Result<Running, SpawnError> {
        let mut table = self.table();
        let pid = spawn::spawn(program, streams)?;
        let (sender, exit) = oneshot::channel();
        table.children.insert(pid, Child { exit: sender, sweep: false });
        self.running.send_replace(table.children.len());
        Ok(Running { pid, exit })
    }

    /// Signals a program's process group; nothing happens when the program has ended.
    ///
    /// # Errors
    /// What the kernel reports, `EINVAL` for a number that is no signal.
    pub fn signal(&self, pid: i32, signal: i32) -> io::Result<()> {
        let table = self.table();
        if table.children.contains_key(&pid) { spawn::signal_group(pid, signal) } else { Ok(()) }
    }

    /// From now on what is left of the program's group is killed in the moment the program ends.
    pub fn sweep_at_exit(&self, pid: i32) {
        if let Some(child) = self.table().children.get_mut(&pid) {
            child.sweep = true;
        }
    }

    /// Kills all programs but one.
    pub fn kill_others(&self, spared: i32) {
        let table = self.table();
        for pid in table.children.keys().filter(|pid| **pid != spared) {
            // A group that is gone needs no signal.
            let _ = spawn::signal_group(*pid, libc::SIGKILL);
        }
    }

    /// How many programs run, and how many processes were reaped in all.
    pub fn counts(&self) -> (usize, u64) {
        let table = self.table();
        (table.children.len(), table.reaped)
    }

    /// Resolves when no program runs.
    pub async fn idle(&self) {
        // The sender is part of `self`, so it is not gone.
        let _ = self.running.subscribe().wait_for(|running| *running == 0).await;
    }

    /// The signal the kernel sends at each exit; to be made before the first program is started.
    ///
    /// # Errors
    /// When the handler cannot be installed.
    pub fn notices() -> io::Result<Signal> {
        signal(SignalKind::child())
    }

    /// Reaps for ever.
    pub async fn reap(self, mut notices: Signal) {
        loop {
            // Children may have ended before the handler stood, so look first. One notice may stand for many exits.
            self.reap_ended();
            if notices.recv().await.is_none() {
                return;
            }
        }
    }

    fn reap_ended(&self) {
        let mut table = self.table();
        while let Some(pid) = spawn::ended_child() {
            if table.children.get(&pid).is_some_and(|child| child.sweep) {
                // Still a zombie, so the number is still this group's. Nothing left in it is fine.
                let _ = spawn::signal_group(pid, libc::SIGKILL);
            }
            let Ok(Some((_, status))) = waitpid(Pid::from_raw(pid), WaitOptions::NOHANG) else { return };
            table.reaped += 1;
            if let Some(child) = table.children.remove(&pid) {
                // Nobody listens when the exec's caller is long gone.
                let _ = child.exit.send(Exit::of(status));
            }
        }
        self.running.send_if_modified(|running| {
            let changed = *running != table.children.len();
            *running = table.children.len();
            changed
        });
    }
}
