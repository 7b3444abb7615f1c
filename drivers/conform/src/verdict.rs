//! What becomes of a case.

use std::fmt::{self, Debug};

use chiton_model::printable;
use serde::Serialize;
use tonic::{Code, Status};

/// The longest text of a driver's that a report repeats.
const LONGEST: usize = 600;

/// A rule that is broken, as it was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{what}: expected {expected}, found {found}")]
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// What the rule says.
    pub expected: String,
    /// What came. One line; what is odd in it is escaped.
    pub found: String,
}

/// Who says that a case does not apply, or that its failure is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The driver, by its capabilities or by UNIMPLEMENTED where that is allowed.
    Driver,
    /// Whoever runs the kit, by its options.
    Options,
    /// The file of declarations.
    File,
    /// The suite of all drivers' promises, or its bench, which knows the socket alone.
    Suite,
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Outcome {
    /// The rule is kept.
    Pass,
    /// It is not.
    Fail(Finding),
    /// It does not apply, or its failure is expected.
    Declared {
        /// Why.
        why: String,
        /// Who says so.
        by: By,
        /// The failure, where the case was tried.
        found: Option<Finding>,
    },
    /// It was declared to fail and passes: the declaration can go.
    PassDeclared {
        /// Why it was to fail.
        why: String,
    },
    /// Not tried: the case named here is about something that this one needs, and did not pass.
    Blocked {
        /// The other case.
        by: &'static str,
    },
}

impl Outcome {
    /// One word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail(_) => "FAIL",
            Self::Declared { .. } => "declared",
            Self::PassDeclared { .. } => "pass (declared)",
            Self::Blocked { .. } => "blocked",
        }
    }
}

/// Why a case ended early.
#[derive(Clone, Debug)]
pub(crate) enum Stop {
    Broken(Finding),
    /// It does not apply.
    NotHere(String, By),
}

/// How a case ends.
pub(crate) type Verdict<T = ()> = Result<T, Stop>;

/// What a driver answered.
pub(crate) type Answer<T = ()> = Result<T, Status>;

/// A breach of a rule.
pub(crate) fn broken(what: impl Into<String>, expected: impl Into<String>, found: impl fmt::Display) -> Stop {
    let found = printable(&found.to_string());
    let found = match found.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &found[..end]),
        None => found,
    };
    Stop::Broken(Finding { what: what.into(), expected: expected.into(), found })
}

/// A case that the driver says does not apply.
pub(crate) fn not_here<T>(by: By, why: impl Into<String>) -> Verdict<T> {
    Err(Stop::NotHere(why.into(), by))
}

/// Something that must hold.
pub(crate) fn ensure(holds: bool, what: &str, expected: &str, found: impl fmt::Display) -> Verdict {
    if holds { Ok(()) } else { Err(broken(what, expected, found)) }
}

/// Two things that must be the same.
pub(crate) fn equal<T: PartialEq + Debug + ?Sized>(what: &str, found: &T, expected: &T) -> Verdict {
    if found == expected { Ok(()) } else { Err(broken(what, format!("{expected:?}"), format!("{found:?}"))) }
}

/// An answer in words.
pub(crate) fn said(status: &Status) -> String {
    format!("{} {:?}", word(status.code()), status.message())
}

/// A call that must succeed.
pub(crate) fn must<T>(call: &str, answer: Answer<T>) -> Verdict<T> {
    answer.map_err(|status| broken(call, "OK", said(&status)))
}

/// A call that must be refused with one of these codes.
pub(crate) fn refused<T>(call: &str, answer: Answer<T>, codes: &[Code]) -> Verdict<Status> {
    let expected = || codes.iter().map(|code| word(*code)).collect::<Vec<_>>().join(" or ");
    match answer {
        Ok(_) => Err(broken(call, expected(), "OK")),
        Err(status) if codes.contains(&status.code()) => Ok(status),
        Err(status) => Err(broken(call, expected(), said(&status))),
    }
}

/// A code as the contract writes it.
pub(crate) fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// A script's end, by what its codes mean.
pub(crate) fn wrong_code(code: i32, right: i32, meanings: &[(i32, &str)]) -> Verdict {
    if code == right {
        return Ok(());
    }
    let why = meanings.iter().find(|(other, _)| *other == code).map_or("", |(_, why)| *why);
    Err(broken("the script's exit code", right.to_string(), format!("{code} {why}").trim()))
}
