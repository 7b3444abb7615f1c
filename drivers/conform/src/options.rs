//! What the kit is told.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chiton_socket::{Dial, own_and_root};
use futures::future::BoxFuture;

use crate::case::Group;
use crate::declare::Declared;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From a socket's path to a connection that speaks HTTP/2; also how long a restarted driver may be away.
    pub dial: Duration,
    /// Calls that only look, and refusals.
    pub call: Duration,
    /// A create, until its answer.
    pub create: Duration,
    /// A stop or a start, until its answer.
    pub act: Duration,
    /// A delete, until its answer, and as long again until the sandbox is gone.
    pub delete: Duration,
    /// From a create's or start's answer to `Ready`, and to the end of a main process that ends at once.
    pub ready: Duration,
    /// From a change to the watch's news of it.
    pub event: Duration,
    /// How long to listen for what must not come.
    pub quiet: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            dial: seconds(10),
            call: seconds(10),
            create: seconds(60),
            act: seconds(60),
            delete: seconds(60),
            ready: seconds(60),
            event: seconds(10),
            quiet: Duration::from_millis(300),
        }
    }
}

/// How the driver is restarted: its process ends, without notice as likely as not, and another comes on the same socket.
#[derive(Clone)]
pub enum Restart {
    /// A command line for `/bin/sh`; the restart has begun when it has ended.
    Command(String),
    /// Code.
    With(Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>),
}

impl fmt::Debug for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(line) => f.debug_tuple("Command").field(line).finish(),
            Self::With(_) => f.write_str("With(..)"),
        }
    }
}

/// What the kit is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The driver's socket.
    pub socket: PathBuf,
    /// The users whose process may be there.
    pub peers: BTreeSet<u32>,
    /// The groups of cases to run.
    pub groups: BTreeSet<Group>,
    /// Runs only cases whose name contains this, and what they need. Empty runs all.
    pub filter: String,
    /// The image of the sandboxes. Empty leaves it to the driver's default.
    pub image: String,
    /// The main process of sandboxes that are to live: it runs until it is told to end.
    pub command: Vec<String>,
    /// What runs a script that follows it, in that image. Empty when the image has no shell; then what needs one is
    /// declared.
    pub shell: Vec<String>,
    /// The workspace of the sandboxes.
    pub workspace: String,
    /// How many sandboxes come and go at once where many must.
    pub burst: usize,
    /// How the driver is restarted. Without it, what needs a restart is declared.
    pub restart: Option<Restart>,
    /// Failures that are expected.
    pub declared: Declared,
    /// Whether a declared failure that does not happen is an error.
    pub strict: bool,
    /// How long things may take.
    pub limits: Limits,
}

impl Options {
    /// The defaults for a driver on this socket.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        Self {
            socket: socket.into(),
            peers: own_and_root(),
            groups: BTreeSet::from([Group::Wire, Group::Behaviour]),
            filter: String::new(),
            image: String::new(),
            command: words(&["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.2; done"]),
            shell: words(&["/bin/sh", "-c"]),
            workspace: "default".to_owned(),
            burst: 24,
            restart: None,
            declared: Declared::default(),
            strict: false,
            limits: Limits::default(),
        }
    }

    pub(crate) fn dial(&self) -> Dial {
        Dial {
            what: "driver".to_owned(),
            path: self.socket.clone(),
            peers: self.peers.clone(),
            limit: self.limits.dial,
        }
    }
}
