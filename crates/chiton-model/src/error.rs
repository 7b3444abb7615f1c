//! One enum of error conditions. Edges (gRPC, HTTP, the command line) translate it; nothing inside matches on text.

use serde::{Deserialize, Serialize};

/// Shorthand for results that carry [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of thing went wrong. Each kind has one stable code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ErrorKind {
    /// The request itself is malformed; `field` is the path of the part that is.
    Invalid {
        /// Path of the offending field, for example `resources.cpu`.
        field: String,
    },
    /// What was asked for does not exist.
    NotFound,
    /// What was to be made exists already.
    AlreadyExists,
    /// The request is sound but cannot run now, for example because another operation runs.
    Conflict,
    /// A rule, an extension or the operator's policy said no.
    Refused {
        /// Who refused: an extension's name, `policy`, `driver`, `request`.
        by: String,
    },
    /// Something that is needed is down for now; the same request may work later.
    Unavailable {
        /// What is down.
        what: String,
    },
    /// A limited resource is used up.
    Exhausted {
        /// Which resource.
        what: String,
    },
    /// A deadline passed.
    Deadline,
    /// The driver cannot do this.
    Unsupported {
        /// The driver's id.
        driver: String,
        /// The portable point, phase or feature that it lacks.
        point: String,
    },
    /// A fault of Chiton or of the machine.
    Internal,
}

impl ErrorKind {
    /// The stable code that scripts may match on.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "invalid",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Conflict => "conflict",
            Self::Refused { .. } => "refused",
            Self::Unavailable { .. } => "unavailable",
            Self::Exhausted { .. } => "exhausted",
            Self::Deadline => "deadline",
            Self::Unsupported { .. } => "unsupported",
            Self::Internal => "internal",
        }
    }
}

/// An error condition with the text that people need: what happened and why, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(deny_unknown_fields)]
#[error("{message}")]
pub struct Error {
    /// The condition.
    pub kind: ErrorKind,
    /// What happened and why.
    pub message: String,
    /// What the reader can do about it, where there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

impl Error {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), cure: None }
    }

    /// Adds what the reader can do about it.
    #[must_use]
    pub fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }

    /// A malformed field of a request.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid { field: field.into() }, message)
    }

    /// Something that does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// Something that exists already.
    pub fn already_exists(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::AlreadyExists, message)
    }

    /// A request that cannot run now.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// A refusal by a rule, an extension or a policy.
    pub fn refused(by: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused { by: by.into() }, message)
    }

    /// A needed part that is down.
    pub fn unavailable(what: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable { what: what.into() }, message)
    }

    /// A resource that is used up.
    pub fn exhausted(what: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Exhausted { what: what.into() }, message)
    }

    /// A deadline that passed.
    pub fn deadline(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Deadline, message)
    }

    /// Something a driver cannot do.
    pub fn unsupported(driver: impl Into<String>, point: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported { driver: driver.into(), point: point.into() }, message)
    }

    /// A fault of ours or of the machine.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }
}
