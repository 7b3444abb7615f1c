//! Stops.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chiton_driver::{Feature, LogOptions, ObservedStatus};

use crate::stage::{Stage, sandbox_id};
use crate::verdict::{Verdict, ensure, equal, wrong};

pub(crate) async fn is_graceful(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    life.needs(Feature::Logs)?;
    let id = sandbox_id()?;
    let script = "trap 'echo leaving; sleep 0.3; echo left; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let mut request = life.script(script);
    request.driver_config = stage.bench().grace(45);
    life.launched(&request, &id).await?;
    life.said(&id, "ready").await?;
    let begin = Instant::now();
    life.stop(&id).await?;
    let took = begin.elapsed();
    match life.status(&id).await? {
        Some(ObservedStatus::Exited(exit)) => equal("the exit code", &exit.code, &Some(5))?,
        other => return Err(wrong("the status when stop has returned", "exited", format!("{other:?}"))),
    }
    ensure(took < Duration::from_secs(40), "the stop", "over when the process is", format!("{took:?}"))?;
    let output = life.read(&id, LogOptions::default()).await?;
    equal("the output", &output.text(), &"ready\nleaving\nleft\n".to_owned())?;
    life.delete(&id).await?;
    stage.nothing_left().await
}

pub(crate) async fn kills_after_grace(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    life.needs(Feature::Logs)?;
    let id = sandbox_id()?;
    let mut request = life.script("trap '' TERM; echo deaf; while :; do sleep 0.05; done");
    request.driver_config = stage.bench().grace(1);
    life.launched(&request, &id).await?;
    // Before that it would end by the signal.
    life.said(&id, "deaf").await?;
    let begin = Instant::now();
    life.stop(&id).await?;
    let took = begin.elapsed();
    match life.status(&id).await? {
        Some(ObservedStatus::Exited(exit)) => equal("the exit code", &exit.code, &Some(137))?,
        other => return Err(wrong("the status when stop has returned", "exited", format!("{other:?}"))),
    }
    ensure(
        took < Duration::from_secs(40),
        "the stop of a stubborn one",
        "about its grace of 1 s",
        format!("{took:?}"),
    )?;
    life.delete(&id).await?;
    stage.nothing_left().await
}

pub(crate) async fn repeats(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let id = sandbox_id()?;
    life.stop(&id).await?;
    let call = life.call(&life.sleeper(), &id).await?;
    life.create(&call).await?;
    life.stop(&id).await?;
    life.start(&call).await?;
    life.stop(&id).await?;
    let stopped = life.status(&id).await?;
    let exited = matches!(stopped, Some(ObservedStatus::Exited(_)));
    ensure(exited, "the status", "exited", format!("{stopped:?}"))?;
    life.stop(&id).await?;
    stage.life().await?.stop(&id).await?;
    equal("the status after another stop", &life.status(&id).await?, &stopped)?;
    life.delete(&id).await?;
    life.stop(&id).await?;
    stage.nothing_left().await
}
