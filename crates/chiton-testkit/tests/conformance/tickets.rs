//! The reference: an extension with an effect in every phase that may have one, as files, and every fault that the kit must
//! find, one at a time.

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chiton_lifecycle::extension::{
    Approval, Descriptor, Draft, Extension, ExtensionKind, HeldPage, HookContext, ReconcileOutcome, ReconcileSupport,
    RequestContext, SlotValues, StepError, StepResult, WorkspaceContext,
};
use chiton_lifecycle::plan::PlanView;
use chiton_model::{CreateFailure, Error, Phase, Ran, SandboxId, StartReason, StopReason};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is wrong with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Flaw {
    #[default]
    None,
    /// A failed create leaves what `after_create` made.
    LeaksOnFailure,
    /// A destructor cleans up what was only half made.
    CleansInDestructor,
    /// A second `before_create` meets the file of the first and fails.
    NotIdempotent,
    /// Every call of `before_create` makes one more file.
    MakesAnother,
    /// Finds what to remove by its state.
    NeedsState,
    /// Returns while its blocking work goes on.
    LeavesWork,
    /// Begins a thread and does not wait for it.
    LeavesThread,
    /// Counts the plans into the plan.
    CountsPlans,
    /// Writes the plan in the order of a hash map.
    HashOrder,
    /// A validator leaves a file.
    ValidatorWrites,
    /// `approve_stop` leaves a file.
    VetoWrites,
    /// Declares two slots and fills one.
    ForgetsSlot,
    /// A cleanup that is told `Maybe` panics.
    PanicsOnMaybe,
    /// A cleanup that is told `Maybe` does nothing.
    IgnoresMaybe,
    /// A cleanup fails when nothing is there.
    CleanupNeedsSomething,
    /// Reads another form of state than it saves.
    StateOfAnotherForm,
    /// Says that it reads state that it cannot.
    ClaimsOldState,
    /// Files bear the sandbox's name.
    KeyedByName,
    /// Removes what it finds in `reconcile`.
    ReconcileReleases,
    /// Mends without leave.
    ReconcileMends,
    /// Says that all is well when it is not.
    ReconcileLies,
    /// `release` frees everybody's.
    SweepsTheLiving,
    /// `held` lists nothing.
    HidesHeld,
    /// Takes any field in its config.
    LaxConfig,
    /// Makes a file when an instance is built.
    BuildWrites,
    /// Makes something in `before_delete`, which owes nothing.
    LeavesAtDelete,
    /// Never returns from `before_start`.
    Hangs,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    folder: PathBuf,
    #[serde(default)]
    flaw: Flaw,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
struct Lax {
    folder: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    number: String,
}

#[derive(Debug, Deserialize)]
struct OtherState {
    #[serde(rename = "ticket")]
    number: u64,
}

struct Tickets {
    folder: PathBuf,
    flaw: Flaw,
    plans: AtomicU64,
}

pub(crate) fn extension() -> Result<ExtensionKind, Error> {
    flawed(Flaw::None)
}

pub(crate) fn flawed(flaw: Flaw) -> Result<ExtensionKind, Error> {
    let mut descriptor = Descriptor::new("tickets", "1.0.0", "A ticket for everything", Phase::ALL.iter().copied())?;
    descriptor.reconcile = ReconcileSupport::Authoritative;
    descriptor.local_effects = true;
    descriptor.state_schema = 2;
    descriptor.reads_schemas.insert(1);
    let build = move |folder: PathBuf| {
        if flaw == Flaw::BuildWrites {
            fs::write(folder.join("built"), "").map_err(|error| Error::internal(error.to_string()))?;
        }
        Ok(Tickets { folder, flaw, plans: AtomicU64::new(0) })
    };
    Ok(match flaw {
        Flaw::LaxConfig => ExtensionKind::new(descriptor, |_: &Lax| Vec::new(), move |lax: Lax| build(lax.folder)),
        _ => ExtensionKind::new(descriptor, |_: &Config| Vec::new(), move |config: Config| build(config.folder)),
    })
}

fn io(error: &io::Error) -> StepError {
    StepError::fatal(format!("the folder: {error}"))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes its file when it is dropped before it is told to keep it.
struct Careless(Option<PathBuf>);

impl Drop for Careless {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            drop(remove(&path));
        }
    }
}

impl Tickets {
    fn path(&self, cx: &HookContext, slot: &str) -> PathBuf {
        let key = if self.flaw == Flaw::KeyedByName { cx.name.as_str() } else { cx.sandbox.as_str() };
        self.folder.join(format!("{key}.{slot}"))
    }

    async fn make(&self, cx: &HookContext, slot: &str) -> StepResult {
        let path = self.path(cx, slot);
        cx.blocking(move || fs::write(path, "")).await?.map_err(|error| io(&error))
    }

    async fn end(&self, cx: &HookContext, ran: Ran, slots: &[&str]) -> StepResult {
        match self.flaw {
            Flaw::PanicsOnMaybe if ran == Ran::Maybe => panic!("nobody told me what ran"),
            Flaw::IgnoresMaybe if ran == Ran::Maybe => return Ok(()),
            Flaw::NeedsState if cx.state::<State>()?.is_none() => return Ok(()),
            Flaw::CleanupNeedsSomething if !self.path(cx, slots[0]).exists() => {
                return Err(StepError::fatal("there is nothing to clean up"));
            }
            _ => {}
        }
        let paths: Vec<PathBuf> = slots.iter().map(|slot| self.path(cx, slot)).collect();
        cx.blocking(move || paths.iter().try_for_each(|path| remove(path))).await?.map_err(|error| io(&error))
    }

    fn all(&self) -> io::Result<Vec<SandboxId>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|name| name.split_once('.')).map(|(id, _)| SandboxId::new(id));
            found.extend(id.and_then(Result::ok));
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    async fn first_ticket(&self, cx: &HookContext) -> StepResult {
        let path = self.path(cx, "create");
        match self.flaw {
            Flaw::NotIdempotent => fs::File::create_new(path).map(drop).map_err(|error| io(&error)),
            Flaw::MakesAnother => {
                let count = fs::read_dir(&self.folder).map_err(|error| io(&error))?.count();
                fs::write(path.with_extension(format!("create-{count}")), "").map_err(|error| io(&error))
            }
            Flaw::CleansInDestructor => {
                // Half made until the second part is; an error on the way removes it, a crash does not.
                let half = path.with_extension("half");
                fs::write(&half, "").map_err(|error| io(&error))?;
                let guard = Careless(Some(half));
                self.make(cx, "create").await?;
                drop(guard);
                Ok(())
            }
            Flaw::LeavesWork => {
                let work = cx.blocking(move || fs::write(path, ""));
                // A time-out of its own: it looks once and goes on.
                drop(futures::future::select(Box::pin(work), std::future::ready(())).await);
                Ok(())
            }
            Flaw::LeavesThread => {
                // Unless it is waited for, nobody knows when it ends: long after the look.
                std::thread::spawn(|| std::thread::park_timeout(Duration::from_mins(1)));
                self.make(cx, "create").await
            }
            _ => self.make(cx, "create").await,
        }
    }
}

#[async_trait]
impl Extension for Tickets {
    async fn validate_request(&self, _cx: &RequestContext) -> StepResult {
        if self.flaw == Flaw::ValidatorWrites {
            fs::write(self.folder.join("asked"), "").map_err(|error| io(&error))?;
        }
        Ok(())
    }

    async fn prepare_plan(&self, _cx: &RequestContext, draft: &mut Draft) -> StepResult {
        let number = draft.slot("number");
        draft.portable().env("TICKET", &number)?;
        if self.flaw == Flaw::ForgetsSlot {
            let colour = draft.slot("colour");
            draft.portable().env("TICKET_COLOUR", &colour)?;
        }
        if self.flaw == Flaw::CountsPlans {
            let count = self.plans.fetch_add(1, Ordering::Relaxed).to_string();
            draft.portable().label("tickets/count", &count)?;
        }
        if self.flaw == Flaw::HashOrder {
            let mounts: HashMap<String, String> = (0..8).map(|n| (format!("/in/{n}"), format!("/out/{n}"))).collect();
            for (target, source) in &mounts {
                draft.portable().mount(source, target, true)?;
            }
        }
        Ok(())
    }

    async fn validate_plan(&self, _cx: &RequestContext, _plan: &PlanView) -> StepResult {
        Ok(())
    }

    async fn before_create(&self, cx: &HookContext) -> StepResult<SlotValues> {
        self.first_ticket(cx).await?;
        let number = format!("ticket-{}", cx.sandbox);
        cx.save(&State { number: number.clone() })?;
        Ok(SlotValues::from([("number".to_owned(), number)]))
    }

    async fn after_create(&self, cx: &HookContext) -> StepResult {
        self.make(cx, "object").await
    }

    async fn before_start(&self, cx: &HookContext, _reason: StartReason) -> StepResult {
        if self.flaw == Flaw::Hangs {
            std::future::pending::<()>().await;
        }
        self.make(cx, "start").await
    }

    async fn after_ready(&self, cx: &HookContext, _reason: StartReason) -> StepResult {
        self.make(cx, "ready").await
    }

    async fn approve_stop(&self, cx: &HookContext, _reason: StopReason) -> StepResult<Approval> {
        if self.flaw == Flaw::VetoWrites {
            self.make(cx, "asked").await?;
        }
        Ok(Approval::Approve)
    }

    async fn after_stop(&self, cx: &HookContext, ran: Ran, _reason: StopReason) -> StepResult {
        self.end(cx, ran, &["start", "ready"]).await
    }

    async fn on_create_failed(&self, cx: &HookContext, ran: Ran, _failure: &CreateFailure) -> StepResult {
        match self.flaw {
            Flaw::LeaksOnFailure => self.end(cx, ran, &["create"]).await,
            Flaw::MakesAnother => {
                for entry in fs::read_dir(&self.folder).map_err(|error| io(&error))?.flatten() {
                    if entry.file_name().to_string_lossy().starts_with(cx.sandbox.as_str()) {
                        remove(&entry.path()).map_err(|error| io(&error))?;
                    }
                }
                Ok(())
            }
            _ => self.end(cx, ran, &["create", "object"]).await,
        }
    }

    async fn before_delete(&self, cx: &HookContext) -> StepResult {
        match self.flaw {
            Flaw::LeavesAtDelete => self.make(cx, "farewell").await,
            _ => Ok(()),
        }
    }

    async fn after_delete(&self, cx: &HookContext, ran: Ran) -> StepResult {
        match self.flaw {
            Flaw::MakesAnother => {
                let failure = CreateFailure { step: String::new(), extension: None, cause: String::new() };
                self.on_create_failed(cx, ran, &failure).await
            }
            _ => self.end(cx, ran, &["create", "object", "asked"]).await,
        }
    }

    async fn reconcile(&self, cx: &HookContext) -> ReconcileOutcome {
        let read = match self.flaw {
            Flaw::StateOfAnotherForm => {
                cx.state::<OtherState>().map(|state| state.map(|state| state.number.to_string()))
            }
            Flaw::ClaimsOldState if cx.state_version() == Some(1) => {
                cx.state::<OtherState>().map(|state| state.map(|state| state.number.to_string()))
            }
            _ => cx.state::<State>().map(|state| state.map(|state| state.number)),
        };
        if let Err(error) = read {
            return ReconcileOutcome::Failed(error.to_string());
        }
        let path = self.path(cx, "create");
        match self.flaw {
            Flaw::ReconcileReleases => match remove(&path) {
                Ok(()) => ReconcileOutcome::InSync,
                Err(error) => ReconcileOutcome::Failed(error.to_string()),
            },
            Flaw::ReconcileLies => ReconcileOutcome::InSync,
            _ if path.exists() => ReconcileOutcome::InSync,
            _ if !cx.may_repair() && self.flaw != Flaw::ReconcileMends => {
                ReconcileOutcome::Drift("the ticket is gone".to_owned())
            }
            _ => match self.make(cx, "create").await {
                Ok(()) => ReconcileOutcome::Repaired("the ticket was gone".to_owned()),
                Err(error) => ReconcileOutcome::Failed(error.to_string()),
            },
        }
    }

    async fn held(&self, page: Option<String>) -> StepResult<HeldPage> {
        if self.flaw == Flaw::HidesHeld {
            return Ok(HeldPage::default());
        }
        let mut ids = self.all().map_err(|error| io(&error))?;
        if let Some(after) = page {
            ids.retain(|id| id.as_str() > after.as_str());
        }
        let more = ids.len() > 1;
        ids.truncate(1);
        let next = ids.last().filter(|_| more).map(ToString::to_string);
        Ok(HeldPage { ids, next })
    }

    async fn release(&self, ids: &[SandboxId]) -> StepResult {
        for id in self.all().map_err(|error| io(&error))? {
            if ids.contains(&id) || self.flaw == Flaw::SweepsTheLiving {
                for slot in ["create", "object", "start", "ready", "asked"] {
                    remove(&self.folder.join(format!("{id}.{slot}"))).map_err(|error| io(&error))?;
                }
            }
        }
        Ok(())
    }

    async fn ensure_workspace(&self, cx: &WorkspaceContext) -> StepResult {
        let path = self.folder.join(format!("workspace-{}", cx.workspace));
        cx.blocking(move || fs::write(path, "")).await?.map_err(|error| io(&error))
    }

    async fn release_workspace(&self, cx: &WorkspaceContext, ran: Ran) -> StepResult {
        if self.flaw == Flaw::IgnoresMaybe && ran == Ran::Maybe {
            return Ok(());
        }
        let path = self.folder.join(format!("workspace-{}", cx.workspace));
        cx.blocking(move || remove(&path)).await?.map_err(|error| io(&error))
    }
}
