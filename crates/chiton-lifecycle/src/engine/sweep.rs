//! Sweep: what extensions hold for sandboxes that are certainly gone (rule 13).

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use chiton_model::{Error, ErrorKind, Phase, SandboxId};

use super::Engine;
use super::inner::{Inner, store_error};
use crate::crash::{CommitKind, Deed, crash_point};
use crate::extension::{Extension, ReconcileSupport};
use crate::journal::{AuditRecord, Write};

/// What a sweep found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Held without an owner for longer than the grace, and freed: extension and sandbox.
    pub released: Vec<(String, SandboxId)>,
    /// Held without an owner; not freed, because the grace has not passed or the policy only lets it report.
    pub leaked: Vec<(String, SandboxId)>,
    /// Extensions or drivers that could not be asked, and why. While a driver is among them nothing is freed; an extension
    /// keeps only its own.
    pub failed: Vec<String>,
}

/// A page or a listing that never ends must not stall the sweep.
const MOST_PAGES: usize = 1000;

impl Engine {
    /// One sweep over all extensions.
    pub async fn sweep(&self) -> SweepReport {
        self.inner.sweep_extensions().await
    }
}

impl Inner {
    pub(super) async fn sweep_extensions(self: &Arc<Self>) -> SweepReport {
        let mut report = SweepReport::default();
        let objects = self.all_objects(&mut report).await;
        // Without a row nothing says whose object it would be: any driver that was not asked may have it.
        let all_listed = report.failed.is_empty();
        let mut suspected = BTreeSet::new();
        for config in &self.config.extensions {
            let Some(kind) = self.registry.get(&config.name) else { continue };
            let Ok((extension, _)) = self.instances.configured(&self.registry, config) else { continue };
            if !kind.descriptor().takes_part(Phase::Sweep) {
                continue;
            }
            let held = match self.held_by(&config.name, kind.descriptor(), &extension).await {
                Ok(held) => held,
                Err(error) => {
                    report.failed.push(format!("extension {}: {error}", config.name));
                    continue;
                }
            };
            let may_free =
                config.policy.authoritative && kind.descriptor().reconcile == ReconcileSupport::Authoritative;
            let mut free = Vec::new();
            for id in held {
                match self.journal.sandbox(&id).await {
                    Ok(None) if !objects.contains(&id) => {}
                    Ok(_) => continue,
                    Err(error) => {
                        report.failed.push(store_error(error).to_string());
                        continue;
                    }
                }
                let key = format!("holding/{}/{id}", config.name);
                let ripe = self.suspect(&key);
                suspected.insert(key);
                if ripe && may_free && all_listed {
                    free.push(id);
                } else {
                    report.leaked.push((config.name.to_string(), id));
                }
            }
            self.free(&config.name, kind.descriptor(), &extension, free, &mut report).await;
        }
        self.suspects.lock().retain(|key, _| !key.starts_with("holding/") || suspected.contains(key));
        report
    }

    async fn free(
        &self,
        name: &chiton_model::ExtensionName,
        descriptor: &crate::extension::Descriptor,
        extension: &Arc<dyn Extension>,
        ids: Vec<SandboxId>,
        report: &mut SweepReport,
    ) {
        if ids.is_empty() {
            return;
        }
        let (extension, batch) = (Arc::clone(extension), ids.clone());
        let released = self.pure_hook(name, descriptor, Phase::Sweep, move |_| {
            Box::pin(async move { extension.release(&batch).await })
        });
        crash_point!(self.world.points, Before, None, Deed::Hook(Phase::Sweep));
        let released = released.await;
        crash_point!(self.world.points, After, None, Deed::Hook(Phase::Sweep));
        match released {
            Ok(()) => {
                for id in ids {
                    let audit = AuditRecord {
                        at: self.world.clock.now(),
                        action: "sweep.release".to_owned(),
                        subject: format!("{name}/{id}"),
                        by: "engine".to_owned(),
                        message: "held for a sandbox that is gone".to_owned(),
                    };
                    let writes = vec![Write::Audit(Box::new(audit))];
                    if let Err(error) = self.journal.write(CommitKind::Audit, None, writes).await {
                        tracing::error!(extension = %name, sandbox = %id, %error, "what a sweep released could not be audited");
                    }
                    self.world.audience.tell(crate::runtime::LifecycleEvent::Audit {
                        action: "sweep.release",
                        subject: format!("{name}/{id}"),
                        by: "engine".to_owned(),
                        message: "held for a sandbox that is gone".to_owned(),
                    });
                    report.released.push((name.to_string(), id));
                }
            }
            Err(error) => report.failed.push(format!("extension {name}: {error}")),
        }
    }

    async fn held_by(
        &self,
        name: &chiton_model::ExtensionName,
        descriptor: &crate::extension::Descriptor,
        extension: &Arc<dyn Extension>,
    ) -> Result<Vec<SandboxId>, Error> {
        let (mut held, mut page) = (Vec::new(), None);
        for _ in 0..MOST_PAGES {
            let (asked, at) = (Arc::clone(extension), page.take());
            let answer = self
                .pure_hook(name, descriptor, Phase::Sweep, move |_| Box::pin(async move { asked.held(at).await }))
                .await?;
            held.extend(answer.ids);
            page = answer.next;
            if page.is_none() {
                return Ok(held);
            }
        }
        Err(Error::new(ErrorKind::Internal, format!("its listing has more than {MOST_PAGES} pages")))
    }

    /// Every object of every driver; a driver that cannot be listed is noted, and then nothing may be freed.
    async fn all_objects(&self, report: &mut SweepReport) -> HashSet<SandboxId> {
        let mut objects = HashSet::new();
        for (id, listed) in self.look_at_each(&self.drivers, |driver| async move { driver.list().await }).await {
            match listed {
                Ok(list) => objects.extend(list.into_iter().map(|observed| observed.id)),
                Err(error) => report.failed.push(format!("driver {id}: {error}")),
            }
        }
        objects
    }

    /// Notes something without an owner; true when it has been so for the grace.
    pub(super) fn suspect(&self, key: &str) -> bool {
        let now = u64::try_from(self.world.clock.since_boot().as_millis()).unwrap_or(u64::MAX);
        let since = *self.suspects.lock().entry(key.to_owned()).or_insert(now);
        u128::from(now.saturating_sub(since)) >= self.config.sweep_grace.as_millis()
    }
}
