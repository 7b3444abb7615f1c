//! What one watcher is told.
//!
//! A watcher is told how things are, not what happened: it is compared with what it was told before. So nothing waits for
//! one that reads slowly, and what it reads at last is how things are at last.

use std::collections::{BTreeMap, BTreeSet};

use chiton_compute_wire::v1::watch_sandboxes_event::Payload;
use chiton_compute_wire::v1::{
    DriverSandbox, WatchSandboxesDeletedEvent, WatchSandboxesEvent, WatchSandboxesSandboxEvent,
    WatchSandboxesSnapshotEnd,
};
use tokio::sync::broadcast;
use tokio::sync::mpsc::Sender;
use tonic::Status;

use crate::fault::Fault;
use crate::platform::Phase;
use crate::service::Service;
use crate::view::{View, observed};

type News = Sender<Result<WatchSandboxesEvent, Status>>;

/// The watcher is gone.
struct Gone;

struct Watcher {
    service: Service,
    news: News,
    /// What it was told, by the revision.
    known: BTreeMap<String, u64>,
    /// What it was told is deleted, and is not.
    early: BTreeSet<String>,
    /// News of what is not.
    rumours: broadcast::Receiver<DriverSandbox>,
    ended: bool,
}

/// Tells a watcher until it goes.
pub(crate) async fn feed(service: Service, news: News) {
    if service.faults.has(Fault::HangsOnWatch) {
        news.closed().await;
        return;
    }
    let gone = news.clone();
    let rumours = service.memory.rumours.subscribe();
    let mut watcher = Watcher { service, news, known: BTreeMap::new(), early: BTreeSet::new(), rumours, ended: false };
    tokio::select! {
        () = gone.closed() => {}
        _ = watcher.tell() => {}
    }
    watcher.service.memory.told.lock().extend(watcher.known.into_keys());
}

impl Watcher {
    fn has(&self, fault: Fault) -> bool {
        self.service.faults.has(fault)
    }

    async fn tell(&mut self) -> Result<(), Gone> {
        let mut changes = self.service.platform.changes();
        changes.borrow_and_update();
        if self.has(Fault::EarlySnapshotEnd) {
            self.end().await?;
        }
        self.round().await?;
        self.end().await?;
        let only = std::sync::Arc::clone(&self.service.memory.ear);
        let _only = if self.has(Fault::OneWatcher) { Some(only.lock_owned().await) } else { None };
        loop {
            tokio::select! {
                moved = changes.changed() => moved.map_err(|_| Gone)?,
                Ok(rumour) = self.rumours.recv() => self.send(sandbox(rumour)).await?,
            }
            self.round().await?;
            if self.has(Fault::TellsOfForeign) {
                let foreign = DriverSandbox { id: "somebody-elses".to_owned(), ..DriverSandbox::default() };
                self.send(sandbox(foreign)).await?;
            }
        }
    }

    async fn end(&mut self) -> Result<(), Gone> {
        if std::mem::replace(&mut self.ended, true) || self.service.stock || self.has(Fault::NoSnapshotEnd) {
            return Ok(());
        }
        self.send(Payload::SnapshotEnd(WatchSandboxesSnapshotEnd {})).await
    }

    /// Tells all that is not as it was told.
    async fn round(&mut self) -> Result<(), Gone> {
        let now: Vec<(String, u64, Phase, DriverSandbox)> = self.service.platform.look(|inner| {
            let objects = inner.objects.iter();
            let news = objects.filter(|(id, object)| self.known.get(*id) != Some(&object.revision));
            news.map(|(id, object)| {
                (
                    id.clone(),
                    object.revision,
                    object.phase,
                    self.service.told(observed(object, View::Watch, &self.service.faults)),
                )
            })
            .collect()
        });
        // What was rumoured before the newest of these came is told before it.
        while let Ok(rumour) = self.rumours.try_recv() {
            self.send(sandbox(rumour)).await?;
        }
        for (id, revision, phase, told) in now {
            let first = self.known.insert(id.clone(), revision).is_none();
            if phase == Phase::Deleting && self.has(Fault::TellsDeletedEarly) && self.early.insert(id.clone()) {
                self.send(deleted(&id)).await?;
            }
            let silent = self.early.contains(&id)
                || self.has(Fault::NoSnapshotAfterRestart)
                    && self.service.platform.look(|inner| inner.old.contains(&id))
                || !first && self.has(Fault::SilentAboutChanges)
                || !self.ended
                    && self.has(Fault::NoSnapshotOnReconnect)
                    && self.service.memory.told.lock().contains(&id);
            if !silent {
                self.send(sandbox(told)).await?;
            }
        }
        let absent: Vec<String> = self
            .service
            .platform
            .look(|inner| self.known.keys().filter(|id| !inner.objects.contains_key(*id)).cloned().collect());
        for id in absent {
            self.known.remove(&id);
            if self.early.remove(&id) || self.has(Fault::NeverTellsDeleted) {
                continue;
            }
            self.send(deleted(&id)).await?;
            if self.has(Fault::RepeatsDeleted) {
                self.send(deleted(&id)).await?;
            }
        }
        Ok(())
    }

    async fn send(&self, payload: Payload) -> Result<(), Gone> {
        let event = Ok(WatchSandboxesEvent { payload: Some(payload) });
        if self.has(Fault::LosesWhenSlow) {
            // What finds no room is lost.
            drop(self.news.try_send(event));
            return Ok(());
        }
        self.news.send(event).await.map_err(|_| Gone)
    }
}

fn sandbox(sandbox: DriverSandbox) -> Payload {
    Payload::Sandbox(WatchSandboxesSandboxEvent { sandbox: Some(sandbox) })
}

fn deleted(id: &str) -> Payload {
    Payload::Deleted(WatchSandboxesDeletedEvent { sandbox_id: id.to_owned() })
}
