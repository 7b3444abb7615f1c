//! How a hook says that it did not succeed.

use std::time::Duration;

use chiton_model::Error;

/// The result of a hook.
pub type StepResult<T = ()> = Result<T, StepError>;

/// Why a hook did not succeed, and whether trying again can help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// It may succeed later; tried again inside the hook's deadline.
    #[error("{message}")]
    Retryable {
        /// What went wrong.
        message: String,
        /// When to try again; absent means the engine's backoff.
        after: Option<Duration>,
    },
    /// A limited resource is used up; not tried again in this operation.
    #[error("{resource} is exhausted: {message}")]
    Exhausted {
        /// Which resource.
        resource: String,
        /// What went wrong.
        message: String,
    },
    /// Trying again cannot help.
    #[error("{0}")]
    Fatal(String),
}

impl StepError {
    /// An error that trying again cannot help.
    pub fn fatal(message: impl Into<String>) -> Self {
        Self::Fatal(message.into())
    }

    /// An error that may pass.
    pub fn retryable(message: impl Into<String>) -> Self {
        Self::Retryable { message: message.into(), after: None }
    }
}

impl From<Error> for StepError {
    fn from(error: Error) -> Self {
        Self::Fatal(error.to_string())
    }
}
