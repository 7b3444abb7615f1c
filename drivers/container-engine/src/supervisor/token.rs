//! A sandbox's token: a file below the driver's run folder, which a reboot ends, shown to the sandbox's first process.
//!
//! It is written before the container is made and again before each start, and goes with the sandbox. The folder is its
//! owner's alone. In the engine's own store of secrets, which Podman has, it would lie on disk.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use chiton_driver::{CallError, CallResult};
use chiton_model::{Error, SandboxId};
use zeroize::Zeroizing;

use super::names;
use crate::engine::Engine;

impl Engine {
    /// The folder of all tokens.
    fn tokens(&self) -> PathBuf {
        self.options.run_dir.join("supervisor")
    }

    /// The folder of one sandbox's token.
    pub(crate) fn token_folder(&self, id: &SandboxId) -> PathBuf {
        self.tokens().join(id.as_str())
    }

    /// Writes a sandbox's token, whatever was there before.
    pub(crate) fn write_token(&self, id: &SandboxId, token: &str) -> CallResult<PathBuf> {
        if token.trim().is_empty() || token.chars().any(char::is_control) {
            let error = Error::invalid("sandbox_token", "the sandbox has no token that its supervisor could show");
            return Err(CallError::NotRun(error.cure("let the gateway mint tokens for its sandboxes")));
        }
        let folder = self.token_folder(id);
        let mode = self.options.dialect.supervised().token_mode();
        write(&folder, token, mode).map(|()| folder.join(file_name())).map_err(|error| {
            let text = format!("the supervisor's token cannot be written below {}: {error}", folder.display());
            CallError::NotRun(Error::unavailable("driver", text).cure("make room, or mend the folder's permissions"))
        })
    }

    /// Whether there is a token of a sandbox.
    pub(crate) fn has_token(&self, id: &SandboxId) -> bool {
        self.token_folder(id).join(file_name()).is_file()
    }

    /// Removes what there is of a sandbox's token.
    pub(crate) fn remove_token(&self, id: &SandboxId) -> CallResult<()> {
        match fs::remove_dir_all(self.token_folder(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let text = format!("the token of {id} cannot be removed: {error}");
                Err(CallError::Failed(
                    Error::unavailable("driver", text).cure("remove it, and delete the sandbox again"),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Removes tokens of which there is no sandbox: what a crash left whose row is lost too. What is being made is left.
    pub(crate) async fn sweep_tokens(&self) -> CallResult<()> {
        let found = fs::read_dir(self.tokens()).into_iter().flatten().flatten();
        let ids: Vec<SandboxId> = found.filter_map(|entry| SandboxId::new(entry.file_name().to_str()?).ok()).collect();
        for id in ids {
            let busy = self.busy(&id);
            let Ok(_alone) = busy.try_lock() else { continue };
            if self.inspect(&id).await?.is_none() {
                self.remove_token(&id)?;
                tracing::info!(sandbox = %id, "a supervisor's token without a sandbox was removed");
            }
        }
        Ok(())
    }
}

fn file_name() -> &'static str {
    names::TOKEN.rsplit('/').next().unwrap_or(names::TOKEN)
}

fn write(folder: &Path, token: &str, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut file = tempfile::Builder::new().permissions(fs::Permissions::from_mode(mode)).tempfile_in(folder)?;
    // As the other side's drivers write it: one line.
    let line = Zeroizing::new(format!("{token}\n"));
    file.write_all(line.as_bytes())?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    file.persist(folder.join(file_name())).map_err(|error| error.error).map(drop)
}
