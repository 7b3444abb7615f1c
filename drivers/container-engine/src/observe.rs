//! What the engine says of a container, in the driver's words.

use std::collections::HashMap;

use bollard::models::{ContainerInspectResponse, ContainerState, ContainerStateStatusEnum};
use chiton_driver::{Observed, ObservedStatus};
use chiton_model::label::managed;
use chiton_model::{ExitStatus, GatewayId, SandboxId, StoreEpoch};
use jiff::Timestamp;

/// From its labels: whose container this is. None when it is not one of ours.
pub(crate) struct Owner {
    pub(crate) gateway: GatewayId,
    pub(crate) sandbox: SandboxId,
    epoch: StoreEpoch,
    commit: u64,
}

impl Owner {
    pub(crate) fn read(labels: &HashMap<String, String>) -> Option<Self> {
        let label = |key: &str| labels.get(key);
        Some(Self {
            gateway: GatewayId::new(label(managed::GATEWAY_ID)?).ok()?,
            sandbox: SandboxId::new(label(managed::SANDBOX_ID)?).ok()?,
            epoch: StoreEpoch::new(label(managed::STORE_EPOCH)?).ok()?,
            commit: label(managed::COMMIT)?.parse().ok()?,
        })
    }

    pub(crate) fn observed(self, status: ObservedStatus) -> Observed {
        Observed {
            id: self.sandbox,
            status,
            // A container is the same for all its starts; news of an earlier one are told apart by a look.
            attempt: None,
            gateway: self.gateway,
            epoch: self.epoch,
            commit: self.commit,
        }
    }
}

/// A container of this gateway as it was looked at.
pub(crate) fn inspected(found: &ContainerInspectResponse) -> Option<Observed> {
    let owner = Owner::read(found.config.as_ref()?.labels.as_ref()?)?;
    Some(owner.observed(status(found.state.as_ref()?)))
}

fn status(state: &ContainerState) -> ObservedStatus {
    use ContainerStateStatusEnum as Word;
    match state.status {
        Some(Word::CREATED) => ObservedStatus::Created,
        // It runs until it does not: what stops it waits for its end.
        Some(Word::RUNNING | Word::PAUSED | Word::RESTARTING | Word::STOPPING) => ObservedStatus::Running,
        Some(Word::EXITED) => ObservedStatus::Exited(exit(state)),
        Some(Word::REMOVING) => ObservedStatus::Broken("the engine is removing it".to_owned()),
        Some(Word::DEAD) => ObservedStatus::Broken("the engine could not remove all of it".to_owned()),
        Some(Word::EMPTY) | None => ObservedStatus::Broken("the engine does not say how it is".to_owned()),
    }
}

fn exit(state: &ContainerState) -> ExitStatus {
    let code = state.exit_code.and_then(|code| i32::try_from(code).ok());
    let reason = match code {
        _ if state.oom_killed == Some(true) => "OOMKilled",
        Some(129..=192) => "Signaled",
        Some(_) => "Exited",
        None => "Unknown",
    };
    ExitStatus { code, reason: reason.to_owned(), at: state.finished_at.as_deref().and_then(moment) }
}

/// A time of the engine; its zero time means never.
fn moment(text: &str) -> Option<Timestamp> {
    text.parse::<Timestamp>().ok().filter(|at| at.as_second() > 0)
}
