//! Names that people choose: sandbox and workspace names follow the DNS label rule (RFC 1123, 63 characters), because
//! every platform a driver may target accepts it.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;

fn check(field: &str, what: &str, text: &str) -> Result<(), Error> {
    let refuse = |why: &str| {
        // Debug form: control characters and look-alikes must not reach a terminal raw.
        Error::invalid(field, format!("{what} {text:?} is not valid: {why}"))
            .cure("use 1 to 63 lower-case letters, digits and inner hyphens, for example \"build-7\"")
    };
    if text.is_empty() {
        return Err(refuse("it is empty"));
    }
    if text.len() > 63 {
        return Err(refuse(&format!("it has {} bytes, the limit is 63", text.len())));
    }
    if let Some(odd) = text.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-')) {
        return Err(refuse(&format!("it contains {odd:?}")));
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err(refuse("it begins or ends with a hyphen"));
    }
    Ok(())
}

macro_rules! name {
    ($(#[$meta:meta])* $name:ident, $field:literal, $what:literal) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks the text and takes it as a name.
            pub fn new(text: impl Into<String>) -> Result<Self, Error> {
                let text = text.into();
                check($field, $what, &text)?;
                Ok(Self(text))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

name!(
    /// What a person calls a sandbox; unique in its workspace among live sandboxes, free again after a delete.
    SandboxName, "name", "sandbox name"
);
name!(
    /// A tenant's room; every sandbox is in one.
    WorkspaceName, "workspace", "workspace name"
);
name!(
    /// A named volume within its workspace.
    VolumeName, "volume", "volume name"
);

impl Default for WorkspaceName {
    fn default() -> Self {
        Self("default".to_owned())
    }
}
