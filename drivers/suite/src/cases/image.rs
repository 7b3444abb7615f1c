//! Images.

use std::sync::Arc;

use crate::stage::{Stage, sandbox_id, word};
use crate::verdict::{Verdict, equal, tells};

pub(crate) async fn unknown_is_refused_by_the_plan(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let mut request = life.sleeper();
    let name = word("no-such-image-");
    // A name without a registry that answers: nothing is asked of the world outside.
    for reference in [format!("localhost/{name}:never"), format!("{name} with spaces"), "::".to_owned()] {
        request.image.clone_from(&reference);
        let error = life.refused(&format!("the image {reference:?}"), &request).await?;
        tells(&error, &[&reference])?;
    }
    equal("the list", &life.list().await?, &Vec::new())?;
    stage.nothing_left().await
}

pub(crate) async fn name_is_pinned_by_the_plan(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let named = stage.bench().named(&life.gateway).await?;
    let mut request = life.script("[ -e /retagged ] && exit 4; exit 3");
    request.image = named.reference();
    let id = sandbox_id()?;
    let plan = life.plan(&request).await?;
    named.retag().await?;
    // What was planned runs, also at a later start.
    let call = life.prepared(plan, &id, &std::collections::BTreeMap::new()).await?;
    life.create(&call).await?;
    life.start(&call).await?;
    equal("what runs of a plan that is older than the tag", &life.exit(&id).await?.code, &Some(3))?;
    life.delete(&id).await?;
    // A new plan takes the new one.
    equal("what runs of a plan that is newer", &life.run(&request).await?.0.code, &Some(4))?;
    stage.nothing_left().await
}
