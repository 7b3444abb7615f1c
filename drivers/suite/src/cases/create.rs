//! Creates.

use std::sync::Arc;

use chiton_driver::{CallError, ObservedStatus};
use futures::future::join_all;

use crate::life::{again, failed};
use crate::stage::{Stage, sandbox_id};
use crate::verdict::{Verdict, ensure, equal, skip};

/// What a sandbox is after its create.
pub(crate) fn after_create(two_phase: bool) -> ObservedStatus {
    if two_phase { ObservedStatus::Created } else { ObservedStatus::Running }
}

pub(crate) async fn creates_without_starting(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    if !life.driver.capabilities().two_phase_start() {
        return skip("the driver declares no feature two_phase_start");
    }
    let id = sandbox_id()?;
    let call = life.call(&life.sleeper(), &id).await?;
    equal("the status before the create", &life.status(&id).await?, &None)?;
    life.create(&call).await?;
    let Some(observed) = life.get(&id).await? else {
        return Err(crate::verdict::wrong("the created sandbox", "found by its id", "nothing"));
    };
    equal("its status", &observed.status, &ObservedStatus::Created)?;
    let identity = &call.identity;
    let found = (observed.gateway, observed.epoch, observed.commit);
    equal("whose it is", &found, &(identity.gateway.clone(), identity.epoch.clone(), identity.commit))?;
    let came = life.met(&id).is_some_and(|met| !met.borrow().is_empty());
    equal("whether its agent dialled", &came, &false)?;
    life.delete(&id).await?;
    equal("the status after the delete", &life.status(&id).await?, &None)?;
    stage.nothing_left().await
}

pub(crate) async fn repeats(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let id = sandbox_id()?;
    let call = life.call(&life.sleeper(), &id).await?;
    let wanted = after_create(life.driver.capabilities().two_phase_start());
    for _ in 0..3 {
        life.create(&call).await?;
        equal("the status", &life.status(&id).await?, &Some(wanted.clone()))?;
        equal("how many there are", &life.list().await?.len(), &1)?;
    }
    // Once more by the next life, and beneath a running one.
    let next = stage.life().await?;
    next.create(&call).await?;
    next.start(&call).await?;
    next.create(&again(&call)).await?;
    equal("the status of a running one", &next.status(&id).await?, &Some(ObservedStatus::Running))?;
    next.delete(&id).await?;
    stage.nothing_left().await
}

pub(crate) async fn ten_at_once_make_one(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let id = sandbox_id()?;
    let call = life.call(&life.sleeper(), &id).await?;
    for created in join_all((0..10).map(|_| life.create(&call))).await {
        created?;
    }
    let listed = life.list().await?;
    equal("how many there are", &listed.iter().filter(|observed| observed.id == id).count(), &1)?;
    equal("how many there are of any id", &listed.len(), &1)?;
    life.start(&call).await?;
    life.delete(&id).await?;
    equal("what is listed after the delete", &life.list().await?, &Vec::new())?;
    stage.nothing_left().await
}

pub(crate) async fn never_after_delete(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let (made, unmade) = (sandbox_id()?, sandbox_id()?);
    let call = life.launched(&life.sleeper(), &made).await?;
    let other = life.call(&life.sleeper(), &unmade).await?;
    life.delete(&made).await?;
    life.delete(&unmade).await?;
    for driver in [life, stage.life().await?] {
        for call in [&call, &other] {
            let id = &call.identity.sandbox;
            let error = failed("a create of a deleted id", driver.try_create(call).await?)?;
            let certain = matches!(error, CallError::NotRun(_));
            ensure(certain, "a create of a deleted id", "an error of the kind NotRun", format!("{error:?}"))?;
            equal("the status of a deleted id", &driver.status(id).await?, &None)?;
        }
    }
    stage.nothing_left().await
}

pub(crate) async fn twenty_at_once(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let ids = (0..20).map(|_| sandbox_id()).collect::<Result<Vec<_>, _>>()?;
    let request = life.sleeper();
    for launched in join_all(ids.iter().map(|id| life.launched(&request, id))).await {
        launched?;
    }
    let mut listed: Vec<_> = life.list().await?.into_iter().map(|observed| (observed.id, observed.status)).collect();
    listed.sort_by(|one, two| one.0.cmp(&two.0));
    let mut wanted: Vec<_> = ids.iter().map(|id| (id.clone(), ObservedStatus::Running)).collect();
    wanted.sort_by(|one, two| one.0.cmp(&two.0));
    equal("the list", &listed, &wanted)?;
    for deleted in join_all(ids.iter().map(|id| life.delete(id))).await {
        deleted?;
    }
    stage.nothing_left().await
}
