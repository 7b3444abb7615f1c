//! Identifiers. Each is its own type, checked once, where it enters.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Crockford's base 32 in lower case: sorts like the bytes it encodes and has no look-alikes.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Encodes 48 bits of milliseconds and 80 random bits as 26 characters that sort by time.
fn encode(millis: u64, entropy: [u8; 10]) -> String {
    let mut bits = u128::from(millis & 0xffff_ffff_ffff) << 80;
    for (index, byte) in entropy.iter().enumerate() {
        bits |= u128::from(*byte) << (72 - 8 * index);
    }
    (0..26)
        .map(|digit| {
            let index = (bits >> (125 - 5 * digit)) & 31;
            char::from(ALPHABET[usize::try_from(index).expect("five bits fit")])
        })
        .collect()
}

/// The rule for every id that a library, a path or a label may see: `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`.
fn check(kind: &str, text: &str) -> Result<(), Error> {
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let sound = matches!(bytes.len(), 1..=63)
        && edge(bytes[0])
        && edge(bytes[bytes.len() - 1])
        && bytes.iter().all(|byte| edge(*byte) || *byte == b'-');
    if sound {
        return Ok(());
    }
    Err(Error::invalid(kind, format!("{kind} {text:?} is not valid"))
        .cure("use 1 to 63 lower-case letters, digits and inner hyphens"))
}

macro_rules! identifier {
    ($(#[$meta:meta])* $name:ident, $kind:literal) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks the text and takes it as an id.
            pub fn new(text: impl Into<String>) -> Result<Self, Error> {
                let text = text.into();
                check($kind, &text)?;
                Ok(Self(text))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
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
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

macro_rules! generated {
    ($name:ident, $prefix:literal) => {
        impl $name {
            /// A fresh id from the caller's clock (milliseconds since the epoch) and entropy; sorts by time.
            pub fn generate(millis: u64, entropy: [u8; 10]) -> Self {
                Self(format!(concat!($prefix, "{}"), encode(millis, entropy)))
            }
        }
    };
}

identifier!(
    /// Names one sandbox for ever: never reissued, unlike its name.
    SandboxId, "sandbox id"
);
generated!(SandboxId, "s-");
identifier!(
    /// Names one operation on one subject.
    OperationId, "operation id"
);
generated!(OperationId, "op-");
identifier!(
    /// Names one gateway installation; backend objects carry it.
    GatewayId, "gateway id"
);
generated!(GatewayId, "g-");
identifier!(
    /// Names one life of a store; renewed by restore and when the data folder was copied.
    StoreEpoch, "store epoch"
);
generated!(StoreEpoch, "e-");
identifier!(
    /// A driver as the operator's config names it.
    DriverId, "driver id"
);
identifier!(
    /// A lifecycle extension as its crate registers it.
    ExtensionName, "extension name"
);

/// Which installation of a platform a driver talks to. Free text from the platform, compared byte by byte.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct BackendId(pub String);

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
