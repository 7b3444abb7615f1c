//! Gets.

use tonic::Code;

use crate::stage::Stage;
use crate::verdict::{Verdict, broken, equal, refused};

pub(crate) async fn finds_it(stage: &Stage) -> Verdict {
    let sandbox = stage.made().await?;
    equal("the id of what GetSandbox tells", &stage.got(&sandbox).await?.id, &sandbox.id)
}

pub(crate) async fn of_missing(stage: &Stage) -> Verdict {
    let id = uuid::Uuid::new_v4().to_string();
    refused("GetSandbox of a missing id", stage.wire.get(&id, "absent").await?, &[Code::NotFound]).map(drop)
}

pub(crate) async fn tells_of_the_one_asked_for(stage: &Stage) -> Verdict {
    let all = [stage.made().await?, stage.made().await?, stage.made().await?];
    for asked in &all {
        let listed = stage.list().await?.into_iter().find(|found| found.id == asked.id);
        let listed = listed.ok_or_else(|| broken("ListSandboxes", format!("sandbox {:?}", asked.id), "no such"))?;
        for (call, found) in [("GetSandbox", stage.got(asked).await?), ("ListSandboxes", listed)] {
            equal(&format!("the id by {call}"), &found.id, &asked.id)?;
            equal(&format!("the name by {call}"), &found.name, &asked.name)?;
            equal(&format!("the workspace by {call}"), &found.workspace, &asked.workspace)?;
        }
    }
    Ok(())
}
