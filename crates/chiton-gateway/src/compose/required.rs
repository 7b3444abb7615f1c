//! Drivers without which the operator wants no gateway.

use std::sync::Arc;
use std::time::Duration;

use chiton_driver::{CallResult, ComputeDriver};
use chiton_model::{BackendId, DriverId, Error};
use futures::future::join_all;
use tokio::time::{sleep, timeout};

use crate::config::DriverConfig;

/// How long a start waits for such a driver: it may be started at the same time as this gateway.
const PATIENCE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Waits for the drivers that are required, all at once.
///
/// # Errors
/// Each that did not answer, with the reason that it gave last.
pub(super) async fn wait(chosen: &[DriverConfig], drivers: &[Arc<dyn ComputeDriver>]) -> Result<(), Vec<Error>> {
    let wanted = drivers.iter().filter_map(|driver| {
        let id = driver.capabilities().id.clone();
        let required = chosen.iter().any(|config| config.required && config.id == id);
        required.then(|| wait_for(id, || driver.backend_id()))
    });
    let errors: Vec<Error> = join_all(wanted).await.into_iter().flatten().collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Asks until it answers; what is wrong when it does not in time.
async fn wait_for<F>(id: DriverId, ask: impl Fn() -> F) -> Option<Error>
where
    F: Future<Output = CallResult<BackendId>>,
{
    let mut last = None;
    let mut pause = FIRST_PAUSE;
    let answered = timeout(PATIENCE, async {
        while let Err(error) = ask().await {
            last = Some(error.into_error());
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    });
    if answered.await.is_ok() {
        return None;
    }
    let why = last.unwrap_or_else(|| Error::deadline("it does not answer"));
    let cure = why.cure.map(|cure| format!("{cure}; ")).unwrap_or_default();
    let waited = PATIENCE.as_secs();
    let message =
        format!("driver {:?} is required and could not be reached for {waited} s: {}", id.as_str(), why.message);
    Some(Error::unavailable(id.as_str(), message).cure(format!(
        "{cure}or start without it, then only its own sandboxes wait for it: required = false in [compute.driver.{id}]"
    )))
}

#[cfg(test)]
mod tests;
