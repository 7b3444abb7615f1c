//! Readiness.

use crate::stage::Stage;
use crate::verdict::Verdict;
use crate::watch::{is_ready, words};

pub(crate) async fn comes(stage: &Stage) -> Verdict {
    stage.ready().await.map(drop)
}

pub(crate) async fn is_the_same_everywhere(stage: &Stage) -> Verdict {
    let sandbox = stage.ready().await?;
    // A list that was made a moment before may lag behind.
    stage
        .until("Ready=True by ListSandboxes", stage.limits().event, || async {
            let found = stage.list().await?.into_iter().find(|found| found.id == sandbox.id);
            let status = found.and_then(|found| found.status);
            Ok(if is_ready(status.as_ref()) { Ok(()) } else { Err(words(status.as_ref())) })
        })
        .await
}
