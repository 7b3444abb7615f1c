//! Driver calls: deadline, marks, and the three ways to end (rule 5).

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use chiton_driver::{CallError, CallResult, ComputeDriver};
use chiton_model::Error;
use futures::FutureExt as _;

use super::hooks::{Steps, panic_message, within};
use super::inner::Inner;
use crate::crash::{Deed, crash_point};
use crate::journal::{DriverCall, StepKey, StepStatus};
use crate::runtime::Clock;

/// Awaits a driver's answer; no answer in time, or a panic, is `Unknown`.
pub(super) async fn bounded<T>(
    clock: &dyn Clock,
    deadline: Duration,
    what: &str,
    call: impl Future<Output = CallResult<T>>,
) -> CallResult<T> {
    match within(clock, deadline, AssertUnwindSafe(call).catch_unwind()).await {
        Some(Ok(answer)) => answer,
        Some(Err(panic)) => {
            Err(CallError::Unknown(Error::internal(format!("driver {what} panicked: {}", panic_message(&*panic)))))
        }
        None => Err(CallError::Unknown(Error::deadline(format!("driver {what} did not answer within {deadline:?}")))),
    }
}

impl Inner {
    /// A look at the platform: short deadline, no marks.
    pub(super) async fn look<T>(
        &self,
        driver: &Arc<dyn ComputeDriver>,
        call: impl Future<Output = CallResult<T>>,
    ) -> Result<T, Error> {
        bounded(&*self.world.clock, driver.deadlines().look, "look", call).await.map_err(|error| {
            let capabilities = driver.capabilities();
            let id = capabilities.id.as_str();
            match error.into_error() {
                error if error.kind == chiton_model::ErrorKind::Deadline => {
                    Error::unavailable(id, format!("driver {id:?}: {error}"))
                }
                error => error,
            }
        })
    }
}

impl Steps {
    /// A driver call as a step.
    pub(super) async fn driver<T>(
        &mut self,
        call: DriverCall,
        deadline: Duration,
        work: impl Future<Output = CallResult<T>>,
    ) -> CallResult<T> {
        let step = StepKey::Driver(call);
        if let Err(error) = self.mark(&step, StepStatus::Started) {
            return Err(CallError::NotRun(Error::unavailable(
                "store",
                format!("the mark of driver {} could not be written: {error}", call.as_str()),
            )));
        }
        let begin = self.begin(&step);
        let clock = Arc::clone(&self.inner.world.clock);
        let points = self.inner.world.points.clone();
        crash_point!(points, Before, Some(self.kind), Deed::Driver(call));
        let answer = bounded(&*clock, deadline, call.as_str(), work).await;
        crash_point!(points, After, Some(self.kind), Deed::Driver(call));
        match &answer {
            Ok(_) => {
                self.note(&step, StepStatus::Completed);
                self.end(&step, begin, None);
            }
            Err(error) => {
                // "Failed" means certainly without effect; "completed" that the call has ended. An unknown call stays
                // "started".
                match error {
                    CallError::NotRun(_) => self.note(&step, StepStatus::Failed),
                    CallError::Failed(_) => self.note(&step, StepStatus::Completed),
                    CallError::Unknown(_) => {}
                }
                self.end(&step, begin, Some(error.to_string()));
            }
        }
        answer
    }
}
