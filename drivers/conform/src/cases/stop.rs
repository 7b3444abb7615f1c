//! Stops.

use chiton_compute_wire::v1::DriverSandbox;
use tonic::Code;

use crate::stage::Stage;
use crate::verdict::{Verdict, ensure, equal, must, refused};
use crate::watch::{is_ready, words};

pub(crate) async fn of_missing(stage: &Stage) -> Verdict {
    let id = uuid::Uuid::new_v4().to_string();
    refused("StopSandbox of a missing id", stage.wire.stop(&id, "absent").await?, &[Code::NotFound]).map(drop)
}

pub(crate) async fn keeps_it(stage: &Stage) -> Verdict {
    let sandbox = stage.made().await?;
    stage.stop(&sandbox).await?;
    equal("how often the list has the stopped sandbox", &stage.listed(&sandbox.id).await?, &1)?;
    let status = stage.got(&sandbox).await?.status;
    ensure(!status.as_ref().is_some_and(|status| status.deleting), "its status", "not deleting", words(status.as_ref()))
}

pub(crate) async fn again(stage: &Stage) -> Verdict {
    let sandbox = stage.made().await?;
    stage.stop(&sandbox).await?;
    must("StopSandbox of a stopped sandbox", stage.wire.stop(&sandbox.id, &sandbox.name).await?)
}

pub(crate) async fn ends_ready(stage: &Stage) -> Verdict {
    let sandbox = stage.ready().await?;
    stopped(stage, &sandbox).await
}

/// Stopped, and no longer ready.
pub(crate) async fn stopped(stage: &Stage, sandbox: &DriverSandbox) -> Verdict {
    stage.stop(sandbox).await?;
    stage
        .until("the end of Ready=True by GetSandbox", stage.limits().event, || async {
            let status = stage.got(sandbox).await?.status;
            Ok(if is_ready(status.as_ref()) { Err(words(status.as_ref())) } else { Ok(()) })
        })
        .await
}
