//! Deletes.

use std::sync::Arc;

use chiton_driver::CallResult;

use crate::life::{SLEEP, again};
use crate::stage::{Stage, sandbox_id};
use crate::verdict::{Verdict, ensure, equal};

pub(crate) async fn of_running(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let id = sandbox_id()?;
    // With children, and deaf: a delete needs nobody's consent.
    let deaf = format!("trap '' TERM; (while :; do sleep 0.05; done) & {SLEEP}");
    let mut request = life.script(&deaf);
    request.driver_config = stage.bench().grace(1);
    life.launched(&request, &id).await?;
    let traces = stage.traces().await?;
    ensure(!traces.is_empty(), "the bench's traces of a running sandbox", "something", "nothing: it looks past it")?;
    life.delete(&id).await?;
    equal("the status", &life.status(&id).await?, &None)?;
    stage.nothing_left().await
}

pub(crate) async fn of_stopped(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let id = sandbox_id()?;
    let call = life.launched(&life.script("exit 0"), &id).await?;
    life.exit(&id).await?;
    life.start(&again(&call)).await?;
    life.stop(&id).await?;
    life.delete(&id).await?;
    equal("the list", &life.list().await?, &Vec::new())?;
    // Made and never started.
    let id = sandbox_id()?;
    life.create(&life.call(&life.sleeper(), &id).await?).await?;
    life.delete(&id).await?;
    equal("the list", &life.list().await?, &Vec::new())?;
    stage.nothing_left().await
}

pub(crate) async fn of_absent(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let id = sandbox_id()?;
    for _ in 0..2 {
        life.delete(&id).await?;
        equal("the status", &life.status(&id).await?, &None)?;
    }
    life.delete(&id).await?;
    stage.life().await?.delete(&id).await?;
    stage.nothing_left().await
}

/// Either the call came first and what it made is deleted, or the delete came first and the call is refused. A delete that
/// cannot tell yet is repeated, as the engine does it.
async fn race(stage: &Stage, running: bool) -> Verdict {
    let life = stage.life().await?;
    for step in 0..8_u32 {
        let id = sandbox_id()?;
        let call = life.call(&life.sleeper(), &id).await?;
        if running {
            life.create(&call).await?;
        }
        let acting = async { if running { life.try_start(&call).await } else { life.try_create(&call).await } };
        let deleting = async {
            // Ever later within the act, by what the runtime does in between.
            for _ in 0..step * 40 {
                tokio::task::yield_now().await;
            }
            life.delete(&id).await
        };
        let (acted, deleted): (Verdict<CallResult<()>>, Verdict) = tokio::join!(acting, deleting);
        // Which of the two won is no matter.
        drop(acted?);
        deleted?;
        life.delete(&id).await?;
        equal("the status after both", &life.status(&id).await?, &None)?;
    }
    equal("the list", &life.list().await?, &Vec::new())?;
    stage.nothing_left().await
}

pub(crate) async fn during_create(stage: Arc<Stage>) -> Verdict {
    race(&stage, false).await
}

pub(crate) async fn during_start(stage: Arc<Stage>) -> Verdict {
    race(&stage, true).await
}
