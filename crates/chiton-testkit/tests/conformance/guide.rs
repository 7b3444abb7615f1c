use async_trait::async_trait;
use chiton_lifecycle::extension::{
    Descriptor, Extension, ExtensionKind, HookContext, SlotValues, StepError, StepResult,
};
use chiton_model::{CreateFailure, Error, Phase, Ran};
use std::{fs, io, path::PathBuf};

/// `[compute.extension."folder-note"]`
#[derive(Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Absolute path of a folder that exists.
    folder: PathBuf,
}

pub struct FolderNote(Config);

/// What a distribution registers.
pub fn extension() -> Result<ExtensionKind, Error> {
    let phases = [Phase::BeforeCreate, Phase::OnCreateFailed, Phase::AfterDelete];
    let mut descriptor = Descriptor::new("folder-note", "0.1.0", "A note for every sandbox", phases)?;
    descriptor.local_effects = true; // system calls of this process: none is on its way once it died
    Ok(ExtensionKind::new(descriptor, |_: &Config| Vec::new(), |config| Ok(FolderNote(config))))
}

impl FolderNote {
    /// Blocking work on the note; the hook waits for it.
    async fn note(&self, cx: &HookContext, work: fn(PathBuf) -> io::Result<()>) -> StepResult {
        let path = self.0.folder.join(cx.sandbox.as_str()); // by id, never by name
        cx.blocking(move || work(path)).await?.map_err(|error| StepError::retryable(format!("its note: {error}")))
    }

    async fn remove(&self, cx: &HookContext) -> StepResult {
        self.note(cx, |path| match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()), // gone already is gone
        })
        .await
    }
}

#[async_trait]
impl Extension for FolderNote {
    async fn before_create(&self, cx: &HookContext) -> StepResult<SlotValues> {
        self.note(cx, |path| fs::write(path, "")).await?; // again is the same
        Ok(SlotValues::new())
    }

    async fn on_create_failed(&self, cx: &HookContext, _ran: Ran, _failure: &CreateFailure) -> StepResult {
        self.remove(cx).await
    }

    async fn after_delete(&self, cx: &HookContext, _ran: Ran) -> StepResult {
        self.remove(cx).await
    }
}
