//! What a caller asks for, after translation from whatever wire it came by.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::id::{DriverId, ExtensionName};
use crate::label;
use crate::network::NetworkSpec;
use crate::quantity::{CpuQuantity, MemoryQuantity};
use crate::volume::{self, VolumeMount};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principal {
    /// A stable name: `uid:0`, or a token's subject.
    pub subject: String,
    /// What the authenticator vouches for besides.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, String>,
}

/// Limits. An absent one is not applied; a present one is applied or the create is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Processor time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuQuantity>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryQuantity>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Bytes that the sandbox may keep in its own files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<MemoryQuantity>,
    /// Files, folders and links that it may keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inodes: Option<u64>,
    /// Files that one of its processes may have open at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u32>,
}

/// The request for a sandbox: what the record keeps and hooks see. It holds no secret, only references.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxSpec {
    /// `host`, `dir:PATH`, … ; empty means the driver's default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// The main process; empty means that the agent alone keeps the sandbox alive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Environment of everything that runs in the sandbox.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Labels of the sandbox.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Limits.
    #[serde(default)]
    pub resources: Resources,
    /// How it reaches other machines.
    #[serde(default, skip_serializing_if = "NetworkSpec::is_none")]
    pub network: NetworkSpec,
    /// Named volumes shown in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeMount>,
    /// Working folder of the main process and of exec; empty means the image's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub workdir: String,
    /// Environment variables whose values come from the operator's secrets: variable name → reference.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// Extensions asked for by name.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub extensions: BTreeSet<ExtensionName>,
    /// The driver asked for; absent means the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<DriverId>,
    /// Per-driver options, keyed by driver id; a driver sees its own only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub driver_config: BTreeMap<String, serde_value::Value>,
}

/// JSON values in requests, under one name.
pub mod serde_value {
    pub use serde_json::Value;
}

/// The most arguments and the most bytes that a command may have: below the kernel's own limit (2 MiB with the
/// environment), so that the refusal comes from us and says why.
const COMMAND_BYTES: usize = 128 * 1024;

/// The most bytes that an environment may have: the kernel's limit for one of its strings (`MAX_ARG_STRLEN`), so that
/// no part of it can be the one that it refuses.
const ENV_BYTES: usize = 128 * 1024;

/// The fewest open files: standard streams, libraries being loaded, and what an agent needs to serve.
const LEAST_OPEN_FILES: u32 = 32;

/// How deep documents of drivers and extensions may be nested. They are stored some levels deep in rows, and JSON is read
/// back to 128 levels only: one that is deeper could be stored and never read again.
pub const DEEPEST: usize = 64;

/// Whether a document is nested at most [`DEEPEST`] levels.
pub fn is_shallow(document: &serde_value::Value) -> bool {
    use serde_value::Value;
    let mut open = vec![(document, 1)];
    while let Some((value, level)) = open.pop() {
        let inner: Box<dyn Iterator<Item = &Value>> = match value {
            Value::Array(items) => Box::new(items.iter()),
            Value::Object(entries) => Box::new(entries.values()),
            _ => continue,
        };
        if level > DEEPEST {
            return false;
        }
        open.extend(inner.map(|value| (value, level + 1)));
    }
    true
}

impl SandboxSpec {
    /// Checks all that can be checked without knowing the driver.
    pub fn check(&self) -> Result<(), Error> {
        label::check_request_labels("labels", &self.labels)?;
        check_env("env", &self.env)?;
        check_command("command", &self.command)?;
        if !self.workdir.is_empty() && !self.workdir.starts_with('/') {
            return Err(Error::invalid(
                "workdir",
                format!("working folder {:?} is not an absolute path", self.workdir),
            )
            .cure("begin it with \"/\""));
        }
        for name in self.secrets.keys() {
            let one = BTreeMap::from([(name.clone(), String::new())]);
            label::check_request_env("secrets", &one)?;
            if self.env.contains_key(name) {
                return Err(Error::invalid("secrets", format!("variable {name:?} is set by both env and secrets"))
                    .cure("set it in one of the two"));
            }
        }
        if let Some((driver, _)) = self.driver_config.iter().find(|(_, options)| !is_shallow(options)) {
            return Err(Error::invalid(
                format!("driver_config.{driver}"),
                format!("the options of driver {driver:?} are nested more than {DEEPEST} levels deep"),
            )
            .cure("write them flatter"));
        }
        if self.resources.pids == Some(0) {
            return Err(Error::invalid("resources.pids", "a pids limit of 0 leaves no process to run")
                .cure("allow at least 1, or leave it out"));
        }
        if self.resources.inodes == Some(0) {
            return Err(Error::invalid("resources.inodes", "a limit of 0 files leaves nothing to write to")
                .cure("allow at least 1, or leave it out"));
        }
        if self.resources.open_files.is_some_and(|files| files < LEAST_OPEN_FILES) {
            return Err(Error::invalid(
                "resources.open_files",
                format!("fewer than {LEAST_OPEN_FILES} open files are too few for a program to start"),
            )
            .cure(format!("allow at least {LEAST_OPEN_FILES}, or leave it out")));
        }
        self.network.check()?;
        volume::check(&self.volumes)
    }
}

/// Checks an environment: names, no reserved ones, no NUL, not absurdly large.
pub fn check_env(field: &str, env: &BTreeMap<String, String>) -> Result<(), Error> {
    label::check_request_env(field, env)?;
    let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    if bytes > ENV_BYTES {
        return Err(Error::invalid(field, format!("the environment has {bytes} bytes, the limit is {ENV_BYTES}"))
            .cure("put the data in a file and pass its path"));
    }
    Ok(())
}

/// Checks a program and its arguments: no NUL, not absurdly large, a program name if anything at all.
pub fn check_command(field: &str, command: &[String]) -> Result<(), Error> {
    if command.first().is_some_and(String::is_empty) {
        return Err(Error::invalid(field, "the program's name is empty").cure("name a program, for example \"sh\""));
    }
    if let Some(argument) = command.iter().find(|argument| argument.contains('\0')) {
        return Err(Error::invalid(field, format!("argument {argument:?} contains a NUL byte"))
            .cure("remove the NUL byte; the kernel cannot pass it"));
    }
    let bytes: usize = command.iter().map(|argument| argument.len() + 1).sum();
    if bytes > COMMAND_BYTES {
        return Err(Error::invalid(field, format!("the command has {bytes} bytes, the limit is {COMMAND_BYTES}"))
            .cure("put the data in a file and pass its path"));
    }
    Ok(())
}
