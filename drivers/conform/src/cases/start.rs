//! Starts.

use chiton_compute_wire::names::features::START_CARRIES_SANDBOX;
use chiton_compute_wire::v1::DriverSandbox;
use tonic::Code;

use crate::ask::Ask as _;
use crate::stage::Stage;
use crate::verdict::{Answer, Verdict, must, refused};

/// Starts it as a gateway does: with all that it was made of, and new credentials, where the driver takes that.
pub(crate) async fn again(stage: &Stage, sandbox: &DriverSandbox) -> Verdict<Answer> {
    let able = stage.run.capabilities.features.get(START_CARRIES_SANDBOX).copied().unwrap_or_default();
    let carried = able.then(|| {
        sandbox.clone().with(|next| {
            next.spec().agent_attempt = stage.word("attempt");
            next.spec().sandbox_token = stage.word("secret");
        })
    });
    stage.wire.start(&sandbox.id, &sandbox.name, carried).await
}

pub(crate) async fn of_missing(stage: &Stage) -> Verdict {
    let id = uuid::Uuid::new_v4().to_string();
    refused("StartSandbox of a missing id", stage.wire.start(&id, "absent", None).await?, &[Code::NotFound]).map(drop)
}

pub(crate) async fn of_running(stage: &Stage) -> Verdict {
    let sandbox = stage.ready().await?;
    must("StartSandbox of a sandbox that runs", again(stage, &sandbox).await?)?;
    stage.until_ready(&sandbox).await.map(drop)
}

pub(crate) async fn resumes(stage: &Stage) -> Verdict {
    let sandbox = stage.ready().await?;
    super::stop::stopped(stage, &sandbox).await?;
    must("StartSandbox", again(stage, &sandbox).await?)?;
    stage.until_ready(&sandbox).await.map(drop)
}
