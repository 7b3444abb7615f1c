//! How a hook did not succeed.

use std::time::Duration;

use chiton_lifecycle::extension::StepError;
use chiton_model::printable;

use crate::proto::{Failure, failure::Class};

/// The longest text of another process that is shown or stored.
const LONGEST: usize = 4096;

/// What another process says, fit to be shown and stored: no control characters, not without end.
pub(crate) fn said(text: &str) -> String {
    let end = (0..=LONGEST.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let mut safe = printable(&text[..end]);
    if end < text.len() {
        safe.push('…');
    }
    safe
}

pub(crate) fn failure(error: &StepError) -> Failure {
    match error {
        StepError::Retryable { message, after } => Failure {
            class: Class::Retryable.into(),
            message: message.clone(),
            retry_after_ms: after.map_or(0, |after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX).max(1)),
            resource: String::new(),
        },
        StepError::Exhausted { resource, message } => Failure {
            class: Class::Exhausted.into(),
            message: message.clone(),
            retry_after_ms: 0,
            resource: resource.clone(),
        },
        StepError::Fatal(message) => {
            Failure { class: Class::Fatal.into(), message: message.clone(), retry_after_ms: 0, resource: String::new() }
        }
    }
}

/// A class that this version does not know is one that trying again cannot help.
pub(crate) fn read_failure(failure: &Failure) -> StepError {
    let message = said(&failure.message);
    match failure.class() {
        Class::Retryable => {
            let after = Some(failure.retry_after_ms).filter(|after| *after > 0).map(Duration::from_millis);
            StepError::Retryable { message, after }
        }
        Class::Exhausted => StepError::Exhausted { resource: said(&failure.resource), message },
        Class::Fatal => StepError::Fatal(message),
    }
}
