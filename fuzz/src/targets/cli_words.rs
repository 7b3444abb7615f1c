//! Words of the command line.

use std::path::Path;

use chiton::fuzzing::{command, duration, key_value, side, since};
use jiff::Timestamp;

use super::Target;
use crate::behaviour::{note, note_text};

pub(super) const TARGET: Target = Target {
    name: "cli_words",
    about: "the command line's own words: durations, --since, KEY=VALUE, sides of a copy",
    run,
    seeds,
    words: &[
        "1m30s",
        "500ms",
        "P1Y",
        "PT5H",
        "2024-01-01T00:00:00Z",
        "9999-12-31",
        "-",
        "ago",
        "days",
        "web:/etc",
        "./a:/b",
        "=",
        "::",
        "9223372036854775807",
        "sandbox",
        "create",
        "--",
        "logs",
        "--since",
        "exec",
        "cp",
    ],
    longest: 300,
    short: 6_000,
    memory: (1024, 16 << 20),
};

fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "1m30s",
        "500ms",
        "5 hours ago",
        "2024-01-01T00:00:00Z",
        "web:/etc/hosts",
        "./a:b",
        "A=1",
        "0s",
        "10m",
        "sandbox\ncreate\nweb\n--image\nhost",
        "sandbox\nlogs\nweb\n--since\n10m",
        "cp\nweb:/a\nb",
        "exec\nweb\n--\nls\n-l",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn answered<T>(result: Result<T, String>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(why) => {
            note_text(&why);
            assert!(!why.is_empty());
            None
        }
    }
}

fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some((key, value)) = answered(key_value(&text)) {
        assert_eq!(format!("{key}={value}"), text);
        assert!(!key.is_empty() && !key.contains('='));
    }
    if let Some(duration) = answered(duration(&text)) {
        note("duration");
        assert!(!duration.is_zero());
    }
    let now = Timestamp::from_second(1_700_000_000).expect("a time");
    if let Some(then) = answered(since(&text, now)) {
        note(then < now);
        assert!(duration(&text).is_err() || then < now, "{text:?} ago is {then}");
    }
    if let Some((name, path)) = answered(side(&text)) {
        note(name.is_some());
        match name {
            Some(name) => {
                assert!(!name.is_empty() && !name.contains(['/', ':']) && path.is_absolute());
                assert_eq!(format!("{name}:{}", path.display()), text);
            }
            None => assert_eq!(path, Path::new(text.as_ref())),
        }
    }
    arguments(&text);
}

/// A whole command line, a word a line.
fn arguments(text: &str) {
    if !text.contains('\n') {
        return;
    }
    let words = std::iter::once("chiton").chain(text.split('\n'));
    if let Err(error) = command().try_get_matches_from(words) {
        note(error.kind().to_string());
        let text = error.to_string();
        assert!(!text.is_empty());
    }
}
