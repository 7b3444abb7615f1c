//! What is said on the monitor's sockets: JSON documents, one a line.
//!
//! The monitor's first connection is its standard input, a socket pair that the driver made. Its first line is the
//! [`Config`]; from then on it is a connection like any that `monitor.sock` accepts: the monitor says its [`State`]
//! at once and at each change, and takes [`Request`]s. The connection to the launch child speaks [`LaunchReport`] and
//! [`LaunchOrder`]. Nothing here is ever written to disk: the launch document holds secrets.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cgroup::{Hierarchy, Limits};
use crate::exit::ExitRecord;

/// The longest line that is accepted. A command may have 128 KiB and its JSON form several times that.
pub const LINE_LIMIT: usize = 4 << 20;

/// What a monitor is told when it is spawned.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The sandbox, for messages.
    pub id: String,
    /// Names this start; returned with the exit record.
    pub attempt: Option<String>,
    /// The sandbox's folder: markers, exit record and log are kept there.
    pub dir: PathBuf,
    /// The folder for `monitor.sock`.
    pub run_dir: PathBuf,
    /// The sandbox's lock file.
    pub lock: PathBuf,
    /// The file that says that this id was deleted.
    pub tombstone: PathBuf,
    /// The sandbox's cgroups.
    pub cgroups: Vec<Hierarchy>,
    /// What is limited there.
    pub limits: Limits,
    /// Program and leading arguments of the launch child.
    pub launcher: Vec<String>,
    /// The launch child's own document, opaque here.
    pub launch: String,
    /// The host uid and gid that the sandbox's root is mapped to: it becomes the owner of the output pipes, so that
    /// `/dev/stdout` can be opened again inside.
    pub root_uid: u32,
    /// Whether the container keeps the host's network namespace.
    pub host_network: bool,
    /// Whether to start at once instead of waiting for [`Request::Start`].
    pub start: bool,
    /// How large one log file may become, in bytes; two are kept.
    pub log_bytes: u64,
    /// How long the launch may take, in milliseconds.
    pub launch_deadline_ms: u64,
}

/// What a client asks of a monitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Run the created container. Without effect when it runs.
    Start,
    /// SIGTERM to the main process, and SIGKILL to everything when it has not ended in time.
    Stop {
        /// How long it may take, in milliseconds.
        grace_ms: u64,
    },
    /// SIGKILL to everything, now.
    Kill,
}

/// What a monitor says of its container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Being made.
    Launching,
    /// Made, waiting for [`Request::Start`].
    Created,
    /// The main process was executed.
    Running,
    /// Not a state, but said beside it: what of the output could not be written since the monitor began. The state is
    /// still the one that was said before.
    Dropped {
        /// Bytes of output.
        bytes: u64,
        /// Records of the log.
        records: u64,
    },
    /// It ended; everything of it is gone and the record is on disk. The monitor's last word.
    Exited {
        /// How.
        exit: ExitRecord,
    },
    /// It could not be made or started; everything of it is gone. The monitor's last word.
    Failed {
        /// What was being done.
        step: String,
        /// What went wrong.
        message: String,
        /// Whether it was refused because the id was deleted before.
        tombstone: bool,
    },
}

/// What the monitor tells the launch child, after the launch document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaunchOrder {
    /// Execute the main process.
    Start,
}

/// What the launch child reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "launch", rename_all = "snake_case")]
pub enum LaunchReport {
    /// Another process, also the monitor's child, goes on in this one's place.
    Moved {
        /// Its process id.
        pid: i32,
    },
    /// The container's init waits.
    Created {
        /// Its process id in the monitor's namespace.
        pid: i32,
        /// What is known of it: a document of the driver's, kept in the sandbox's folder.
        launched: String,
    },
    /// The main process was executed.
    Running,
    /// It went wrong.
    Failed {
        /// What was being done.
        step: String,
        /// What went wrong.
        message: String,
    },
}

/// Writes one document as a line.
pub fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Reads one line as a document; `None` at the end of the stream.
pub fn receive<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    let limit = u64::try_from(LINE_LIMIT).unwrap_or(u64::MAX);
    io::Read::take(&mut *from, limit).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the line is cut off or too long"));
    }
    Ok(Some(serde_json::from_slice(&line)?))
}
