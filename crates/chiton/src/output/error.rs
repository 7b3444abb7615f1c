//! Errors: what happened and why, the cure, the code.

use std::io::Write as _;
use std::process::ExitCode;

use chiton_model::Error;
use serde_json::json;

use super::{escape, escape_json};

fn print(error: &Error, json: bool) {
    let code = error.kind.code();
    let text = if json {
        let document =
            json!({ "error": { "code": code, "message": error.message, "cure": error.cure, "kind": error.kind } })
                .to_string();
        escape_json(&document)
    } else {
        let cure = error.cure.as_deref().map(|cure| format!("\n  cure: {}", escape(cure))).unwrap_or_default();
        format!("error: {} [{code}]{cure}", escape(&error.message))
    };
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// Prints an error; the exit code of a failure.
pub(crate) fn fail(error: &Error, json: bool) -> ExitCode {
    print(error, json);
    ExitCode::FAILURE
}

/// Prints errors; the exit code of a failure.
pub(crate) fn fail_all(errors: &[Error], json: bool) -> ExitCode {
    for error in errors {
        print(error, json);
    }
    ExitCode::FAILURE
}
