//! What people and programs get to read.

mod error;
mod json;
mod table;
mod text;

pub(crate) use error::{fail, fail_all};
pub(crate) use json::{driver, explained, extension, obligation, operation, orphan, plan, sandbox};
pub(crate) use table::Table;
pub(crate) use text::{age, escape, micros, one_line};

use std::io::Write as _;

use serde_json::Value;

/// Prints a line. A reader that went away is no failure of ours: the next write ends the program.
pub(crate) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Prints a JSON document: pretty for one, compact as a line of a stream.
pub(crate) fn document(value: &Value) {
    line(&format!("{value:#}"));
}

/// Prints one line of a JSON stream.
pub(crate) fn json_line(value: &Value) {
    line(&value.to_string());
}
