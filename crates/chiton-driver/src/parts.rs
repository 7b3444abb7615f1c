//! What plans of different drivers have in common: parts that mean the same everywhere, and the checks of their texts.

use std::path::{Component, Path};
use std::str::FromStr;

use chiton_model::{Error, VolumeMount, VolumeName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which sandbox a plan is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SandboxRef {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its workspace.
    pub workspace: String,
}

/// A host device shown in the sandbox under its own path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DevicePlan {
    /// Absolute path below `/dev`.
    pub path: String,
}

/// A named volume of the gateway shown in the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumePlan {
    /// Its name in the sandbox's workspace.
    pub name: VolumeName,
    /// Absolute path in the sandbox.
    pub target: String,
    /// Whether it cannot be written there.
    pub read_only: bool,
}

impl From<&VolumeMount> for VolumePlan {
    fn from(asked: &VolumeMount) -> Self {
        Self { name: asked.name.clone(), target: asked.target.clone(), read_only: asked.read_only }
    }
}

/// A segment of a JSON pointer (RFC 6901).
pub fn pointer_segment(text: &str) -> String {
    text.replace('~', "~0").replace('/', "~1")
}

/// Whether a text still has a slot's [`marker`](crate::marker) in it, so that it cannot be checked yet.
pub fn has_open_slot(text: &str) -> bool {
    text.contains("<known after apply: ")
}

/// Checks a host name as hostname(7) has it.
pub fn check_hostname(field: &str, name: &str) -> Result<(), Error> {
    let sound = matches!(name.len(), 1..=63)
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
        && !name.starts_with(['-', '.'])
        && !name.ends_with(['-', '.']);
    if sound {
        return Ok(());
    }
    Err(Error::invalid(field, format!("host name {name:?} is not valid"))
        .cure("use 1 to 63 letters, digits and inner hyphens"))
}

/// Checks that a path is absolute and has neither `..` nor `.` nor NUL in it.
pub fn check_path(field: &str, path: &str) -> Result<(), Error> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if path.starts_with('/') && plain && !path.contains('\0') {
        return Ok(());
    }
    Err(Error::invalid(field, format!("path {path:?} is not an absolute path without \"..\""))
        .cure("write the path from \"/\" without detours"))
}

/// Reads a positive whole number, as portable writes have them.
pub fn parse_count<T: FromStr + Default + PartialOrd>(field: &str, text: &str) -> Result<T, Error> {
    text.parse().ok().filter(|count| *count > T::default()).ok_or_else(|| {
        Error::invalid(field, format!("{text:?} is not a positive whole number"))
            .cure("write a number, for example \"256\"")
    })
}
