//! Error conditions as gRPC statuses, both ways. The table is in the header of `gateway.proto`.

use std::error::Error as _;

use chiton_model::{Error, ErrorKind};
use chiton_proto::v1::ErrorDetail;
use prost::Message as _;
use tonic::{Code, Status};

/// HTTP/2 peers refuse header blocks over 16 KiB, and a status travels in one. The details are sent as base64 (a third
/// more), the message percent-encoded (up to three times as long); these bounds fit together with room to spare.
const LONGEST_MESSAGE: usize = 6 << 10;
const LONGEST_CURE: usize = 1 << 10;
const LONGEST_WORD: usize = 256;
const LONGEST_SUMMARY: usize = 512;

/// `error` as the message that carries it. Texts that are too long for a header are cut and end in "…".
pub fn to_detail(error: &Error) -> ErrorDetail {
    let mut detail = ErrorDetail {
        code: error.kind.code().to_owned(),
        message: cut(&error.message, LONGEST_MESSAGE),
        cure: cut(error.cure.as_deref().unwrap_or_default(), LONGEST_CURE),
        ..ErrorDetail::default()
    };
    match &error.kind {
        ErrorKind::Invalid { field } => detail.field = cut(field, LONGEST_WORD),
        ErrorKind::Refused { by } => detail.by = cut(by, LONGEST_WORD),
        ErrorKind::Unavailable { what } | ErrorKind::Exhausted { what } => detail.by = cut(what, LONGEST_WORD),
        ErrorKind::Unsupported { driver, point } => {
            detail.by = cut(driver, LONGEST_WORD);
            detail.point = cut(point, LONGEST_WORD);
        }
        ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::Conflict
        | ErrorKind::Deadline
        | ErrorKind::Internal => {}
    }
    detail
}

/// The status that carries `error`.
pub fn to_status(error: &Error) -> Status {
    let code = match &error.kind {
        ErrorKind::Invalid { .. } => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::Conflict => Code::Aborted,
        ErrorKind::Refused { .. } => Code::FailedPrecondition,
        ErrorKind::Unavailable { .. } => Code::Unavailable,
        ErrorKind::Exhausted { .. } => Code::ResourceExhausted,
        ErrorKind::Deadline => Code::DeadlineExceeded,
        ErrorKind::Unsupported { .. } => Code::Unimplemented,
        ErrorKind::Internal => Code::Internal,
    };
    Status::with_details(code, cut(&error.message, LONGEST_SUMMARY), to_detail(error).encode_to_vec().into())
}

/// The error that `status` carries. A status without (sound) details comes from below the gateway: from the transport
/// or from the RPC library, and is named as such.
pub fn from_status(status: &Status) -> Error {
    if !status.details().is_empty()
        && let Ok(detail) = ErrorDetail::decode(status.details())
        && let Some(error) = from_detail(&detail)
    {
        return error;
    }
    let text = if status.message().trim().is_empty() { "it gives no reason" } else { status.message() };
    if let Some(cause) = status.source() {
        return Error::unavailable("gateway", format!("the connection to the gateway broke: {}", innermost(cause)))
            .cure("see whether the gateway still runs, then repeat the command");
    }
    match status.code() {
        // The library's own, for a message that is larger than it takes.
        Code::OutOfRange => Error::invalid("request", format!("a message of the request is too large: {text}"))
            .cure("send less at once; put large data into a file and copy it (chiton cp)"),
        Code::InvalidArgument => Error::invalid("request", text),
        Code::NotFound => Error::not_found(text),
        Code::AlreadyExists => Error::already_exists(text),
        Code::Aborted => Error::conflict(text),
        Code::FailedPrecondition | Code::PermissionDenied | Code::Unauthenticated => Error::refused("gateway", text),
        Code::Unavailable => Error::unavailable("gateway", format!("the gateway cannot be reached: {text}"))
            .cure("see whether the gateway still runs, then repeat the command"),
        Code::ResourceExhausted => Error::exhausted("gateway", text),
        Code::DeadlineExceeded => Error::deadline(text),
        Code::Cancelled => Error::unavailable("gateway", format!("the gateway ended the call: {text}")),
        Code::Unimplemented => {
            Error::unsupported("gateway", "call", format!("the gateway does not know this call: {text}"))
                .cure("the gateway is probably older than this program; use the `chiton` that it was started with")
        }
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => {
            Error::internal(format!("the call to the gateway failed ({:?}): {text}", status.code()))
        }
    }
}

/// The error in `detail`. `None` if its code is none of the known words.
pub fn from_detail(detail: &ErrorDetail) -> Option<Error> {
    let field = || detail.field.clone();
    let by = || detail.by.clone();
    let kind = match detail.code.as_str() {
        "invalid" => ErrorKind::Invalid { field: field() },
        "not_found" => ErrorKind::NotFound,
        "already_exists" => ErrorKind::AlreadyExists,
        "conflict" => ErrorKind::Conflict,
        "refused" => ErrorKind::Refused { by: by() },
        "unavailable" => ErrorKind::Unavailable { what: by() },
        "exhausted" => ErrorKind::Exhausted { what: by() },
        "deadline" => ErrorKind::Deadline,
        "unsupported" => ErrorKind::Unsupported { driver: by(), point: detail.point.clone() },
        "internal" => ErrorKind::Internal,
        _ => return None,
    };
    let message = if detail.message.trim().is_empty() { "it gives no reason" } else { &detail.message };
    let cure = Some(detail.cure.clone()).filter(|cure| !cure.is_empty());
    Some(Error { kind, message: message.to_owned(), cure })
}

fn innermost<'a>(mut cause: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause
}

fn cut(text: &str, longest: usize) -> String {
    if text.len() <= longest {
        return text.to_owned();
    }
    let mut end = longest - '…'.len_utf8();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}
