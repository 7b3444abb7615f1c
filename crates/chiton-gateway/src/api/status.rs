//! Error conditions as gRPC statuses.

use chiton_model::{Error, ErrorKind};
use chiton_proto::v1::ErrorDetail;
use prost::Message as _;
use tonic::{Code, Status};

/// An error as its detail message.
pub(crate) fn detail(error: &Error) -> ErrorDetail {
    let mut detail = ErrorDetail {
        code: error.kind.code().to_owned(),
        message: error.message.clone(),
        cure: error.cure.clone().unwrap_or_default(),
        ..ErrorDetail::default()
    };
    match &error.kind {
        ErrorKind::Invalid { field } => detail.field.clone_from(field),
        ErrorKind::Refused { by } => detail.by.clone_from(by),
        ErrorKind::Unavailable { what } | ErrorKind::Exhausted { what } => detail.by.clone_from(what),
        ErrorKind::Unsupported { driver, point } => {
            detail.by.clone_from(driver);
            detail.point.clone_from(point);
        }
        ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::Conflict
        | ErrorKind::Deadline
        | ErrorKind::Internal => {}
    }
    detail
}

/// An error as a status whose details hold an encoded `ErrorDetail`.
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
    Status::with_details(code, error.message.clone(), detail(error).encode_to_vec().into())
}

/// The error condition that a status of ours carries; a foreign status is internal.
pub(crate) fn from_status(status: &Status) -> Error {
    let Ok(detail) = ErrorDetail::decode(status.details()) else {
        return Error::internal(status.message().to_owned());
    };
    let kind = match detail.code.as_str() {
        "invalid" => ErrorKind::Invalid { field: detail.field },
        "not_found" => ErrorKind::NotFound,
        "already_exists" => ErrorKind::AlreadyExists,
        "conflict" => ErrorKind::Conflict,
        "refused" => ErrorKind::Refused { by: detail.by },
        "unavailable" => ErrorKind::Unavailable { what: detail.by },
        "exhausted" => ErrorKind::Exhausted { what: detail.by },
        "deadline" => ErrorKind::Deadline,
        "unsupported" => ErrorKind::Unsupported { driver: detail.by, point: detail.point },
        _ => ErrorKind::Internal,
    };
    let cure = (!detail.cure.is_empty()).then_some(detail.cure);
    Error { kind, message: detail.message, cure }
}
