//! The workspace hook of `docs/composed-drivers.md`: a workspace gets its quota before its first sandbox is made, and loses
//! it when the workspace is deleted.
//!
//! A quota is a file, where an accounting of your own would have a call to a service: both hooks may be called again after a
//! crash, so both do nothing when it is done already.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use async_trait::async_trait;
use chiton_lifecycle::extension::{Descriptor, Extension, ExtensionKind, StepError, StepResult, WorkspaceContext};
use chiton_model::{Error, Phase, Ran};
use schemars::JsonSchema;
use serde::Deserialize;

/// The config: `[compute.extension."tenant"]`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Absolute path of the folder in which quotas are kept. It must exist.
    pub folder: PathBuf,
    /// How many processors the sandboxes of a workspace may have together.
    pub cpus: u32,
}

/// The extension.
#[derive(Debug)]
pub struct Tenant(Config);

/// What is served.
///
/// # Errors
/// None in practice: the name is a constant of the right form.
pub fn extension() -> Result<ExtensionKind, Error> {
    let phases = [Phase::EnsureWorkspace, Phase::ReleaseWorkspace];
    let mut descriptor = Descriptor::new("tenant", env!("CARGO_PKG_VERSION"), "A quota for every workspace", phases)?;
    // System calls of this process: none is on its way once it died.
    descriptor.local_effects = true;
    Ok(ExtensionKind::new(descriptor, |_: &Config| Vec::new(), |config| Ok(Tenant(config))))
}

impl Tenant {
    /// Works on the quota of a workspace. The same workspace on two drivers has two.
    async fn quota(
        &self,
        cx: &WorkspaceContext,
        work: impl FnOnce(PathBuf) -> io::Result<()> + Send + 'static,
    ) -> StepResult {
        let file = self.0.folder.join(format!("{}.{}", cx.workspace, cx.driver.id));
        let worked = cx.blocking(move || work(file)).await?;
        worked.map_err(|error| StepError::retryable(format!("the folder of quotas cannot be used: {error}")))
    }
}

#[async_trait]
impl Extension for Tenant {
    async fn ensure_workspace(&self, cx: &WorkspaceContext) -> StepResult {
        let text = format!("cpus = {}\n", self.0.cpus);
        self.quota(cx, move |file| fs::write(file, text)).await
    }

    async fn release_workspace(&self, cx: &WorkspaceContext, _: Ran) -> StepResult {
        let gone = |file| match fs::remove_file(file) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        self.quota(cx, gone).await
    }
}
