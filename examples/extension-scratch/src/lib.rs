//! A folder of the host for every sandbox: made before it, mounted in it, kept over stops, and removed with it.
//!
//! The folder bears the sandbox's id, which nobody knows while the plan is made: so the plan's mount has a slot as its
//! source, and `before_create` fills it.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use chiton_driver::Point;
use chiton_lifecycle::extension::{
    ConfigIssue, Descriptor, Draft, Extension, ExtensionKind, HeldPage, HookContext, ReconcileOutcome,
    ReconcileSupport, RequestContext, SlotValues, StepError, StepResult,
};
use chiton_model::{CreateFailure, Error, Phase, Ran, SandboxId};
use schemars::JsonSchema;
use serde::Deserialize;

/// The config: `[compute.extension."scratch"]`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Absolute path of the folder on the host in which the sandboxes' folders are made. It must exist.
    pub folder: PathBuf,
    /// Absolute path in the sandbox.
    pub target: String,
}

/// The extension.
#[derive(Debug)]
pub struct Scratch(Config);

/// What a distribution registers.
///
/// # Errors
/// None in practice: the name is a constant of the right form.
pub fn extension() -> Result<ExtensionKind, Error> {
    use Phase::{AfterDelete, BeforeCreate, OnCreateFailed, PreparePlan, Reconcile, Sweep};
    let phases = [PreparePlan, BeforeCreate, OnCreateFailed, AfterDelete, Reconcile, Sweep];
    let about = "A folder of the host for every sandbox";
    let mut descriptor = Descriptor::new("scratch", env!("CARGO_PKG_VERSION"), about, phases)?;
    descriptor.needs.points.insert(Point::Mount);
    descriptor.reconcile = ReconcileSupport::Authoritative;
    // System calls of this process: none is on its way once it died.
    descriptor.local_effects = true;
    Ok(ExtensionKind::new(descriptor, check, |config| Ok(Scratch(config))))
}

fn check(config: &Config) -> Vec<ConfigIssue> {
    let paths = [("/folder", config.folder.as_path()), ("/target", Path::new(&config.target))];
    let relative = paths.into_iter().filter(|(_, path)| !path.is_absolute());
    let issue = |(pointer, path): (&str, &Path)| ConfigIssue {
        pointer: pointer.to_owned(),
        message: format!("{path:?} is not an absolute path"),
        cure: Some("begin it with \"/\"".to_owned()),
    };
    relative.map(issue).collect()
}

fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn list(folder: &Path) -> io::Result<Vec<SandboxId>> {
    let names: io::Result<Vec<_>> = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect();
    Ok(names?.iter().filter_map(|name| SandboxId::new(name.to_str()?).ok()).collect())
}

fn failed(error: &io::Error) -> StepError {
    StepError::retryable(format!("the folder of scratch folders cannot be used: {error}"))
}

impl Scratch {
    fn path(&self, id: &SandboxId) -> PathBuf {
        self.0.folder.join(id.as_str())
    }

    async fn work<T: Send + 'static>(&self, cx: &HookContext, work: fn(&Path) -> io::Result<T>) -> StepResult<T> {
        let path = self.path(&cx.sandbox);
        cx.blocking(move || work(&path)).await?.map_err(|error| failed(&error))
    }
}

#[async_trait]
impl Extension for Scratch {
    async fn prepare_plan(&self, _cx: &RequestContext, draft: &mut Draft) -> StepResult {
        let source = draft.slot("folder");
        draft.portable().mount(&source, &self.0.target, false)
    }

    async fn before_create(&self, cx: &HookContext) -> StepResult<SlotValues> {
        self.work(cx, make).await?;
        // Nothing but the id is needed ever after: it is saved so that reconcile is called.
        cx.save(&())?;
        let path = self.path(&cx.sandbox);
        let path = path.to_str().ok_or_else(|| StepError::fatal("the configured folder is not valid UTF-8"))?;
        Ok(SlotValues::from([("folder".to_owned(), path.to_owned())]))
    }

    async fn on_create_failed(&self, cx: &HookContext, _ran: Ran, _failure: &CreateFailure) -> StepResult {
        self.work(cx, remove).await
    }

    async fn after_delete(&self, cx: &HookContext, _ran: Ran) -> StepResult {
        self.work(cx, remove).await
    }

    async fn reconcile(&self, cx: &HookContext) -> ReconcileOutcome {
        let looked = self.work(cx, Path::try_exists).await;
        match looked {
            Ok(true) => ReconcileOutcome::InSync,
            // What was in it is lost: an empty folder in its place would hide that.
            Ok(false) => ReconcileOutcome::Drift("its scratch folder is gone".to_owned()),
            Err(error) => ReconcileOutcome::Failed(error.to_string()),
        }
    }

    async fn held(&self, _page: Option<String>) -> StepResult<HeldPage> {
        Ok(HeldPage { ids: list(&self.0.folder).map_err(|error| failed(&error))?, next: None })
    }

    async fn release(&self, ids: &[SandboxId]) -> StepResult {
        ids.iter().try_for_each(|id| remove(&self.path(id))).map_err(|error| failed(&error))
    }
}
