//! Watches.

use std::sync::Arc;

use chiton_driver::{DriverEvent, Feature, ObservedStatus};

use crate::life::again;
use crate::stage::{Stage, sandbox_id};
use crate::verdict::{Verdict, equal, wrong};

pub(crate) async fn begins_with_a_snapshot(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let (created, running) = (sandbox_id()?, sandbox_id()?);
    let call = life.call(&life.sleeper(), &created).await?;
    life.create(&call).await?;
    life.launched(&life.sleeper(), &running).await?;
    let mut watch = life.watch();
    let mut snapshot: Vec<_> =
        watch.snapshot().await?.into_iter().map(|observed| (observed.id, observed.status)).collect();
    snapshot.sort_by(|one, two| one.0.cmp(&two.0));
    let two_phase = life.driver.capabilities().two_phase_start();
    let mut wanted =
        vec![(created.clone(), super::create::after_create(two_phase)), (running.clone(), ObservedStatus::Running)];
    wanted.sort_by(|one, two| one.0.cmp(&two.0));
    equal("the snapshot", &snapshot, &wanted)?;
    life.stop(&running).await?;
    watch.exit(&running).await?;
    life.delete(&running).await?;
    watch.deleted(&running).await?;
    life.delete(&created).await?;
    watch.deleted(&created).await?;
    stage.nothing_left().await
}

pub(crate) async fn tells_every_change(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let id = sandbox_id()?;
    let mut watch = life.watch();
    equal("the snapshot of nothing", &watch.snapshot().await?, &Vec::new())?;
    let call = life.call(&life.script("exit 6"), &id).await?;
    life.create(&call).await?;
    if life.driver.capabilities().two_phase_start() {
        watch.status("news of the create", &id, |status| *status == ObservedStatus::Created).await?;
        life.start(&call).await?;
    }
    equal("the exit code that a watch tells", &watch.exit(&id).await?.code, &Some(6))?;
    // A second start: its running and its end are told too.
    let call = life.call(&life.sleeper(), &sandbox_id()?).await?;
    let second = call.identity.sandbox.clone();
    life.create(&call).await?;
    life.start(&call).await?;
    watch.status("news of the start", &second, |status| *status == ObservedStatus::Running).await?;
    life.stop(&second).await?;
    watch.exit(&second).await?;
    life.start(&again(&call)).await?;
    watch.status("news of another start", &second, |status| *status == ObservedStatus::Running).await?;
    life.delete(&second).await?;
    watch.deleted(&second).await?;
    life.delete(&id).await?;
    watch.deleted(&id).await?;
    stage.nothing_left().await
}

pub(crate) async fn has_many_watchers(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let id = sandbox_id()?;
    life.launched(&life.script("trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done"), &id).await?;
    let heard = life.has(Feature::Logs);
    if heard {
        life.said(&id, "ready").await?;
    }
    let second = stage.life().await?;
    // One more that is never read: it holds up nobody.
    let _unread = life.watch();
    let mut watches = [life.watch(), life.watch(), second.watch()];
    for watch in &mut watches {
        let snapshot: Vec<_> = watch.snapshot().await?.into_iter().map(|observed| observed.id).collect();
        equal("a snapshot", &snapshot, &vec![id.clone()])?;
    }
    life.stop(&id).await?;
    let code = match life.status(&id).await? {
        Some(ObservedStatus::Exited(exit)) if exit.code.is_some() => exit.code,
        other => return Err(wrong("the status when stop has returned", "exited with a code", format!("{other:?}"))),
    };
    // Where nobody hears that the trap is set, the signal may have come before it.
    if heard {
        equal("the exit code", &code, &Some(0))?;
    }
    for watch in &mut watches {
        equal("the exit code that each watch tells", &watch.exit(&id).await?.code, &code)?;
    }
    life.delete(&id).await?;
    let [first, other, ..] = &mut watches;
    first.deleted(&id).await?;
    other.deleted(&id).await?;
    let mut late = life.watch();
    equal("a late snapshot", &late.next("the snapshot's end").await?, &Some(DriverEvent::SnapshotEnd))?;
    stage.nothing_left().await
}
