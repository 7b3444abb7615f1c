//! What an answer says of a call's outcome (lifecycle rule 5), and an error as an answer.

use std::error::Error as _;

use chiton_driver::CallError;
use chiton_model::{Error, ErrorKind};
use tonic::{Code, Status};

use crate::text;

/// HTTP/2 peers refuse header blocks over 16 KiB; a status travels in one, percent-encoded.
const LONGEST: usize = 4 << 10;

/// An error as the driver's answer. The cure goes along: the caller has no other field for it.
pub fn to_status(error: &Error) -> Status {
    let code = match &error.kind {
        ErrorKind::Invalid { .. } => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::Conflict | ErrorKind::Refused { .. } | ErrorKind::Unsupported { .. } => Code::FailedPrecondition,
        ErrorKind::Unavailable { .. } => Code::Unavailable,
        ErrorKind::Exhausted { .. } => Code::ResourceExhausted,
        ErrorKind::Deadline => Code::DeadlineExceeded,
        ErrorKind::Internal => Code::Internal,
    };
    let text = match &error.cure {
        Some(cure) => format!("{}; {cure}", error.message),
        None => error.message.clone(),
    };
    let end = text.char_indices().map(|(at, letter)| at + letter.len_utf8()).take_while(|end| *end <= LONGEST).last();
    Status::new(code, &text[..end.unwrap_or(0)])
}

/// Whether an answer came from the driver itself; else it is the transport's word for a call that nobody answered.
pub fn was_answered(status: &Status) -> bool {
    status.source().is_none()
}

/// Whether the driver says that it does not have this call.
pub fn is_unimplemented(status: &Status) -> bool {
    status.code() == Code::Unimplemented
}

/// An answer as an error. `driver` is the operator's name for it.
pub fn error(driver: &str, doing: &str, status: &Status) -> Error {
    let said = text::told(status.message(), text::MESSAGE);
    let text = if said.is_empty() { "it gives no reason" } else { &said };
    let text = format!("{doing}: driver {driver:?}: {text}");
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange => {
            Error::invalid("request", text).cure("change the request as the driver's words say")
        }
        Code::NotFound => Error::not_found(text),
        Code::AlreadyExists => Error::already_exists(text),
        Code::Aborted => Error::conflict(text),
        Code::FailedPrecondition | Code::PermissionDenied | Code::Unauthenticated => {
            Error::refused("driver", text).cure("change the request, or what the driver's words name")
        }
        Code::ResourceExhausted => Error::exhausted(driver, text),
        Code::DeadlineExceeded => Error::deadline(text),
        Code::Unavailable | Code::Cancelled => {
            Error::unavailable(driver, text).cure("look at the driver's own log; it may be restarting")
        }
        Code::Unimplemented => {
            Error::unsupported(driver, doing, text).cure("use another driver, or a version of this one that has it")
        }
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => {
            Error::internal(text).cure("look at the driver's own log")
        }
    }
}

/// What an answer to a call that changes something means.
pub fn outcome(driver: &str, doing: &str, status: &Status) -> CallError {
    let error = error(driver, doing, status);
    match status.code() {
        _ if !was_answered(status) => CallError::Unknown(error),
        // Refused before anything was done, by the contract.
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::Unimplemented
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::NotFound => CallError::NotRun(error),
        // The driver itself may not know.
        Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable | Code::Unknown | Code::Aborted => {
            CallError::Unknown(error)
        }
        _ => CallError::Failed(error),
    }
}
