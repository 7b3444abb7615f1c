//! How a main process ended, as it is kept on disk.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files;

/// The exit record. It is written once per start, before anybody is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The exit code, when it exited by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the kernel killed something in the sandbox because its memory limit was reached.
    #[serde(default)]
    pub oom: bool,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// The start that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
    /// Set when nobody saw the end: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
    /// Set when it did not end by itself and nobody asked for its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
}

/// What ended a sandbox from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A signal ended the agent, and with it, as it is their init, everything in the sandbox.
    AgentKilled,
    /// The monitor was killed; what it left was ended.
    MonitorLost,
    /// The machine was restarted.
    HostRestarted,
}

impl ExitRecord {
    /// The file's name in the sandbox's folder.
    pub const FILE: &'static str = "exit.json";

    /// Writes it by temporary file, fsync (when `durable`) and rename: it is either absent or whole, also after a power
    /// loss.
    pub fn store(&self, dir: &Path, durable: bool) -> io::Result<()> {
        files::replace(dir, Self::FILE, &serde_json::to_vec(self)?, durable)
    }

    /// Reads it; `None` when there is none.
    pub fn load(dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(dir.join(Self::FILE)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
