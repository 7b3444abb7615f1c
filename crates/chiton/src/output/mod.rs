//! What people and programs get to read.

mod error;
mod json;
mod lists;
mod table;
mod text;

pub(crate) use error::{fail, fail_all};
pub(crate) use json::{driver, explained, extension, obligation, operation, orphan, plan, sandbox, time, volume};
pub(crate) use lists::{compact, wrap};
pub(crate) use table::Table;
pub(crate) use text::{age, data, escape, escape_json, micros, one_line};

use std::io::Write as _;
use std::process::ExitCode;

use chiton_client::from_detail;
use chiton_model::Error;
use chiton_proto::v1 as wire;
use serde_json::Value;

/// What a shell reports of a program that wrote to a reader who went away (128 + SIGPIPE).
pub(crate) const READER_GONE: u8 = 141;

/// Prints text and a line end. Whatever it was made of, nothing in it reaches a terminal as a command.
pub(crate) fn line(text: &str) {
    put(&escape(text));
}

/// Prints text of our own as it is.
pub(crate) fn put(text: &str) {
    let mut out = std::io::stdout().lock();
    let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) else { return };
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        // Nobody is there who could be told.
        std::process::exit(i32::from(READER_GONE));
    }
    let error = Error::internal(format!("the output cannot be written: {error}"))
        .cure("see whether the disk is full, or what standard output leads to");
    fail(&error, false);
    std::process::exit(1);
}

/// Says something on standard error that is no failure.
pub(crate) fn note(text: &str) {
    // Who does not listen misses a note, and nothing else.
    drop(writeln!(std::io::stderr(), "note: {}", escape(text)));
}

/// Says which drivers could not do their part. The exit code: a list without theirs is no success.
pub(crate) fn partial(failed: &[wire::DriverFailure], json: bool) -> ExitCode {
    let error = |failure: &wire::DriverFailure| {
        let detail = failure.error.clone().unwrap_or_default();
        let found = from_detail(&detail).unwrap_or_else(|| Error::internal("it gives no reason"));
        let message =
            format!("driver {:?} could not be asked, what it has is missing: {}", failure.driver, found.message);
        Error { message, ..found }
    };
    let errors: Vec<Error> = failed.iter().map(error).collect();
    if errors.is_empty() { ExitCode::SUCCESS } else { fail_all(&errors, json) }
}

/// Prints a JSON document: pretty for one, compact as a line of a stream.
pub(crate) fn document(value: &Value) {
    put(&escape_json(&format!("{value:#}")));
}

/// Prints one line of a JSON stream.
pub(crate) fn json_line(value: &Value) {
    put(&escape_json(&value.to_string()));
}
