//! Durations as operators write them: `5s`, `250ms`, `1m30s`, `24h`, `7d`.

use std::time::Duration;

/// More than any setting needs, and small enough to be added to any clock.
const LONGEST: Duration = Duration::from_hours(24 * 365);

/// Units from the longest, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Why a text is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DurationError {
    #[error("it is empty")]
    Empty,
    #[error("it must not be negative")]
    Negative,
    #[error("it contains a space")]
    Space,
    #[error("it has no unit")]
    NoUnit,
    #[error("it is not whole numbers with units ms, s, m, h or d, longest unit first")]
    Form,
    #[error("it is longer than 365d")]
    Long,
}

/// Reads a duration.
pub(super) fn parse(text: &str) -> Result<Duration, DurationError> {
    if text.is_empty() {
        return Err(DurationError::Empty);
    }
    if text.starts_with('-') {
        return Err(DurationError::Negative);
    }
    if text.contains(char::is_whitespace) {
        return Err(DurationError::Space);
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(DurationError::NoUnit);
    }
    let (mut rest, mut units, mut total) = (text, &UNITS[..], 0_u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(DurationError::Form)?;
        let number: u64 = match rest[..digits].parse() {
            Ok(number) => number,
            Err(_) if digits > 0 => return Err(DurationError::Long),
            Err(_) => return Err(DurationError::Form),
        };
        rest = &rest[digits..];
        let unit = &rest[..rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len())];
        let position = units.iter().position(|(name, _)| *name == unit).ok_or(DurationError::Form)?;
        total = number
            .checked_mul(units[position].1)
            .and_then(|part| total.checked_add(part))
            .ok_or(DurationError::Long)?;
        units = &units[position + 1..];
        rest = &rest[unit.len()..];
    }
    let duration = Duration::from_millis(total);
    if duration > LONGEST { Err(DurationError::Long) } else { Ok(duration) }
}

/// Writes a duration so that [`parse`] reads the same one; parts below a millisecond are dropped.
pub(super) fn format(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut parts = Vec::new();
    for (unit, millis) in UNITS.iter().skip(1) {
        if rest >= *millis {
            parts.push(format!("{}{unit}", rest / millis));
            rest %= millis;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.concat() }
}
