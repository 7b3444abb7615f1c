//! Following an operation to its end.

use std::io::IsTerminal as _;
use std::time::Duration;

use chiton_client::{Client, from_detail, from_status};
use chiton_model::Error;
use chiton_proto::v1 as wire;
use chiton_proto::v1::wait_operation_event::Event;
use indicatif::{ProgressBar, ProgressStyle};

use crate::output::one_line;

/// Waits for an operation. Shows what is being done when it takes longer than a second, on a terminal only.
pub(crate) async fn outcome(client: &mut Client, operation: &str) -> Result<wire::OperationOutcome, Error> {
    let request = wire::WaitOperationRequest { operation: operation.to_owned() };
    let mut events = client.wait_operation(request).await.map_err(|status| from_status(&status))?.into_inner();
    let bar = spinner();
    let shown_after = tokio::time::Instant::now() + Duration::from_secs(1);
    while let Some(event) = events.message().await.map_err(|status| from_status(&status))? {
        match event.event {
            Some(Event::StepStarted(step)) => show(&bar, shown_after, &step),
            Some(Event::Progress(message)) => show(&bar, shown_after, &message),
            Some(Event::StepEnded(_)) | None => {}
            Some(Event::Outcome(outcome)) => {
                bar.finish_and_clear();
                return Ok(outcome);
            }
        }
    }
    bar.finish_and_clear();
    Err(Error::unavailable("gateway", "the gateway ended the wait without an outcome")
        .cure("look at it again: chiton sandbox get"))
}

fn spinner() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, after: tokio::time::Instant, message: &str) {
    if tokio::time::Instant::now() >= after {
        bar.set_message(one_line(message));
        bar.tick();
    }
}

/// The sandbox after an operation that succeeded; what went wrong after one that did not. Open obligations are printed on
/// standard error: they are worth knowing and are not a failure.
pub(crate) fn settle(outcome: wire::OperationOutcome) -> Result<Option<wire::Sandbox>, Error> {
    for obligation in &outcome.obligations {
        eprintln!(
            "note: extension {:?} still owes {} ({}): {}",
            obligation.extension,
            obligation.phase,
            obligation.id,
            one_line(&obligation.last_error)
        );
    }
    let operation = outcome.operation.unwrap_or_default();
    if operation.state == "succeeded" {
        return Ok(outcome.sandbox);
    }
    let known = operation.error.as_ref().and_then(from_detail);
    Err(known.unwrap_or_else(|| Error::internal(format!("the {} ended as {:?}", operation.kind, operation.state))))
}
