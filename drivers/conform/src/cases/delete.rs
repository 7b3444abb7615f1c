//! Deletes.

use futures::future::join_all;
use tonic::Code;

use crate::stage::Stage;
use crate::verdict::{Verdict, broken, ensure, equal, must, refused};

pub(crate) async fn removes_it(stage: &Stage) -> Verdict {
    let sandbox = stage.made().await?;
    stage.removed(&sandbox).await.map(drop)
}

pub(crate) async fn says_that_it_was_there(stage: &Stage) -> Verdict {
    let sandbox = stage.made().await?;
    ensure(stage.removed(&sandbox).await?, "deleted, of a sandbox that was there", "true", "false")
}

pub(crate) async fn of_missing(stage: &Stage) -> Verdict {
    let id = uuid::Uuid::new_v4().to_string();
    let deleted = must("DeleteSandbox of a missing id", stage.wire.delete(&id, "absent").await?)?;
    ensure(!deleted, "deleted, of a sandbox that never was", "false", "true")
}

pub(crate) async fn again(stage: &Stage) -> Verdict {
    let sandbox = stage.made().await?;
    stage.removed(&sandbox).await?;
    let deleted = must("DeleteSandbox of a sandbox that is gone", stage.delete(&sandbox).await?)?;
    ensure(!deleted, "deleted, of a sandbox that is gone", "false", "true")
}

pub(crate) async fn eight_at_once(stage: &Stage) -> Verdict {
    let sandbox = stage.made().await?;
    for answer in join_all((0..8).map(|_| stage.delete(&sandbox))).await {
        must("one of eight deletes of one id", answer?)?;
    }
    stage.until_gone(&sandbox.id).await
}

pub(crate) async fn ends_get(stage: &Stage) -> Verdict {
    let sandbox = stage.made().await?;
    stage.removed(&sandbox).await?;
    let answer = stage.wire.get(&sandbox.id, &sandbox.name).await?;
    refused("GetSandbox of a deleted sandbox", answer, &[Code::NotFound]).map(drop)
}

pub(crate) async fn is_final(stage: &Stage) -> Verdict {
    let sandbox = stage.made().await?;
    stage.removed(&sandbox).await?;
    if stage.create(&sandbox).await?.is_ok() {
        return Err(broken("CreateSandbox of a deleted id", "a refusal", "OK"));
    }
    equal("how often the list has the deleted sandbox", &stage.listed(&sandbox.id).await?, &0)
}
