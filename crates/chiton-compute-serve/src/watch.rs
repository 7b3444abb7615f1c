//! The news, as the contract tells them.

use std::collections::BTreeSet;
use std::sync::Arc;

use chiton_compute_wire::names::progress;
use chiton_compute_wire::v1;
use chiton_compute_wire::v1::watch_sandboxes_event::Payload;
use chiton_lifecycle::Selector;
use chiton_lifecycle::journal::{SandboxQuery, SandboxRecord};
use chiton_lifecycle::runtime::LifecycleEvent;
use chiton_model::{Error, ErrorKind, SandboxId};
use jiff::Timestamp;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tonic::Status;

use crate::service::Driver;
use crate::show;

/// How many rows are read at a time.
const PAGE: usize = 500;

pub(crate) type Out = mpsc::Sender<Result<v1::WatchSandboxesEvent, Status>>;

/// Who watches.
struct Watcher<'a> {
    driver: &'a Arc<Driver>,
    out: &'a Out,
    /// What it was told to exist and not to be gone.
    present: BTreeSet<SandboxId>,
}

/// The watcher is gone.
struct Left;

/// Tells all that there is, then each change, until the watcher or the driver is gone.
pub(crate) async fn tell(driver: Arc<Driver>, out: Out) {
    let mut watcher = Watcher { driver: &driver, out: &out, present: BTreeSet::new() };
    tokio::select! {
        ended = watcher.follow() => {
            if let Err(error) = ended {
                drop(out.send(Err(chiton_compute_wire::status::to_status(&error))).await);
            }
        }
        () = driver.draining.cancelled() => {}
        () = out.closed() => {}
    }
}

impl Watcher<'_> {
    async fn follow(&mut self) -> Result<(), Error> {
        loop {
            // Subscribed before the snapshot is read: a change in between is told twice rather than never.
            let mut events = self.driver.gateway.events();
            if self.snapshot().await?.is_err() {
                return Ok(());
            }
            loop {
                let told = match events.recv().await {
                    // Looked at anew: what comes late may be older than what was told already.
                    Ok(LifecycleEvent::Changed(record)) => match self.view(&record.id).await? {
                        Some(record) => self.changed(&record).await,
                        None => self.gone(record.id.clone()).await,
                    },
                    Ok(LifecycleEvent::Removed(id)) => self.gone(id).await,
                    Ok(LifecycleEvent::Progress { sandbox, message }) => self.progress(&sandbox, message).await,
                    Ok(_) => Ok(()),
                    Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return Ok(()),
                };
                if told.is_err() {
                    return Ok(());
                }
            }
        }
    }

    async fn snapshot(&mut self) -> Result<Result<(), Left>, Error> {
        let before = std::mem::take(&mut self.present);
        let mut query = SandboxQuery { all: true, limit: PAGE, ..SandboxQuery::default() };
        loop {
            let page = self.driver.engine().list(&query).await?;
            for view in &page.views {
                if self.changed(&view.record).await.is_err() {
                    return Ok(Err(Left));
                }
            }
            let Some(next) = page.next else { break };
            query.after = Some(next);
        }
        // What went while nobody listened, and what went a short time ago for whoever has missed it.
        let lately = self.driver.gone.lately(Timestamp::now()).into_iter().chain(before);
        let lately: BTreeSet<SandboxId> = lately.filter(|id| !self.present.contains(id)).collect();
        for id in lately {
            // Not what is still going.
            if self.view(&id).await?.is_some_and(|record| show::sandbox(&record, None).is_some()) {
                continue;
            }
            if self.send(Payload::Deleted(v1::WatchSandboxesDeletedEvent { sandbox_id: id.to_string() })).await.is_err()
            {
                return Ok(Err(Left));
            }
        }
        Ok(self.send(Payload::SnapshotEnd(v1::WatchSandboxesSnapshotEnd {})).await)
    }

    async fn view(&self, id: &SandboxId) -> Result<Option<SandboxRecord>, Error> {
        match self.driver.engine().get(&Selector::Id(id.clone()), true).await {
            Ok(view) => Ok(Some(view.record)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn changed(&mut self, record: &SandboxRecord) -> Result<(), Left> {
        let attempt = self.driver.credentials.attempt(&record.id);
        match show::sandbox(record, attempt.as_deref()) {
            Some(sandbox) => {
                self.present.insert(record.id.clone());
                self.send(Payload::Sandbox(v1::WatchSandboxesSandboxEvent { sandbox: Some(sandbox) })).await
            }
            None => self.gone(record.id.clone()).await,
        }
    }

    async fn gone(&mut self, id: SandboxId) -> Result<(), Left> {
        if !self.present.remove(&id) {
            return Ok(());
        }
        self.send(Payload::Deleted(v1::WatchSandboxesDeletedEvent { sandbox_id: id.to_string() })).await
    }

    async fn progress(&self, id: &SandboxId, message: String) -> Result<(), Left> {
        let event = v1::DriverPlatformEvent {
            timestamp_ms: Timestamp::now().as_millisecond(),
            source: self.driver.name.clone(),
            r#type: "Normal".to_owned(),
            reason: "Progress".to_owned(),
            message: message.clone(),
            metadata: [(progress::ACTIVE_DETAIL.to_owned(), message)].into_iter().collect(),
        };
        let event = v1::WatchSandboxesPlatformEvent { sandbox_id: id.to_string(), event: Some(event) };
        self.send(Payload::PlatformEvent(event)).await
    }

    async fn send(&self, payload: Payload) -> Result<(), Left> {
        let event = v1::WatchSandboxesEvent { payload: Some(payload) };
        self.out.send(Ok(event)).await.map_err(|_| Left)
    }
}
