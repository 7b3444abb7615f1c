//! What drivers report: exits become operations, news about a busy sandbox goes to its operation.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chiton_driver::{ComputeDriver, DriverEvent, Observed, ObservedStatus};
use chiton_model::{DriverId, Error, ExitStatus, SandboxId, SandboxPhase};
use futures::future::{Either, select};
use futures::{StreamExt as _, pin_mut};

use super::Engine;
use super::hooks::within;
use super::inner::Inner;
use super::outcome::{Reported, exit_of};
use crate::journal::{SandboxQuery, Subject};
use crate::runtime::LifecycleEvent;

/// How long a driver is left alone at most before it is asked again whether it can be reached.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How many sandboxes that a driver spoke of without having them are remembered.
const MOST_STRANGERS: usize = 4096;

impl Engine {
    /// Takes in that the main process of one start of a sandbox ended, where the sandbox's own agent tells it. What a
    /// driver reports is taken in the same way, so the first of both counts; news of another start change nothing.
    ///
    /// # Errors
    /// `NotFound` when there is no such sandbox, `Unavailable` when the store does not answer.
    pub async fn report_exit(&self, id: &SandboxId, attempt: &str, exit: ExitStatus) -> Result<(), Error> {
        let record = self.inner.record(id).await?;
        let observed = Observed {
            id: id.clone(),
            status: ObservedStatus::Exited(exit),
            attempt: Some(attempt.to_owned()),
            gateway: self.inner.journal.info().gateway,
            epoch: record.epoch,
            commit: record.commit,
        };
        self.inner.observed(&record.driver, observed).await;
        Ok(())
    }
}

impl Inner {
    /// Watches one driver for ever; a stream that ends is begun anew.
    pub(super) async fn watch_driver(self: Arc<Self>, id: DriverId) {
        let Ok(driver) = self.driver(&id) else { return };
        let mut pause = Duration::from_millis(100);
        while !self.stop.is_cancelled() {
            let mut stream = driver.watch();
            let mut seen = Some(HashSet::new());
            loop {
                let event = {
                    let stop = self.stop.cancelled();
                    pin_mut!(stop);
                    match select(stream.next(), stop).await {
                        Either::Left((Some(event), _)) => event,
                        Either::Left((None, _)) => break,
                        Either::Right(_) => return,
                    }
                };
                match event {
                    DriverEvent::Changed(observed) => {
                        if let Some(seen) = &mut seen {
                            seen.insert(observed.id.clone());
                        }
                        self.observed(&id, observed).await;
                    }
                    DriverEvent::Deleted(sandbox) => self.vanished(&id, &sandbox).await,
                    DriverEvent::Progress { id: sandbox, message } => {
                        self.progress(&id, sandbox, message).await;
                    }
                    DriverEvent::SnapshotEnd => {
                        pause = Duration::from_millis(100);
                        self.unlisted.lock().remove(&id);
                        self.news_began(&id).await;
                        if let Some(seen) = seen.take() {
                            self.missing(&id, &seen).await;
                        }
                    }
                }
            }
            self.unlisted.lock().insert(id.clone());
            if self.unreachable_for_now(&id) {
                tracing::debug!(driver = %id, ?pause, "there are no news of the driver; watching anew");
            } else {
                tracing::warn!(driver = %id, ?pause, "the driver's news ended; watching anew");
            }
            self.news_ended(&id).await;
            within(&*self.world.clock, pause, self.stop.cancelled()).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Takes up what operations were told and did not use. What runs by now is not told again: an exit stands in line for
    /// its turn from here on, before whoever comes later.
    pub(super) async fn read_leftovers(self: Arc<Self>) {
        let Some(mut leftovers) = self.table.leftovers() else { return };
        loop {
            let stop = self.stop.cancelled();
            pin_mut!(stop);
            match select(leftovers.next(), stop).await {
                Either::Left((Some((driver, observed)), _)) => self.take_in(&driver, observed).await,
                _ => return,
            }
        }
    }

    async fn observed(self: &Arc<Self>, driver: &DriverId, observed: Observed) {
        if observed.gateway != self.journal.info().gateway {
            return;
        }
        let subject = Subject::Sandbox(observed.id.clone());
        if let Some(observed) = self.table.deliver(&subject, driver, observed) {
            self.take_in(driver, observed).await;
        }
    }

    async fn take_in(self: &Arc<Self>, driver: &DriverId, observed: Observed) {
        let id = observed.id.clone();
        let record = match self.journal.sandbox(&id).await {
            Ok(Some(record)) => record,
            Ok(None) => return self.world.audience.tell(LifecycleEvent::Unowned(Box::new(observed))),
            Err(error) => return tracing::warn!(sandbox = %id, %error, "news of it could not be taken in"),
        };
        if record.driver != *driver {
            return self.stranger(driver, &id);
        }
        if record.phase != SandboxPhase::Ready {
            return;
        }
        let attempt = record.attempt.clone();
        if let Some(reported) = exit_of(observed, &attempt) {
            self.begin_exit(id, attempt, reported);
        }
    }

    /// Slow work on a sandbox: told to whoever waits for it, if it is the sandbox's own driver that speaks.
    async fn progress(&self, driver: &DriverId, sandbox: SandboxId, message: String) {
        match self.journal.sandbox(&sandbox).await {
            Ok(Some(record)) if record.driver == *driver => {
                self.world.audience.tell(LifecycleEvent::Progress { sandbox, message });
            }
            Ok(Some(_)) => self.stranger(driver, &sandbox),
            Ok(None) => tracing::debug!(%driver, %sandbox, "progress of a sandbox that nobody has a record of"),
            Err(error) => tracing::debug!(%sandbox, %error, "progress of it could not be told"),
        }
    }

    /// A driver speaks of another driver's sandbox: nothing comes of it. Said once of each; two drivers on one platform
    /// would fill the log.
    pub(super) fn stranger(&self, driver: &DriverId, id: &SandboxId) {
        let mut known = self.strangers.lock();
        if known.len() >= MOST_STRANGERS {
            known.clear();
        }
        if known.insert((driver.clone(), id.clone())) {
            tracing::warn!(%driver, sandbox = %id, "a driver speaks of another driver's sandbox; ignored");
        }
    }

    /// An object went without us: what ran there runs no more, and nobody saw how it ended.
    async fn vanished(self: &Arc<Self>, driver: &DriverId, id: &SandboxId) {
        if self.table.running(&Subject::Sandbox(id.clone())).is_some() {
            let (inner, driver, id) = (Arc::clone(self), driver.clone(), id.clone());
            self.world.executor.spawn(Box::pin(async move { inner.look_again(&driver, &id).await }));
            return;
        }
        self.gone(driver, id).await;
    }

    /// The running operation may be what removes the object, or may end without having looked: then it is looked at.
    async fn look_again(self: &Arc<Self>, driver: &DriverId, id: &SandboxId) {
        let Ok(platform) = self.driver(driver) else { return };
        while let Some((_, operation)) = self.table.running(&Subject::Sandbox(id.clone())) {
            if let Some(done) = self.table.done(&operation) {
                done.cancelled().await;
            }
            if !matches!(self.look(&platform, platform.get(id)).await, Ok(None)) {
                return;
            }
        }
        self.gone(driver, id).await;
    }

    async fn gone(self: &Arc<Self>, driver: &DriverId, id: &SandboxId) {
        match self.journal.sandbox(id).await {
            Ok(Some(record)) if record.driver != *driver => {
                self.stranger(driver, id);
            }
            Ok(Some(record)) if record.phase == SandboxPhase::Ready => {
                self.begin_exit(id.clone(), record.attempt, Reported { exit: unseen(), sure: true });
            }
            _ => {}
        }
    }

    /// After a snapshot: a Ready sandbox that the driver does not have has exited.
    async fn missing(self: &Arc<Self>, driver: &DriverId, seen: &HashSet<SandboxId>) {
        let Ok(rows) = self.journal.sandboxes(&SandboxQuery::default()).await else { return };
        let rows = rows
            .into_iter()
            .filter(|row| row.driver == *driver && row.phase == SandboxPhase::Ready && !seen.contains(&row.id));
        for row in rows {
            // A driver that does not answer now has ended its news, too; they begin anew.
            let Ok(backend) = self.backend(driver).await else { return };
            if row.backend == backend {
                self.vanished(driver, &row.id).await;
            } else {
                tracing::warn!(%driver, sandbox = %row.id, now = %backend, made_on = %row.backend,
                    "another installation of the platform answers, which says nothing about this sandbox");
            }
        }
    }
}

impl Inner {
    /// Whether what ran there runs no more, by a look of its own. A driver that does not answer has not said so; its news
    /// begin anew when it does.
    pub(super) async fn has_exited(&self, driver: &Arc<dyn ComputeDriver>, id: &SandboxId) -> bool {
        match self.look(driver, driver.get(id)).await {
            Ok(Some(observed)) => matches!(observed.status, ObservedStatus::Exited(_)),
            Ok(None) => true,
            Err(error) => {
                tracing::warn!(sandbox = %id, %error, "an exit was reported and could not be looked at");
                false
            }
        }
    }
}

fn unseen() -> ExitStatus {
    ExitStatus { code: None, reason: "Unknown".to_owned(), at: None }
}
