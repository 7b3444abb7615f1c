//! Background work: watches, retries, reconcile, sweeps, expiry; and the end of it all.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chiton_model::{Error, SandboxPhase, StopReason};

use futures::future::join_all;

use super::hooks::within;
use super::inner::{Inner, engine_principal};
use super::{Engine, Request};
use crate::journal::SandboxQuery;
use crate::runtime::LifecycleEvent;

/// How often expired rows are looked for.
const EXPIRE_EVERY: Duration = Duration::from_mins(1);

impl Inner {
    pub(super) fn begin_background(self: &Arc<Self>) {
        for id in self.drivers.keys() {
            self.world.executor.spawn(Box::pin(Arc::clone(self).watch_driver(id.clone())));
        }
        self.world.executor.spawn(Box::pin(Arc::clone(self).read_leftovers()));
        self.world.executor.spawn(Box::pin(Arc::clone(self).pay_obligations()));
        self.world.executor.spawn(Box::pin(Arc::clone(self).reconcile_loop()));
        self.world.executor.spawn(Box::pin(Arc::clone(self).sweep_loop()));
        self.world.executor.spawn(Box::pin(Arc::clone(self).expire_loop()));
    }

    /// Sleeps about this long; false when the engine ends.
    async fn pause(&self, about: Duration) -> bool {
        let [byte] = self.world.random::<1>();
        let jittered = about.mul_f64(0.9 + f64::from(byte) / 1275.0);
        within(&*self.world.clock, jittered, self.stop.cancelled()).await.is_none()
    }

    async fn reconcile_loop(self: Arc<Self>) {
        loop {
            if let Err(error) = self.reconcile_all().await {
                tracing::warn!(%error, "reconcile could not run");
            }
            if !self.pause(self.config.reconcile_every).await {
                return;
            }
        }
    }

    async fn sweep_loop(self: Arc<Self>) {
        while self.pause(self.config.sweep_every).await {
            if let Err(error) = self.sweep_orphans().await {
                tracing::warn!(%error, "the sweep of backend objects could not run");
            }
            let report = self.sweep_extensions().await;
            if !report.leaked.is_empty() || !report.failed.is_empty() {
                tracing::warn!(leaked = report.leaked.len(), failed = ?report.failed, "extensions hold something for sandboxes that are gone");
            }
        }
    }

    async fn expire_loop(self: Arc<Self>) {
        while self.pause(EXPIRE_EVERY).await {
            match self.journal.expire(self.world.clock.now()).await {
                Ok(gone) => {
                    for id in gone {
                        self.world.audience.tell(LifecycleEvent::Removed(id));
                    }
                }
                Err(error) => tracing::warn!(%error, "expired rows could not be removed"),
            }
            self.forget_abandoned().await;
        }
    }

    /// Refuses new work while the gateway ends.
    pub(super) fn check_open(&self) -> Result<(), Error> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(Error::unavailable("gateway", "the gateway is shutting down").cure("try again when it is back"));
        }
        Ok(())
    }
}

impl Engine {
    /// Ends the engine: nothing new begins, running operations get the drain time, sandboxes of drivers whose lifecycle the
    /// gateway manages are stopped. What is not done by then goes on at the next start.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        inner.stopping.store(true, Ordering::Release);
        let stopped = async {
            self.drained().await;
            self.stop_managed().await;
            self.drained().await;
        };
        if within(&*inner.world.clock, inner.config.drain, Box::pin(stopped)).await.is_none() {
            tracing::warn!("operations are still running; they go on at the next start");
        }
        inner.stop.cancel();
        inner.book.wake();
    }

    async fn drained(&self) {
        for done in self.inner.table.drain() {
            done.cancelled().await;
        }
    }

    async fn stop_managed(&self) {
        let managed: Vec<_> = self
            .inner
            .drivers
            .values()
            .filter(|driver| driver.capabilities().gateway_manages_lifecycle)
            .map(|driver| driver.capabilities().id.clone())
            .collect();
        if managed.is_empty() {
            return;
        }
        let rows = self.inner.journal.sandboxes(&SandboxQuery::default()).await.unwrap_or_default();
        let running = rows.into_iter().filter(|row| row.phase == SandboxPhase::Ready && managed.contains(&row.driver));
        // All at once: what one has to wait for keeps no other from being stopped in time.
        join_all(running.map(|row| async move {
            let request = Request { principal: engine_principal(), request_id: None };
            if let Err(error) = self.inner.stop(request, row.id.clone(), StopReason::GatewayShutdown).await {
                tracing::warn!(sandbox = %row.id, %error, "it could not be stopped at shutdown");
            }
        }))
        .await;
    }
}
