//! Watches.

use std::collections::BTreeSet;

use chiton_compute_wire::v1::DriverSandbox;
use futures::future::{join_all, try_join_all};
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::Code;

use crate::stage::Stage;
use crate::verdict::{By, Verdict, ensure, equal, must, not_here};
use crate::watch::{Event, Watcher, is_ready};
use crate::wire::Wire;

/// Sandboxes that are there when a watch begins.
const THERE: usize = 3;

async fn several(stage: &Stage) -> Verdict<Vec<DriverSandbox>> {
    try_join_all((0..THERE).map(|_| stage.made())).await
}

async fn tells_all(watch: &Watcher, all: &[DriverSandbox]) -> Verdict {
    for sandbox in all {
        watch.event("a sandbox that is there", |event| event.is_state_of(&sandbox.id)).await?;
    }
    Ok(())
}

pub(crate) async fn begins_with_everything(stage: &Stage) -> Verdict {
    let all = several(stage).await?;
    tells_all(&stage.watch(), &all).await
}

pub(crate) async fn marks_the_snapshots_end(stage: &Stage) -> Verdict {
    if stage.run.capabilities.contract_version == 0 {
        return not_here(By::Driver, "contract_version is 0: the driver does not speak the additions");
    }
    let all = several(stage).await?;
    let watch = stage.watch();
    let end = watch.event("the snapshot's end", |event| matches!(event, Event::SnapshotEnd)).await?;
    let before = watch.events();
    for sandbox in &all {
        let told = before[..end].iter().any(|event| event.is_state_of(&sandbox.id));
        ensure(told, "what comes before the snapshot's end", "every sandbox that is there", "not every one")?;
    }
    stage.fence(&watch).await?;
    let ends = watch.events().iter().filter(|event| matches!(event, Event::SnapshotEnd)).count();
    equal("how often the snapshot ends", &ends, &1)
}

pub(crate) async fn begins_again_on_reconnect(stage: &Stage) -> Verdict {
    let all = several(stage).await?;
    let first = stage.watch();
    tells_all(&first, &all).await?;
    first.close().await;
    // On the same connection, and on another one: both happen.
    let second = stage.watch();
    tells_all(&second, &all).await?;
    second.close().await;
    let other = stage.connect().await?;
    tells_all(&stage.watch_on(&other), &all).await
}

fn readiness(event: &Event, id: &str, ready: bool) -> bool {
    matches!(event, Event::Sandbox(sandbox) if sandbox.id == id && is_ready(sandbox.status.as_ref()) == ready)
}

pub(crate) async fn tells_of_changes(stage: &Stage) -> Verdict {
    let watch = stage.watch();
    let sandbox = stage.made().await?;
    let id = &sandbox.id;
    watch.event("Ready=True after the create", |event| readiness(event, id, true)).await?;
    let seen = watch.count();
    super::stop::stopped(stage, &sandbox).await?;
    watch.event_after(seen, "the end of Ready after the stop", |event| readiness(event, id, false)).await?;
    let seen = watch.count();
    must("StartSandbox", super::start::again(stage, &sandbox).await?)?;
    watch.event_after(seen, "Ready=True after the start", |event| readiness(event, id, true)).await.map(drop)
}

pub(crate) async fn tells_deletions(stage: &Stage) -> Verdict {
    let watch = stage.watch();
    let sandbox = stage.fence(&watch).await?;
    stage.removed(&sandbox).await?;
    watch.event("the deletion", |event| event.is_end_of(&sandbox.id)).await.map(drop)
}

/// Listens on for what must not come: until a later sandbox is told, and a moment longer.
async fn listen(stage: &Stage, watch: &Watcher) -> Verdict {
    stage.fence(watch).await?;
    sleep(stage.limits().quiet).await;
    Ok(())
}

pub(crate) async fn tells_deletions_once(stage: &Stage) -> Verdict {
    let watch = stage.watch();
    let sandbox = stage.fence(&watch).await?;
    stage.removed(&sandbox).await?;
    watch.event("the deletion", |event| event.is_end_of(&sandbox.id)).await?;
    // A repeated delete ends nothing that is there.
    must("DeleteSandbox of a sandbox that is gone", stage.delete(&sandbox).await?)?;
    listen(stage, &watch).await?;
    let told = watch.events().iter().filter(|event| event.is_end_of(&sandbox.id)).count();
    equal("how often the deletion is told", &told, &1)
}

pub(crate) async fn tells_deletions_when_they_are_over(stage: &Stage) -> Verdict {
    let watch = stage.watch();
    let sandbox = stage.fence(&watch).await?;
    let looked = async {
        let place = watch.event("the deletion", |event| event.is_end_of(&sandbox.id)).await?;
        Ok::<_, crate::verdict::Stop>((place, stage.listed(&sandbox.id).await?))
    };
    let (deleted, looked) = tokio::join!(stage.removed(&sandbox), looked);
    deleted?;
    let (place, listed) = looked?;
    equal("how often the list has a sandbox whose deletion was told", &listed, &0)?;
    listen(stage, &watch).await?;
    let after = watch.events()[place..].iter().any(|event| event.is_state_of(&sandbox.id));
    ensure(!after, "what comes after the deletion", "nothing of the sandbox", "another event of it")
}

pub(crate) async fn serves_several(stage: &Stage) -> Verdict {
    let other = stage.connect().await?;
    let watches = [stage.watch(), stage.watch(), stage.watch_on(&other)];
    let sandbox = stage.made().await?;
    for watch in &watches {
        watch
            .event("news of a new sandbox, for each of three watchers", |event| event.is_state_of(&sandbox.id))
            .await?;
    }
    stage.removed(&sandbox).await?;
    for watch in &watches {
        watch.event("the deletion, for each of three watchers", |event| event.is_end_of(&sandbox.id)).await?;
    }
    Ok(())
}

pub(crate) async fn tells_of_nothing_foreign(stage: &Stage) -> Verdict {
    let watch = stage.watch();
    let sandbox = stage.fence(&watch).await?;
    stage.removed(&sandbox).await?;
    watch.event("the deletion", |event| event.is_end_of(&sandbox.id)).await?;
    listen(stage, &watch).await?;
    let events = watch.events();
    let ids: BTreeSet<&str> = events.iter().filter_map(Event::id).collect();
    for id in ids {
        let deleted = || watch.events().iter().any(|event| event.is_end_of(id));
        // Somebody else may use the driver: what is told now may be gone, and then its deletion is told.
        if deleted() {
            continue;
        }
        if let Err(status) = stage.wire.get(id, "").await? {
            let gone =
                status.code() == Code::NotFound && watch.event("a deletion", |event| event.is_end_of(id)).await.is_ok();
            ensure(
                gone,
                &format!("the sandbox {id:?}, of which a watch told"),
                "one that is there",
                "no such sandbox",
            )?;
        }
    }
    Ok(())
}

pub(crate) async fn tells_nothing_of_refused_creates(stage: &Stage) -> Verdict {
    let watch = stage.watch();
    stage.fence(&watch).await?;
    let mut sandbox = stage.sandbox();
    sandbox.spec = None;
    // That it is refused is the matter of others.
    if stage.create(&sandbox).await?.is_ok() {
        return Ok(());
    }
    listen(stage, &watch).await?;
    let told = watch.events().iter().any(|event| event.id() == Some(&sandbox.id));
    ensure(!told, "what a watch tells of a refused create", "nothing", "an event of it")
}

pub(crate) async fn slow_reader_has_the_final_state(stage: &Stage) -> Verdict {
    let (go, held) = watch::channel(true);
    let narrow = Wire::narrow(&stage.run.options.dial(), stage.limits()).await?;
    let first = stage.made().await?;
    let watch = Watcher::open(&narrow, stage.limits(), held);
    // The watch has begun, and is not read from here on.
    watch.event("a sandbox that is there", |event| event.is_state_of(&first.id)).await?;
    let _ = go.send(false);
    let burst = stage.run.options.burst.max(2);
    let all = try_join_all((0..burst).map(|_| stage.made())).await?;
    let (gone, kept) = all.split_at(burst / 2);
    for deleted in join_all(gone.iter().map(|sandbox| stage.removed(sandbox))).await {
        deleted?;
    }
    let _ = go.send(true);
    let at_last = |events: &[Event]| {
        let of =
            |id: &str| events.iter().rev().find(|event| event.id() == Some(id) && !matches!(event, Event::Platform(_)));
        // A deletion of what was never told need not be told.
        let ended = |sandbox: &DriverSandbox| of(&sandbox.id).is_none_or(|event| event.is_end_of(&sandbox.id));
        let there = |sandbox: &DriverSandbox| of(&sandbox.id).is_some_and(|event| event.is_state_of(&sandbox.id));
        (gone.iter().all(ended) && kept.iter().all(there)).then_some(())
    };
    let read = watch.until("how things are at last, for one who reads late", at_last).await;
    if read.is_ok() || !watch.events().iter().any(|event| matches!(event, Event::End(_))) {
        return read;
    }
    // A driver may end a stream that lags too far; the next one begins with everything.
    let next = stage.watch();
    tells_all(&next, kept).await?;
    let still = next.events().iter().any(|event| gone.iter().any(|sandbox| event.is_state_of(&sandbox.id)));
    ensure(!still, "the snapshot after a stream that ended", "no deleted sandbox", "one")
}
