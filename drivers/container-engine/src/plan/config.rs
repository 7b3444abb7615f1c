//! What a request may say to this driver alone.

use std::path::Path;

use chiton_driver::check_hostname;
use chiton_model::{Error, nearest, printable};
use serde::Deserialize;
use serde_json::Value;

use super::mounts::{MountPlan, SelinuxLabel};
use crate::options::EngineOptions;

/// The longest time to end by itself: with it a stop still fits its deadline.
const GRACE_LIMIT: u64 = 45;

/// The block `driver_config` of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DriverConfig {
    pub(super) hostname: Option<String>,
    pub(super) user: Option<String>,
    pub(super) workdir: Option<String>,
    pub(super) read_only: bool,
    /// Whether the image's own command runs when the request has none.
    pub(super) image_command: Option<bool>,
    pub(super) stop_grace_seconds: Option<u64>,
    pub(super) capabilities: Vec<String>,
    pub(super) cdi_devices: Option<Vec<String>>,
    pub(super) mounts: Vec<MountPlan>,
    /// Whether the main process has a terminal. With a supervisor only.
    pub(super) tty: Option<bool>,
    /// How much the supervisor says.
    pub(super) log_level: Option<String>,
}

const KEYS: [&str; 11] = [
    "capabilities",
    "cdi_devices",
    "hostname",
    "image_command",
    "log_level",
    "mounts",
    "read_only",
    "stop_grace_seconds",
    "tty",
    "user",
    "workdir",
];
const MOUNT_KEYS: [&str; 7] = ["mode", "read_only", "selinux_label", "size_bytes", "source", "target", "type"];
const MOUNT_TYPES: [&str; 4] = ["bind", "image", "tmpfs", "volume"];

impl DriverConfig {
    /// Reads the block strictly, and refuses what the operator does not allow.
    pub(super) fn decode(value: &Value, options: &EngineOptions) -> Result<Self, Error> {
        let kind = options.dialect.kind();
        let Some(object) = value.as_object() else {
            return Err(Error::invalid("driver_config", "the driver's block is not a table")
                .cure(format!("the keys are {}", KEYS.join(", "))));
        };
        if let Some(key) = object.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(unknown(&format!("driver_config.{key}"), &format!("the {kind} driver"), key, &KEYS));
        }
        if let Some(mounts) = object.get("mounts").and_then(Value::as_array) {
            for (index, mount) in mounts.iter().enumerate() {
                known_mount(&format!("driver_config.mounts[{index}]"), mount)?;
            }
        }
        // Each key by itself, so that an error can say which it is about.
        for (key, value) in object {
            if value.is_null() {
                return Err(no_value(&format!("driver_config.{key}"), key));
            }
            let single = serde_json::json!({ key: value });
            serde_json::from_value::<Self>(single).map_err(|error| {
                Error::invalid(
                    format!("driver_config.{key}"),
                    format!("{key} cannot be read: {}", printable(&error.to_string())),
                )
                .cure("docs/engines.md has the forms of the driver's options")
            })?;
        }
        let mut config: Self = serde_json::from_value(value.clone())
            .map_err(|error| Error::invalid("driver_config", printable(&error.to_string())))?;
        config.check(options)?;
        Ok(config)
    }

    fn check(&mut self, options: &EngineOptions) -> Result<(), Error> {
        self.check_agent(options)?;
        if let Some(name) = &self.hostname {
            check_hostname("driver_config.hostname", name)?;
        }
        if let Some(user) = &self.user {
            check_user(user)?;
        }
        if self.stop_grace_seconds.is_some_and(|seconds| seconds > GRACE_LIMIT) {
            let text =
                format!("stop_grace_seconds: more than {GRACE_LIMIT} seconds do not fit into the deadline of a stop");
            return Err(
                Error::invalid("driver_config.stop_grace_seconds", text).cure(format!("use at most {GRACE_LIMIT}"))
            );
        }
        for (index, name) in self.capabilities.iter_mut().enumerate() {
            *name = name.trim_start_matches("CAP_").to_owned();
            if !options.allowed.capabilities.contains(name.as_str()) {
                let text = format!("the capability {name:?} is not allowed here");
                return Err(Error::refused("policy", text).cure(format!(
                    "remove driver_config.capabilities[{index}], or let the operator list it: capabilities = [{name:?}]"
                )));
            }
        }
        self.capabilities.sort();
        self.capabilities.dedup();
        if self.cdi_devices.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::invalid("driver_config.cdi_devices", "the list is empty")
                .cure("name a device, or leave the key out"));
        }
        for name in self.cdi_devices.iter().flatten() {
            if !options.allowed.cdi_devices.contains(name) {
                return Err(Error::refused("policy", format!("the device {name:?} is not allowed here"))
                    .cure(format!("let the operator list it: cdi_devices = [{name:?}]")));
            }
        }
        for (index, mount) in self.mounts.iter_mut().enumerate() {
            check_mount(&format!("driver_config.mounts[{index}]"), mount, options)?;
        }
        Ok(())
    }

    /// Some keys are about a supervisor, and some mean nothing where one is.
    fn check_agent(&self, options: &EngineOptions) -> Result<(), Error> {
        let supervisor = options.agent.supervisor().is_some();
        let (keys, whose): (Vec<(&str, bool)>, _) = if supervisor {
            let keys = vec![
                ("capabilities", !self.capabilities.is_empty()),
                ("image_command", self.image_command.is_some()),
                ("read_only", self.read_only),
                ("user", self.user.is_some()),
            ];
            (keys, "decided by the supervisor, which this driver puts into its sandboxes")
        } else {
            let keys = vec![("log_level", self.log_level.is_some()), ("tty", self.tty.is_some())];
            (keys, "about a supervisor, and this driver puts none into its sandboxes")
        };
        if let Some((key, _)) = keys.iter().find(|(_, given)| *given) {
            return Err(
                Error::invalid(format!("driver_config.{key}"), format!("{key} is {whose}")).cure("leave it out")
            );
        }
        let plain = |level: &String| {
            matches!(level.len(), 1..=64)
                && level.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"=,_:-".contains(&byte))
        };
        if self.log_level.as_ref().is_some_and(|level| !plain(level)) {
            return Err(Error::invalid("driver_config.log_level", "this is not a log level")
                .cure("write one of error, warn, info, debug, trace"));
        }
        Ok(())
    }

    pub(super) fn grace(&self, options: &EngineOptions) -> u64 {
        self.stop_grace_seconds.unwrap_or_else(|| options.stop_grace.as_secs().min(GRACE_LIMIT))
    }
}

fn unknown(field: &str, whose: &str, key: &str, known: &[&str]) -> Error {
    let error = Error::invalid(field, format!("{whose} has no option {key:?}"));
    error.cure(match nearest(key, known.iter().copied()) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("the options are {}", known.join(", ")),
    })
}

fn no_value(field: &str, key: &str) -> Error {
    Error::invalid(field, format!("{key} has no value")).cure("give it one, or leave it out")
}

fn known_mount(field: &str, mount: &Value) -> Result<(), Error> {
    let Some(object) = mount.as_object() else {
        return Err(Error::invalid(field, "a mount is a table").cure("write { type = \"tmpfs\", target = \"/tmp\" }"));
    };
    if let Some(key) = object.keys().find(|key| !MOUNT_KEYS.contains(&key.as_str())) {
        return Err(unknown(&format!("{field}.{key}"), "a mount", key, &MOUNT_KEYS));
    }
    if let Some((key, _)) = object.iter().find(|(_, value)| value.is_null()) {
        return Err(no_value(&format!("{field}.{key}"), key));
    }
    let named = object.get("type").and_then(Value::as_str);
    if !named.is_some_and(|name| MOUNT_TYPES.contains(&name)) {
        let text =
            format!("{} is no type of mount", printable(&object.get("type").unwrap_or(&Value::Null).to_string()));
        return Err(
            Error::invalid(format!("{field}.type"), text).cure(format!("the types are {}", MOUNT_TYPES.join(", ")))
        );
    }
    Ok(())
}

/// What the operator must have allowed. A bind's source becomes what its links lead to now.
fn check_mount(field: &str, mount: &mut MountPlan, options: &EngineOptions) -> Result<(), Error> {
    match mount {
        MountPlan::Bind { source, selinux_label, .. } => {
            if *selinux_label == Some(SelinuxLabel::Private) && !options.relabel {
                return Err(Error::refused("policy", "binds are not relabelled here").cure("leave selinux_label out"));
            }
            *source = allowed_bind(field, source, options)?;
        }
        MountPlan::Volume { source, .. } if options.allowed.volumes.contains(source.as_str()) => {}
        MountPlan::Volume { source, .. } => {
            return Err(Error::refused("policy", format!("the engine's volume {source:?} is not allowed here")).cure(
                format!("use a volume of the gateway (--volume NAME:/path), or let the operator list it: volumes = [{source:?}]"),
            ));
        }
        MountPlan::Tmpfs { mode: Some(mode), .. } if *mode > 0o7777 => {
            return Err(Error::invalid(format!("{field}.mode"), format!("{mode} is not a file mode"))
                .cure("write a number up to 4095, for example 1023 for octal 1777"));
        }
        MountPlan::Tmpfs { .. } | MountPlan::Image { .. } => {}
    }
    Ok(())
}

fn allowed_bind(field: &str, source: &str, options: &EngineOptions) -> Result<String, Error> {
    let refuse = |why: &str| {
        Error::refused("policy", format!("the host's {source:?} cannot be shown: {why}")).cure(format!(
            "let the operator list a folder above it: bind_roots = [\"/srv/shared\"] in [compute.driver.{}]",
            options.id
        ))
    };
    if options.allowed.bind_roots.is_empty() {
        return Err(refuse("binds are not allowed here"));
    }
    let resolved = std::fs::canonicalize(source).map_err(|error| {
        Error::not_found(format!("{field}.source: {source:?} is not on this machine: {error}"))
            .cure("name a file or folder that exists on the gateway's machine")
    })?;
    if !options.allowed.bind_roots.iter().any(|root| resolved.starts_with(root)) {
        return Err(refuse("it is not below an allowed folder"));
    }
    if [&options.state_dir, &options.run_dir].into_iter().any(|own| touches(own, &resolved)) {
        return Err(refuse("it would show the driver's own files"));
    }
    resolved.into_os_string().into_string().map_err(|path| {
        Error::invalid(format!("{field}.source"), format!("the path {} is not UTF-8", path.to_string_lossy()))
            .cure("rename it")
    })
}

fn touches(own: &Path, other: &Path) -> bool {
    let own = std::fs::canonicalize(own).unwrap_or_else(|_| own.to_owned());
    own.starts_with(other) || other.starts_with(&own)
}

fn check_user(user: &str) -> Result<(), Error> {
    let part = |part: &str| {
        matches!(part.len(), 1..=32)
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
            && !part.starts_with('-')
    };
    let mut parts = user.split(':');
    if parts.by_ref().take(2).all(part) && parts.next().is_none() {
        return Ok(());
    }
    Err(Error::invalid("driver_config.user", format!("{user:?} is not a user"))
        .cure("write a name or number, with a group if you like: app, 1000, app:staff, 1000:1000"))
}
