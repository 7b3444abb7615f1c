//! A network namespace of its own for every sandbox: an effect in the kernel, that no process owns and that nothing but
//! its own cleanup ends.
//!
//! `FOLDER/SANDBOX` is a file with the namespace mounted on it, as `ip netns` keeps its own. Three things can be there
//! after a crash, and cleanup handles each: nothing, a bare file, a file with a namespace.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use chiton_lifecycle::extension::{
    ConfigIssue, Descriptor, Extension, ExtensionKind, HeldPage, HookContext, ReconcileOutcome, ReconcileSupport,
    SlotValues, StepError, StepResult,
};
use chiton_model::{CreateFailure, Error, Phase, Ran, SandboxId};
use nix::sched::{CloneFlags, unshare};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The config.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Absolute path of the folder that holds the namespaces. Made if it is not there.
    pub folder: PathBuf,
}

/// The extension.
#[derive(Clone, Debug)]
pub struct Netns {
    folder: PathBuf,
}

/// What the distribution registers.
///
/// # Errors
/// None in practice: the name is a constant of the right form.
pub fn extension() -> Result<ExtensionKind, Error> {
    let phases = [Phase::BeforeCreate, Phase::OnCreateFailed, Phase::AfterDelete, Phase::Reconcile, Phase::Sweep];
    let about = "A network namespace for every sandbox";
    let mut descriptor = Descriptor::new("netns", env!("CARGO_PKG_VERSION"), about, phases)?;
    descriptor.reconcile = ReconcileSupport::Authoritative;
    // System calls of this process: after a crash none can still be on its way.
    descriptor.local_effects = true;
    Ok(ExtensionKind::new(descriptor, check, |config: Config| Ok(Netns { folder: config.folder })))
}

fn check(config: &Config) -> Vec<ConfigIssue> {
    if config.folder.is_absolute() {
        return Vec::new();
    }
    vec![ConfigIssue {
        pointer: "/folder".to_owned(),
        message: format!("{:?} is not an absolute path", config.folder),
        cure: Some("begin it with \"/\"".to_owned()),
    }]
}

/// Whether a namespace is mounted on the file: it is then of another file system than its folder.
fn mounted(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let folder = path.parent().ok_or_else(|| io::Error::other("a path without a folder"))?;
    match (fs::metadata(path), fs::metadata(folder)) {
        (Ok(file), Ok(folder)) => Ok(file.dev() != folder.dev()),
        (Err(error), _) if error.kind() == ErrorKind::NotFound => Ok(false),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

/// Makes a namespace and mounts it on the file. On a thread of its own, because a thread that moved into another
/// namespace can do nothing else any more.
fn make(path: PathBuf) -> io::Result<()> {
    if mounted(&path)? {
        return Ok(());
    }
    fs::create_dir_all(path.parent().ok_or_else(|| io::Error::other("a path without a folder"))?)?;
    File::create(&path)?;
    let thread = std::thread::Builder::new().name("netns".to_owned()).spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount_bind("/proc/thread-self/ns/net", &path)?;
        Ok(())
    })?;
    thread.join().map_err(|_| io::Error::other("the thread that makes the namespace panicked"))?
}

/// Ends what is there; nothing when nothing is.
fn end(path: &Path) -> io::Result<()> {
    loop {
        match unmount(path, UnmountFlags::DETACH) {
            Ok(()) => {}
            // Nothing is mounted there, or nothing is there.
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn held(folder: &Path) -> io::Result<Vec<SandboxId>> {
    match fs::read_dir(folder) {
        Ok(listing) => {
            let names = listing.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            let names: io::Result<Vec<String>> = names.collect();
            Ok(names?.into_iter().filter_map(|name| SandboxId::new(name).ok()).collect())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn failed(doing: &str) -> impl FnOnce(io::Error) -> StepError {
    let doing = doing.to_owned();
    move |error| StepError::retryable(format!("{doing}: {error}"))
}

impl Netns {
    fn path(&self, id: &SandboxId) -> PathBuf {
        self.folder.join(id.as_str())
    }

    async fn free(&self, cx: &HookContext) -> StepResult {
        let path = self.path(&cx.sandbox);
        cx.blocking(move || end(&path)).await?.map_err(failed("the network namespace cannot be ended"))
    }
}

#[async_trait]
impl Extension for Netns {
    async fn before_create(&self, cx: &HookContext) -> StepResult<SlotValues> {
        let path = self.path(&cx.sandbox);
        cx.blocking(move || make(path)).await?.map_err(failed("no network namespace can be made"))?;
        // Only what has saved state is reconciled.
        cx.save(&())?;
        Ok(SlotValues::new())
    }

    async fn on_create_failed(&self, cx: &HookContext, _ran: Ran, _failure: &CreateFailure) -> StepResult {
        self.free(cx).await
    }

    async fn after_delete(&self, cx: &HookContext, _ran: Ran) -> StepResult {
        self.free(cx).await
    }

    async fn reconcile(&self, cx: &HookContext) -> ReconcileOutcome {
        let path = self.path(&cx.sandbox);
        match cx.blocking(move || mounted(&path)).await {
            Ok(Ok(true)) => ReconcileOutcome::InSync,
            Ok(Ok(false)) => ReconcileOutcome::Drift("the network namespace is gone".to_owned()),
            Ok(Err(error)) => ReconcileOutcome::Failed(error.to_string()),
            Err(error) => ReconcileOutcome::Failed(error.to_string()),
        }
    }

    async fn held(&self, _page: Option<String>) -> StepResult<HeldPage> {
        let ids = held(&self.folder).map_err(failed("the namespaces cannot be listed"))?;
        Ok(HeldPage { ids, next: None })
    }

    async fn release(&self, ids: &[SandboxId]) -> StepResult {
        for id in ids {
            end(&self.path(id)).map_err(failed("a network namespace cannot be ended"))?;
        }
        Ok(())
    }
}
