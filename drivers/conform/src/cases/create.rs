//! Creates.

use futures::future::join_all;

use crate::stage::Stage;
use crate::verdict::{Verdict, equal, must};

pub(crate) async fn is_answered(stage: &Stage) -> Verdict {
    let sandbox = stage.made().await?;
    equal("how often the list has the new sandbox", &stage.listed(&sandbox.id).await?, &1)
}

pub(crate) async fn again_changes_nothing(stage: &Stage) -> Verdict {
    let sandbox = stage.made().await?;
    must("CreateSandbox of a sandbox that is there", stage.create(&sandbox).await?)?;
    equal("how often the list has the sandbox", &stage.listed(&sandbox.id).await?, &1)
}

pub(crate) async fn eight_at_once_make_one(stage: &Stage) -> Verdict {
    let sandbox = stage.sandbox();
    for answer in join_all((0..8).map(|_| stage.create(&sandbox))).await {
        must("one of eight creates of one id", answer?)?;
    }
    equal("how often the list has the sandbox", &stage.listed(&sandbox.id).await?, &1)
}
