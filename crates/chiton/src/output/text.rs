//! Small texts.

use std::fmt::Write as _;

use jiff::Timestamp;

/// Text from outside, harmless on a terminal: control characters and what reorders text are escaped, line breaks kept.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let reorders = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (c.is_control() && c != '\n') || reorders {
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
    escape(text).replace('\n', "\\n")
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
