//! Words of the command line.

#[cfg(test)]
mod tests;

use std::time::Duration;

use chiton_proto::v1::VolumeMount;
use jiff::{SignedDuration, Timestamp};

/// `K=V`.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

/// `NAME:/path`, `NAME:/path:ro`.
pub(crate) fn volume(text: &str) -> Result<VolumeMount, String> {
    let (rest, read_only) = text.strip_suffix(":ro").map_or((text, false), |rest| (rest, true));
    match rest.split_once(':') {
        Some((name, target)) if !name.is_empty() && target.starts_with('/') => {
            Ok(VolumeMount { name: name.to_owned(), target: target.to_owned(), read_only })
        }
        _ => Err("write NAME:/path, or NAME:/path:ro".to_owned()),
    }
}

/// `500ms`, `5s`, `1m30s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed: Option<SignedDuration> = text.parse().ok();
    match parsed.and_then(|duration| Duration::try_from(duration).ok()) {
        Some(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("write a time such as 500ms, 5s or 1m30s".to_owned()),
    }
}

/// What begins an escape sequence of a terminal; none switches it off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EscapeKey(pub(crate) Option<u8>);

/// One printable ASCII character, or `none`.
pub(crate) fn escape_key(text: &str) -> Result<EscapeKey, String> {
    match text.as_bytes() {
        b"none" => Ok(EscapeKey(None)),
        [key] if key.is_ascii_graphic() => Ok(EscapeKey(Some(*key))),
        _ => Err("write one printable ASCII character, or none".to_owned()),
    }
}

/// An RFC 3339 time, or how long ago.
pub(crate) fn since(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let ago = duration(text).map_err(|_| "write an RFC 3339 time, or how long ago: 10m".to_owned())?;
    let ago = SignedDuration::try_from(ago).map_err(|error| error.to_string())?;
    now.checked_sub(ago).map_err(|error| error.to_string())
}

/// The same, as of now.
pub(crate) fn since_now(text: &str) -> Result<Timestamp, String> {
    since(text, Timestamp::now())
}

/// One side of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// A path on this machine.
    Local(std::path::PathBuf),
    /// A path in a sandbox.
    Remote {
        /// The sandbox's name.
        name: String,
        /// Absolute path in it.
        path: String,
    },
}

/// `NAME:/path` is in a sandbox; everything else is here (`./a:/b` is how to say that such a name is a file).
pub(crate) fn remote_or_local(text: &str) -> Result<Side, String> {
    if text.is_empty() {
        return Err("the path is empty".to_owned());
    }
    match text.split_once(':') {
        Some((name, path)) if path.starts_with('/') && !name.is_empty() && !name.contains('/') => {
            Ok(Side::Remote { name: name.to_owned(), path: path.to_owned() })
        }
        Some((name, path)) if !name.contains('/') && !path.starts_with('/') => Err(format!(
            "{path:?} is not an absolute path in a sandbox; write {name}:/{path}, or ./{text} for a file of that name"
        )),
        _ => Ok(Side::Local(text.into())),
    }
}
