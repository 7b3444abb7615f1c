//! What the driver hands the agent: by the environment alone, or (`CHITON_AGENT_LAUNCH=stdin`) all that is secret by
//! standard input.
//!
//! | variable | meaning |
//! |---|---|
//! | `CHITON_AGENT_SOCKET` | the gateway's socket, an absolute path; needed |
//! | `CHITON_AGENT_WORKDIR` | where programs start, an absolute path; else the agent's own folder |
//! | `CHITON_AGENT_LAUNCH` | `stdin`: a [`LaunchDocument`] comes as one line on standard input within 30 s, and the three below must not be set |
//! | `CHITON_AGENT_TOKEN`, `CHITON_AGENT_ATTEMPT` | the sandbox's token and which start of it this is; needed without the former |
//! | `CHITON_AGENT_CONFINEMENT` | a [`Confinement`] as JSON |
//!
//! A driver that launches by standard input gives the container no terminal of its own: it would repeat the token into the
//! container's log, so the agent refuses one. The container's user must be able to execute the program (a file system
//! mounted `noexec` does not do) and need not be able to read it, nor to list or write the socket's folder.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use chiton_agent_proto::launch::LaunchDocument;
use chiton_confine::Confinement;

use crate::launch::LaunchError;

/// Everything that starts so is the agent's own and never reaches a program.
const PREFIX: &[u8] = b"CHITON_";
/// Says how the agent is launched.
const LAUNCH: &str = "CHITON_AGENT_LAUNCH";
/// Its only value. Without the variable everything stands in the environment.
const STDIN: &str = "stdin";
/// What standard input tells then, and the environment must not.
const TOLD: [&str; 3] = ["CHITON_AGENT_TOKEN", "CHITON_AGENT_ATTEMPT", "CHITON_AGENT_CONFINEMENT"];

/// A launch document as the agent takes it.
pub type Document = LaunchDocument<Confinement>;

/// The agent's configuration.
pub struct Config {
    /// The gateway's socket. It need not exist yet.
    pub socket: PathBuf,
    /// The sandbox's token. Never logged.
    pub token: String,
    /// Whether the token stands in the environment that the process was started with.
    pub exposed: bool,
    /// Which start of the sandbox this is.
    pub attempt: String,
    /// What the agent applies to itself and thereby to all that it starts; none where the driver has done so before.
    pub confinement: Option<Confinement>,
    /// Where programs start when they name no folder; none means the agent's own working folder.
    pub workdir: Option<PathBuf>,
    /// The environment that programs inherit.
    pub env: BTreeMap<OsString, OsString>,
    /// The main program; empty when the sandbox has none.
    pub command: Vec<OsString>,
}

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A variable is missing.
    #[error("{0} is not set; the driver that starts the agent must set it")]
    Missing(&'static str),
    /// A variable is not text.
    #[error("{0} is not UTF-8")]
    NotText(&'static str),
    /// A path is not absolute.
    #[error("{0} is {1:?}, which is not an absolute path")]
    NotAbsolute(&'static str, PathBuf),
    /// The confinement cannot be read.
    #[error("CHITON_AGENT_CONFINEMENT is not a confinement: {0}")]
    Confinement(serde_json::Error),
    /// Another way of being launched than there is.
    #[error(
        "{LAUNCH} is {0:?}; the only value allowed is {STDIN:?} (without the variable the agent reads its environment alone)"
    )]
    Launch(OsString),
    /// What is said on standard input stands in the environment, too.
    #[error(
        "{0} is set although {LAUNCH} is {STDIN:?}; remove it: the platform shows it to others, and standard input tells it"
    )]
    Exposed(&'static str),
    /// Standard input did not tell it.
    #[error(transparent)]
    Input(#[from] LaunchError),
    /// Something other than `--` came first.
    #[error("unexpected argument {0:?}; put the command after --")]
    Argument(OsString),
}

impl Config {
    /// Reads arguments (`-- COMMAND...`, or none) and environment, and takes the document from `input` when the environment
    /// says so. Everything else is looked at before: a driver that got it wrong need not wait for a deadline to hear of it.
    ///
    /// # Errors
    /// As [`ConfigError`] says.
    pub fn read(
        mut args: impl Iterator<Item = OsString>,
        vars: impl Iterator<Item = (OsString, OsString)>,
        input: impl FnOnce() -> Result<Document, LaunchError>,
    ) -> Result<Self, ConfigError> {
        if let Some(first) = args.next().filter(|first| first != "--") {
            return Err(ConfigError::Argument(first));
        }
        let (mut own, mut env): (BTreeMap<_, _>, BTreeMap<_, _>) =
            vars.partition(|(name, _)| name.as_bytes().starts_with(PREFIX));
        // Empty is a value here: a driver that means the other way leaves the variable out.
        let stdin = match own.remove(OsStr::new(LAUNCH)) {
            None => false,
            Some(value) if value == STDIN => true,
            Some(value) => return Err(ConfigError::Launch(value)),
        };
        if stdin && let Some(name) = TOLD.into_iter().find(|name| own.contains_key(OsStr::new(name))) {
            return Err(ConfigError::Exposed(name));
        }
        let mut take = |name: &'static str| own.remove(OsStr::new(name)).filter(|value| !value.is_empty());
        let absolute = |name, path: PathBuf| {
            if path.is_absolute() { Ok(path) } else { Err(ConfigError::NotAbsolute(name, path)) }
        };
        let socket = take("CHITON_AGENT_SOCKET").ok_or(ConfigError::Missing("CHITON_AGENT_SOCKET"))?;
        let socket = absolute("CHITON_AGENT_SOCKET", socket.into())?;
        let workdir =
            take("CHITON_AGENT_WORKDIR").map(|folder| absolute("CHITON_AGENT_WORKDIR", folder.into())).transpose()?;
        let Document { token, attempt, env: over, confinement } = if stdin { input()? } else { told(take)? };
        env.extend(over.into_iter().map(|(name, value)| (name.into(), value.into())));
        Ok(Self { socket, token, exposed: !stdin, attempt, confinement, workdir, env, command: args.collect() })
    }
}

/// The same document from the environment.
fn told(mut take: impl FnMut(&'static str) -> Option<OsString>) -> Result<Document, ConfigError> {
    let mut text =
        |name| take(name).ok_or(ConfigError::Missing(name))?.into_string().map_err(|_| ConfigError::NotText(name));
    let [token, attempt, confinement] = TOLD;
    let mut document = Document::new(text(token)?, text(attempt)?);
    document.confinement = take(confinement)
        .map(|text| serde_json::from_slice(text.as_bytes()).map_err(ConfigError::Confinement))
        .transpose()?;
    Ok(document)
}

#[cfg(test)]
mod tests;
