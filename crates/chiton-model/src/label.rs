//! Labels, annotations and environment names: Kubernetes' label syntax and the reserved keys.
//!
//! Reserved keys are refused, not ignored: a request that sets one is asking for something that only the gateway may
//! decide, and dropping it in silence would hide that.

use std::collections::BTreeMap;

use crate::error::Error;

/// Label and annotation prefixes that only the gateway and its drivers set.
pub const RESERVED_PREFIXES: [&str; 5] =
    ["chiton.dev/", "openshell.io/", "openshell.ai/", "agents.x-k8s.io/", "spiffe.io/"];

/// Environment prefixes that only the gateway and its drivers set.
pub const RESERVED_ENV: [&str; 2] = ["CHITON_", "OPENSHELL_"];

/// The labels that every backend object carries (set last, always win).
pub mod managed {
    /// Always `chiton`.
    pub const MANAGED_BY: &str = "chiton.dev/managed-by";
    /// The installation that owns the object.
    pub const GATEWAY_ID: &str = "chiton.dev/gateway-id";
    /// The store's life in which it was made.
    pub const STORE_EPOCH: &str = "chiton.dev/store-epoch";
    /// The number of the commit that intended it.
    pub const COMMIT: &str = "chiton.dev/commit";
    /// The sandbox it belongs to.
    pub const SANDBOX_ID: &str = "chiton.dev/sandbox-id";
    /// The sandbox's name when it was made.
    pub const SANDBOX_NAME: &str = "chiton.dev/sandbox-name";
    /// The workspace.
    pub const WORKSPACE: &str = "chiton.dev/workspace";
    /// The operation that made it.
    pub const OPERATION: &str = "chiton.dev/operation";
}

/// Checks a label key: an optional DNS prefix of at most 253 characters, a slash, and a name of at most 63.
/// Rule: Kubernetes, "Labels and Selectors", syntax and character set.
pub fn check_key(field: &str, key: &str) -> Result<(), Error> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let prefix_sound = prefix.is_none_or(|prefix| {
        matches!(prefix.len(), 1..=253)
            && prefix.split('.').all(|part| {
                !part.is_empty()
                    && !part.starts_with('-')
                    && !part.ends_with('-')
                    && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            })
    });
    if prefix_sound && !name.is_empty() && qualified(name) {
        return Ok(());
    }
    Err(Error::invalid(field, format!("key {key:?} is not a valid label key")).cure(
        "use [prefix/]name: at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit",
    ))
}

/// Checks a label value: at most 63 characters of the same set, or empty.
pub fn check_value(field: &str, key: &str, value: &str) -> Result<(), Error> {
    if value.is_empty() || qualified(value) {
        return Ok(());
    }
    Err(Error::invalid(field, format!("value {value:?} of label {key:?} is not valid"))
        .cure("use at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit"))
}

fn qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes[0].is_ascii_alphanumeric()
        && bytes[bytes.len() - 1].is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Whether only the gateway may set this label or annotation key.
pub fn is_reserved(key: &str) -> bool {
    RESERVED_PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

/// Whether only the gateway may set this environment variable.
pub fn is_reserved_env(name: &str) -> bool {
    RESERVED_ENV.iter().any(|prefix| name.starts_with(prefix))
}

/// Checks labels that a caller sent: syntax, and no reserved key.
pub fn check_request_labels(field: &str, labels: &BTreeMap<String, String>) -> Result<(), Error> {
    for (key, value) in labels {
        check_key(field, key)?;
        if let Some(prefix) = RESERVED_PREFIXES.iter().find(|prefix| key.starts_with(**prefix)) {
            return Err(Error::refused(
                "policy",
                format!("label {key:?} is reserved: keys under {prefix:?} are set by the gateway"),
            )
            .cure("choose a key without a reserved prefix; to ask for an extension use --extension"));
        }
        check_value(field, key, value)?;
    }
    Ok(())
}

/// Checks environment variables that a caller sent: names, values without NUL, and no reserved name.
pub fn check_request_env(field: &str, env: &BTreeMap<String, String>) -> Result<(), Error> {
    for (name, value) in env {
        let sound = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !sound || name.len() > 255 {
            return Err(Error::invalid(field, format!("environment name {name:?} is not valid"))
                .cure("use letters, digits and '_', not beginning with a digit, at most 255 characters"));
        }
        if let Some(prefix) = RESERVED_ENV.iter().find(|prefix| name.starts_with(**prefix)) {
            return Err(Error::refused(
                "policy",
                format!(
                    "environment variable {name:?} is reserved: names that begin with {prefix:?} are set by the gateway"
                ),
            )
            .cure("choose another name"));
        }
        if value.contains('\0') {
            return Err(Error::invalid(
                field,
                format!("the value of environment variable {name:?} contains a NUL byte"),
            )
            .cure("remove the NUL byte; the kernel cannot pass it"));
        }
    }
    Ok(())
}
