//! Small texts.

#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use base64::Engine as _;
use jiff::Timestamp;

/// Text from outside, harmless on a terminal: control characters and what reorders text are escaped, line breaks and
/// tabs kept.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if harmful(c) {
            // Writing to a string does not fail.
            let _ = write!(safe, "\\u{{{:x}}}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    safe
}

/// The same on one line.
pub(crate) fn one_line(text: &str) -> String {
    escape(text).replace('\n', "\\n").replace('\t', "\\t")
}

/// Control characters but line break and tab; marks, embeddings and isolates that change the direction of text (Unicode
/// TR 36); the line and paragraph separators.
fn harmful(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A JSON document whose strings hold none of that either: JSON itself escapes only what is below U+0020. The value
/// stays the same, and outside of strings JSON has no such characters.
pub(crate) fn escape_json(document: &str) -> String {
    let mut safe = String::with_capacity(document.len());
    for c in document.chars() {
        if harmful(c) {
            // Writing to a string does not fail. All of them are below U+10000, so four digits are enough.
            let _ = write!(safe, "\\u{:04x}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Bytes as JSON: `text` if they are UTF-8, else `base64`. Exactly one of the two is there.
pub(crate) fn data(bytes: &[u8]) -> (&'static str, String) {
    match std::str::from_utf8(bytes) {
        Ok(text) => ("text", text.to_owned()),
        Err(_) => ("base64", base64::engine::general_purpose::STANDARD.encode(bytes)),
    }
}

/// How long ago, in the largest unit that fits.
pub(crate) fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

/// Microseconds as milliseconds with as many digits as matter.
pub(crate) fn micros(us: u64) -> String {
    format!("{}.{:03} ms", us / 1000, us % 1000)
}
