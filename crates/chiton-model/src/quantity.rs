//! Kubernetes quantities (`500m`, `1.5`, `64Mi`, `2G`): the one parser.
//!
//! Rule: Kubernetes API, "Quantity" (apimachinery resource.Quantity): a decimal number and a decimal (n u m k M G T P E),
//! binary (Ki Mi Gi Ti Pi Ei) or exponent (e3) suffix. CPU is kept in thousandths of a core, memory in bytes; both round
//! up, as Kubernetes does, so that a request never turns into nothing.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A number of the form mantissa × 10^tens × 2^twos, exact.
struct Parsed {
    digits: u128,
    tens: i32,
    twos: u32,
}

fn parse(text: &str) -> Option<Parsed> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || number.len() > 30 {
        return None;
    }
    let digits = format!("{whole}{fraction}").parse().ok()?;
    let places = i32::try_from(fraction.len()).ok()?;
    let (tens, twos) = match suffix {
        "" => (0, 0),
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 10),
        "Mi" => (0, 20),
        "Gi" => (0, 30),
        "Ti" => (0, 40),
        "Pi" => (0, 50),
        "Ei" => (0, 60),
        exponent => {
            let power = exponent.strip_prefix(['e', 'E'])?;
            (power.parse::<i8>().ok()?.into(), 0)
        }
    };
    Some(Parsed { digits, tens: tens - places, twos })
}

/// The value times `10^scale`, rounded up; `None` when it does not fit.
fn scaled(text: &str, scale: i32) -> Option<u64> {
    let parsed = parse(text)?;
    let value = parsed.digits.checked_mul(1_u128.checked_shl(parsed.twos)?)?;
    let tens = parsed.tens + scale;
    let power = 10_u128.checked_pow(tens.unsigned_abs());
    let result = if tens >= 0 {
        if value == 0 { 0 } else { value.checked_mul(power?)? }
    } else {
        match power {
            Some(power) => value.div_ceil(power),
            None => u128::from(value > 0),
        }
    };
    u64::try_from(result).ok()
}

macro_rules! quantity {
    ($(#[$meta:meta])* $name:ident, $scale:literal, $unit:ident, $what:literal, $example:literal) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name {
            text: String,
            #[schemars(skip)]
            amount: u64,
        }

        impl $name {
            /// Reads a quantity; `field` is the path that an error names.
            pub fn parse(field: &str, text: &str) -> Result<Self, Error> {
                let refuse = |why: &str| {
                    Error::invalid(field, format!("{} quantity {text:?} is not valid: {why}", $what))
                        .cure(concat!("write a Kubernetes quantity, for example ", $example))
                };
                let amount = scaled(text, $scale).ok_or_else(|| {
                    refuse(if parse(text).is_some() { "it is too large" } else { "it is not a number with a known suffix" })
                })?;
                if amount == 0 {
                    return Err(refuse("it must be more than zero"));
                }
                Ok(Self { text: text.to_owned(), amount })
            }

            /// The amount in the unit that the name says.
            pub fn $unit(&self) -> u64 {
                self.amount
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                Self::parse($what, text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self, Error> {
                Self::parse($what, &text)
            }
        }

        impl From<$name> for String {
            fn from(quantity: $name) -> String {
                quantity.text
            }
        }
    };
}

quantity!(
    /// An amount of processor time per time: `1` is one core, `500m` half of one.
    CpuQuantity, 3, millicores, "cpu", "\"500m\" or \"2\""
);
quantity!(
    /// An amount of memory.
    MemoryQuantity, 0, bytes, "memory", "\"256Mi\" or \"1G\""
);
