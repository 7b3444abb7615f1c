//! What becomes of a case: data, not panics, because the same cases run against drivers that are other programs.

use std::fmt;
use std::time::Duration;

use chiton_driver::CallError;
use chiton_model::Error;
use serde::Serialize;

/// What a driver did that a driver must not do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// Something is not as it must be.
    #[error("{what}: expected {expected}, found {found}")]
    Wrong {
        /// What was looked at.
        what: String,
        /// What the rule says.
        expected: String,
        /// What was seen.
        found: String,
    },
    /// A call that must succeed did not.
    #[error("{call} ended as {}: {error}{}", kind(.error), cure(.error.error()))]
    Call {
        /// Which call.
        call: String,
        /// How it ended.
        error: CallError,
    },
    /// A plan or a write that must be accepted was refused.
    #[error("{doing} was refused: {error}{}", cure(.error))]
    Refused {
        /// What was asked for.
        doing: String,
        /// The refusal.
        error: Error,
    },
    /// Something that must come did not come.
    #[error("{what} did not come within {limit:?}; seen until then: {seen}")]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
        /// What came instead.
        seen: String,
    },
    /// The case is over, everything was deleted, and something is there.
    #[error("left behind on the platform: {}", .0.join("; "))]
    Left(Vec<String>),
    /// The case itself broke.
    #[error("the case panicked: {0}")]
    Panicked(String),
    /// The bench could not do what it is for; nothing is known of the driver.
    #[error("the bench could not {doing}: {why}")]
    Bench {
        /// What it was to do.
        doing: String,
        /// Why not.
        why: String,
    },
}

fn kind(error: &CallError) -> &'static str {
    match error {
        CallError::NotRun(_) => "not run",
        CallError::Failed(_) => "failed",
        CallError::Unknown(_) => "unknown",
    }
}

fn cure(error: &Error) -> String {
    error.cure.as_ref().map(|cure| format!(" ({cure})")).unwrap_or_default()
}

/// Why a case ended early.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Stop {
    /// The driver breaks a rule.
    #[error(transparent)]
    Failed(Box<Failure>),
    /// The case does not apply to this driver here; the reason is the driver's own declaration or the bench's.
    #[error("skipped: {0}")]
    Skipped(String),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

/// How a case ends.
pub type Verdict<T = ()> = Result<T, Stop>;

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", content = "why", rename_all = "snake_case")]
pub enum Outcome {
    /// The rule is kept.
    Passed,
    /// It is not.
    Failed(String),
    /// It does not apply, for a declared reason.
    Skipped(String),
}

/// One case's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The bench.
    pub bench: String,
    /// The case.
    pub case: &'static str,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How long it took, cleaning up included.
    #[serde(rename = "millis", serialize_with = "millis")]
    pub took: Duration,
}

fn millis<S: serde::Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(took.as_millis()).unwrap_or(u64::MAX))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bench, case, took, .. } = self;
        match &self.outcome {
            Outcome::Passed => write!(f, "{bench}: {case}: passed in {took:.1?}"),
            Outcome::Failed(why) => write!(f, "{bench}: {case}: FAILED after {took:.1?}: {why}"),
            Outcome::Skipped(why) => write!(f, "{bench}: {case}: SKIPPED: {why}"),
        }
    }
}

/// Something that must hold.
pub(crate) fn ensure(holds: bool, what: &str, expected: &str, found: impl fmt::Display) -> Verdict {
    if holds { Ok(()) } else { Err(wrong(what, expected, found)) }
}

/// Two things that must be the same.
pub(crate) fn equal<T: PartialEq + fmt::Debug + ?Sized>(what: &str, found: &T, expected: &T) -> Verdict {
    if found == expected { Ok(()) } else { Err(wrong(what, &format!("{expected:?}"), format!("{found:?}"))) }
}

/// A breach of a rule.
pub(crate) fn wrong(what: &str, expected: &str, found: impl fmt::Display) -> Stop {
    Failure::Wrong { what: what.to_owned(), expected: expected.to_owned(), found: found.to_string() }.into()
}

/// A case that does not apply.
pub(crate) fn skip<T>(why: impl Into<String>) -> Verdict<T> {
    Err(Stop::Skipped(why.into()))
}

/// The refusal of something that must be refused.
pub(crate) fn refusal<T: fmt::Debug>(what: &str, result: Result<T, Error>) -> Verdict<Error> {
    match result {
        Ok(done) => Err(wrong(what, "a refusal", format!("{done:?}"))),
        Err(error) => Ok(error),
    }
}

/// An error must say what it is about, by each of these words, and what to do about it.
pub(crate) fn tells(error: &Error, words: &[&str]) -> Verdict {
    let text = format!("{} {}", error.message, error.cure.as_deref().unwrap_or_default());
    for word in words {
        ensure(text.contains(word), "the error's text", &format!("{word:?} in it"), format!("{text:?}"))?;
    }
    ensure(error.cure.is_some(), "the error", "a cure", format!("{:?} alone", error.message))
}
