//! Statuses.

use chiton_compute_wire::v1::DriverSandboxStatus;
use jiff::Timestamp;

use crate::stage::Stage;
use crate::verdict::{Verdict, ensure};
use crate::watch::is_ready;

/// The states of the contract; none for drivers that tell none.
const STATES: &[&str] = &["", "created", "running", "exited", "broken"];

fn look(status: &DriverSandboxStatus) -> Verdict {
    for condition in &status.conditions {
        let kind = &condition.r#type;
        ensure(!kind.is_empty(), "a condition's type", "a word", "nothing")?;
        let known = matches!(condition.status.as_str(), "True" | "False" | "Unknown");
        ensure(known, &format!("the status of {kind}"), "True, False or Unknown", format!("{:?}", condition.status))?;
        let word = !condition.reason.contains(char::is_whitespace);
        ensure(word, &format!("the reason of {kind}"), "one word", format!("{:?}", condition.reason))?;
        let time = &condition.last_transition_time;
        let sound = time.is_empty() || time.parse::<Timestamp>().is_ok();
        ensure(sound, &format!("the time of {kind}"), "RFC 3339, or nothing", format!("{time:?}"))?;
    }
    let state = status.state.as_str();
    ensure(STATES.contains(&state), "the state", "created, running, exited or broken", format!("{state:?}"))?;
    let agree = !is_ready(Some(status)) || matches!(state, "" | "running");
    ensure(agree, "the state of a sandbox that is ready", "running", format!("{state:?}"))
}

pub(crate) async fn is_sound(stage: &Stage) -> Verdict {
    let sandbox = stage.made().await?;
    look(&stage.got(&sandbox).await?.status.unwrap_or_default())?;
    stage.stop(&sandbox).await?;
    look(&stage.got(&sandbox).await?.status.unwrap_or_default())?;
    for found in stage.list().await? {
        look(&found.status.unwrap_or_default())?;
    }
    Ok(())
}
