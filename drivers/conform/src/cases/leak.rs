//! What is left.

use crate::stage::Stage;
use crate::verdict::Verdict;

pub(crate) async fn nothing_is_left(stage: &Stage) -> Verdict {
    stage
        .until("the list after the run", stage.limits().delete.min(stage.limits().event), || async {
            let mut now: Vec<String> = stage.list().await?.into_iter().map(|sandbox| sandbox.id).collect();
            now.sort();
            let more: Vec<&String> = now.iter().filter(|id| !stage.run.before.contains(id)).collect();
            let fewer: Vec<&String> = stage.run.before.iter().filter(|id| !now.contains(id)).collect();
            if more.is_empty() && fewer.is_empty() && now.len() == stage.run.before.len() {
                return Ok(Ok(()));
            }
            Ok(Err(format!("{} more than before ({}), {} fewer", more.len(), names(&more), fewer.len())))
        })
        .await
}

fn names(ids: &[&String]) -> String {
    let mut shown: Vec<String> = ids.iter().take(3).map(|id| format!("{id:?}")).collect();
    if ids.len() > shown.len() {
        shown.push("…".to_owned());
    }
    shown.join(", ")
}
