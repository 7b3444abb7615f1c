//! Starts.

use std::sync::Arc;

use chiton_driver::{CallError, Feature, LogOptions, ObservedStatus};
use futures::future::join_all;

use crate::life::{again, failed};
use crate::stage::{Stage, sandbox_id};
use crate::verdict::{Verdict, ensure, equal};

pub(crate) async fn runs(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let id = sandbox_id()?;
    let call = life.launched(&life.sleeper(), &id).await?;
    let running = Some(ObservedStatus::Running);
    equal("the status", &life.status(&id).await?, &running)?;
    life.start(&call).await?;
    stage.life().await?.start(&call).await?;
    equal("the status after another start", &life.status(&id).await?, &running)?;
    let observed = life.get(&id).await?;
    let attempt = observed.and_then(|observed| observed.attempt);
    let started = call.agent.map(|agent| agent.attempt);
    // A driver need not know the start; one that says so must not say another.
    ensure(
        attempt.is_none() || attempt == started,
        "the start that it names",
        &format!("{started:?}"),
        format!("{attempt:?}"),
    )?;
    life.delete(&id).await?;
    stage.nothing_left().await
}

pub(crate) async fn ten_at_once_run_once(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    life.needs(Feature::Logs)?;
    let id = sandbox_id()?;
    let script = "echo started; trap 'exit 0' TERM; while :; do sleep 0.05; done";
    let call = life.call(&life.script(script), &id).await?;
    life.create(&call).await?;
    for started in join_all((0..10).map(|_| life.start(&call))).await {
        started?;
    }
    life.said(&id, "started").await?;
    equal("the status", &life.status(&id).await?, &Some(ObservedStatus::Running))?;
    life.stop(&id).await?;
    let output = life.read(&id, LogOptions::default()).await?;
    equal("what ten starts wrote", &output.text(), &"started\n".to_owned())?;
    // The same of a start that builds anew around what was kept.
    let call = again(&call);
    for started in join_all((0..10).map(|_| life.start(&call))).await {
        started?;
    }
    equal("the status", &life.status(&id).await?, &Some(ObservedStatus::Running))?;
    // Where a start begins a new log, it must not be stopped before it has said so.
    life.said(&id, "started").await?;
    life.stop(&id).await?;
    let output = life.read(&id, LogOptions::default()).await?;
    let times = output.text().matches("started").count();
    ensure((1..=2).contains(&times), "how often it says so after ten more starts", "once for each start", times)?;
    life.delete(&id).await?;
    stage.nothing_left().await
}

pub(crate) async fn keeps_files(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let id = sandbox_id()?;
    let script = "if [ -e /tmp/kept ]; then exit 3; fi; echo yes > /tmp/kept; exit 4";
    let call = life.launched(&life.script(script), &id).await?;
    equal("the first start's exit code", &life.exit(&id).await?.code, &Some(4))?;
    life.stop(&id).await?;
    let mut watch = life.watch();
    watch.snapshot().await?;
    let call = again(&call);
    life.start(&call).await?;
    equal("the second start's exit code", &watch.exit_of(&life, &call).await?.code, &Some(3))?;
    // A third, by a driver value that knows nothing of the others.
    let next = stage.life().await?;
    let mut watch = next.watch();
    watch.snapshot().await?;
    let call = again(&call);
    next.start(&call).await?;
    equal("the third start's exit code", &watch.exit_of(&next, &call).await?.code, &Some(3))?;
    next.delete(&id).await?;
    stage.nothing_left().await
}

pub(crate) async fn of_nothing_is_refused(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let id = sandbox_id()?;
    let call = life.call(&life.sleeper(), &id).await?;
    for deleted in [false, true] {
        if deleted {
            life.delete(&id).await?;
        }
        let error = failed("a start of nothing", life.try_start(&call).await?)?;
        let certain = !matches!(error, CallError::Unknown(_));
        ensure(certain, "a start of nothing", "an error that is certain", format!("{error:?}"))?;
        equal("the status", &life.status(&id).await?, &None)?;
    }
    // The gateway made the agent's folder for the start; a delete takes it away.
    life.delete(&id).await?;
    stage.nothing_left().await
}
