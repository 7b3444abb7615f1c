//! Following an operation to its end.

use chiton_client::{Client, from_detail, from_status};
use chiton_model::Error;
use chiton_proto::v1 as wire;
use chiton_proto::v1::wait_operation_event::Event;

use crate::commands::answer;
use crate::output::{self, one_line};
use crate::progress::Progress;

/// Waits for an operation. Shows what is being done when it takes longer than a second, on a terminal only.
pub(crate) async fn outcome(client: &mut Client, operation: &str) -> Result<wire::OperationOutcome, Error> {
    let request = wire::WaitOperationRequest { operation: operation.to_owned() };
    let mut events = answer(client.wait_operation(request)).await?;
    let mut progress = Progress::steps();
    while let Some(event) = progress.during(events.message()).await.map_err(|status| from_status(&status))? {
        match event.event {
            Some(Event::StepStarted(text) | Event::Progress(text)) => progress.say(&text),
            Some(Event::StepEnded(_)) | None => {}
            Some(Event::Outcome(outcome)) => return Ok(outcome),
        }
    }
    Err(Error::unavailable("gateway", "the gateway ended the wait without an outcome")
        .cure("look at it again: chiton sandbox get"))
}

/// The sandbox after an operation that succeeded; what went wrong after one that did not. Open obligations are printed on
/// standard error: they are worth knowing and are not a failure.
pub(crate) fn settle(outcome: wire::OperationOutcome) -> Result<Option<wire::Sandbox>, Error> {
    for obligation in &outcome.obligations {
        let owes = match obligation.status.as_str() {
            "abandoned" => format!("owed {}, which was given up", obligation.phase),
            _ => format!("still owes {}", obligation.phase),
        };
        output::note(&format!(
            "extension {:?} {owes} ({}): {}",
            obligation.extension,
            obligation.id,
            one_line(&obligation.last_error)
        ));
    }
    let operation = outcome.operation.unwrap_or_default();
    if operation.state == "succeeded" {
        return Ok(outcome.sandbox);
    }
    let known = operation.error.as_ref().and_then(from_detail);
    Err(known.unwrap_or_else(|| Error::internal(format!("the {} ended as {:?}", operation.kind, operation.state))))
}
