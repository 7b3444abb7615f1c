//! What the driver hands the agent by the environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use chiton_confine::Confinement;

/// Everything that starts so is the agent's own and never reaches a program.
const PREFIX: &[u8] = b"CHITON_";

/// The agent's configuration.
pub struct Config {
    /// The gateway's socket. It need not exist yet.
    pub socket: PathBuf,
    /// The sandbox's token. Never logged.
    pub token: String,
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
    /// Something other than `--` came first.
    #[error("unexpected argument {0:?}; put the command after --")]
    Argument(OsString),
}

impl Config {
    /// Reads arguments (`-- COMMAND...`, or none) and environment.
    ///
    /// # Errors
    /// As [`ConfigError`] says.
    pub fn read(
        mut args: impl Iterator<Item = OsString>,
        vars: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        if let Some(first) = args.next().filter(|first| first != "--") {
            return Err(ConfigError::Argument(first));
        }
        let (mut own, env): (BTreeMap<_, _>, BTreeMap<_, _>) =
            vars.partition(|(name, _)| name.as_bytes().starts_with(PREFIX));
        let mut take = |name: &'static str| own.remove(OsStr::new(name)).filter(|value| !value.is_empty());
        let text = |name, value: Option<OsString>| {
            value.ok_or(ConfigError::Missing(name))?.into_string().map_err(|_| ConfigError::NotText(name))
        };
        let absolute = |name, path: PathBuf| {
            if path.is_absolute() { Ok(path) } else { Err(ConfigError::NotAbsolute(name, path)) }
        };
        let socket = take("CHITON_AGENT_SOCKET").ok_or(ConfigError::Missing("CHITON_AGENT_SOCKET"))?;
        Ok(Self {
            socket: absolute("CHITON_AGENT_SOCKET", socket.into())?,
            token: text("CHITON_AGENT_TOKEN", take("CHITON_AGENT_TOKEN"))?,
            attempt: text("CHITON_AGENT_ATTEMPT", take("CHITON_AGENT_ATTEMPT"))?,
            confinement: take("CHITON_AGENT_CONFINEMENT")
                .map(|text| serde_json::from_slice(text.as_bytes()).map_err(ConfigError::Confinement))
                .transpose()?,
            workdir: take("CHITON_AGENT_WORKDIR")
                .map(|folder| absolute("CHITON_AGENT_WORKDIR", folder.into()))
                .transpose()?,
            env,
            command: args.collect(),
        })
    }
}
