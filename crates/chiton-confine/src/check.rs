//! Conditions on a system call's arguments, written as text: `arg0 == 0x2 && arg1 & 0xf == 0x1`.
//!
//! Values are 32 bits wide and compared with the lower half of the argument: every argument that is limited here is an
//! `int` or `unsigned int` to the kernel, which ignores the upper half, so that a filter must ignore it too.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::ProfileError;

/// One condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// `argN == value`.
    Equal {
        /// Which argument, 0 to 5.
        arg: u8,
        /// What it is.
        value: u32,
    },
    /// `argN != value`.
    Differs {
        /// Which argument, 0 to 5.
        arg: u8,
        /// What it is not.
        value: u32,
    },
    /// `argN & mask == value`; the value has no bit outside of the mask.
    Masked {
        /// Which argument, 0 to 5.
        arg: u8,
        /// Which bits are looked at.
        mask: u32,
        /// What they are.
        value: u32,
    },
}

impl Check {
    /// Whether it holds for these arguments.
    pub fn holds(self, args: &[u64; 6]) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is what is compared")]
        let low = |arg: u8| args[usize::from(arg)] as u32;
        match self {
            Self::Equal { arg, value } => low(arg) == value,
            Self::Differs { arg, value } => low(arg) != value,
            Self::Masked { arg, mask, value } => low(arg) & mask == value,
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equal { arg, value } => write!(f, "arg{arg} == {value:#x}"),
            Self::Differs { arg, value } => write!(f, "arg{arg} != {value:#x}"),
            Self::Masked { arg, mask, value } => write!(f, "arg{arg} & {mask:#x} == {value:#x}"),
        }
    }
}

impl FromStr for Check {
    type Err = ProfileError;

    fn from_str(text: &str) -> Result<Self, ProfileError> {
        read(text).filter(|check| check.to_string() == text).ok_or_else(|| ProfileError::Condition(text.to_owned()))
    }
}

fn read(text: &str) -> Option<Check> {
    let argument = |word: &str| word.strip_prefix("arg")?.parse::<u8>().ok().filter(|arg| *arg < 6);
    let number = |word: &str| u32::from_str_radix(word.strip_prefix("0x")?, 16).ok();
    let words: Vec<&str> = text.split(' ').collect();
    match words.as_slice() {
        [arg, "==", value] => Some(Check::Equal { arg: argument(arg)?, value: number(value)? }),
        [arg, "!=", value] => Some(Check::Differs { arg: argument(arg)?, value: number(value)? }),
        [arg, "&", mask, "==", value] => {
            let (mask, value) = (number(mask)?, number(value)?);
            (value & !mask == 0).then_some(Check::Masked { arg: argument(arg)?, mask, value })
        }
        _ => None,
    }
}

/// Conditions that hold together; at least one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alternative(Vec<Check>);

impl Alternative {
    /// The conditions.
    pub fn checks(&self) -> &[Check] {
        &self.0
    }

    /// Whether all hold for these arguments.
    pub fn holds(&self, args: &[u64; 6]) -> bool {
        self.0.iter().all(|check| check.holds(args))
    }

    /// Whether it demands at least what the other demands.
    pub(crate) fn implies(&self, other: &Self) -> bool {
        other.0.iter().all(|check| self.0.contains(check))
    }
}

impl fmt::Display for Alternative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, check) in self.0.iter().enumerate() {
            let joint = if index == 0 { "" } else { " && " };
            write!(f, "{joint}{check}")?;
        }
        Ok(())
    }
}

impl FromStr for Alternative {
    type Err = ProfileError;

    fn from_str(text: &str) -> Result<Self, ProfileError> {
        text.split(" && ").map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl Serialize for Alternative {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Alternative {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Alternative {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Alternative".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "conditions on arguments, such as \"arg0 == 0x2 && arg1 & 0xf == 0x1\"",
        })
    }
}
