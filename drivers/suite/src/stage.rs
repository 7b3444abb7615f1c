//! What a case plays on: lives of gateways over one platform, and cleaning up behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use chiton_model::{GatewayId, SandboxId};
use parking_lot::Mutex;

use crate::bench::{Bench, Subject};
use crate::door::SharedDoors;
use crate::life::Life;
use crate::verdict::{Failure, Verdict};

/// One case's world. Its gateways' ids are its own, so that cases run beside each other on one platform.
pub struct Stage {
    bench: Arc<dyn Bench>,
    doors: SharedDoors,
    gateway: GatewayId,
    neighbour: GatewayId,
    /// The latest life of each gateway that was begun.
    lives: Mutex<BTreeMap<GatewayId, Arc<Life>>>,
}

impl Stage {
    /// A world on a bench.
    pub fn new(bench: Arc<dyn Bench>) -> Verdict<Arc<Self>> {
        Ok(Arc::new(Self {
            bench,
            doors: SharedDoors::default(),
            gateway: gateway("g")?,
            neighbour: gateway("h")?,
            lives: Mutex::default(),
        }))
    }

    pub(crate) fn bench(&self) -> &dyn Bench {
        &*self.bench
    }

    /// A life of the case's gateway: the first, and after that what a restart makes.
    pub(crate) async fn life(&self) -> Verdict<Arc<Life>> {
        self.begin(&self.gateway).await
    }

    /// A life of another gateway on the same platform.
    pub(crate) async fn neighbour(&self) -> Verdict<Arc<Life>> {
        self.begin(&self.neighbour).await
    }

    async fn begin(&self, gateway: &GatewayId) -> Verdict<Arc<Life>> {
        let subject = self.bench.driver(gateway).await?;
        Ok(self.live(gateway, subject))
    }

    fn live(&self, gateway: &GatewayId, subject: Subject) -> Arc<Life> {
        let life = Arc::new(Life::new(gateway.clone(), subject, Arc::clone(&self.doors), self.bench.image()));
        self.lives.lock().insert(gateway.clone(), Arc::clone(&life));
        life
    }

    /// A life whose connection to the engine misbehaves on demand. Cleaning up goes past the proxy.
    pub(crate) async fn faulty(&self) -> Verdict<(Arc<Life>, crate::FaultyBench)> {
        let faulty = self.bench.faulty(&self.gateway).await?;
        self.life().await?;
        let subject = faulty.subject.clone();
        let life = Life::new(self.gateway.clone(), subject, Arc::clone(&self.doors), self.bench.image());
        Ok((Arc::new(life), faulty))
    }

    /// What is on the platform of the case's gateway.
    pub(crate) async fn traces(&self) -> Verdict<Vec<String>> {
        self.bench.traces(&self.gateway).await
    }

    /// Nothing may be on the platform of the case's gateway.
    pub(crate) async fn nothing_left(&self) -> Verdict {
        match self.traces().await? {
            traces if traces.is_empty() => Ok(()),
            traces => Err(Failure::Left(traces).into()),
        }
    }

    /// Deletes whatever the case left, as the engine would, and looks whether that was all.
    pub(crate) async fn clean(&self) -> Verdict {
        let lives = self.lives.lock().clone();
        let mut first = Ok(());
        for (gateway, life) in lives {
            let cleaned = async {
                life.clear().await?;
                match self.bench.traces(&gateway).await? {
                    traces if traces.is_empty() => Ok(()),
                    traces => Err(Failure::Left(traces).into()),
                }
            };
            first = first.and(cleaned.await);
        }
        first
    }
}

fn unique() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

fn gateway(prefix: &str) -> Verdict<GatewayId> {
    GatewayId::new(format!("{prefix}-{}", unique())).map_err(|error| Failure::bench("name a gateway", error).into())
}

/// An id that was never used.
pub(crate) fn sandbox_id() -> Verdict<SandboxId> {
    SandboxId::new(format!("s-{}", unique())).map_err(|error| Failure::bench("name a sandbox", error).into())
}

/// A word that occurs nowhere else.
pub(crate) fn word(prefix: &str) -> String {
    format!("{prefix}{}", unique())
}
