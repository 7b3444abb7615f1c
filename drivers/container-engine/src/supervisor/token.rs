//! A sandbox's token: a file shown to the sandbox's first process. It is below the driver's run folder, which a reboot
//! ends; or below its state folder, where the gateway tells it at the create alone and would start the sandbox without it.
//!
//! It is written before the container is made and again before each start that has one, and goes with the sandbox. The
//! folder is its owner's alone. The engine's own store of secrets, which Podman has, would show it to all who may ask it.

use std::collections::BTreeSet;
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
    /// Whether tokens are kept.
    fn keeps_tokens(&self) -> bool {
        self.options.agent.supervisor().is_some_and(|options| options.keep_tokens)
    }

    /// The folders of all tokens: those that are kept, and those that are not.
    fn tokens(&self) -> [PathBuf; 2] {
        [self.options.state_dir.join("tokens"), self.options.run_dir.join("supervisor")]
    }

    /// The folder of one sandbox's token.
    fn token_folder(&self, id: &SandboxId) -> PathBuf {
        let [kept, passing] = self.tokens();
        if self.keeps_tokens() { kept } else { passing }.join(id.as_str())
    }

    /// Whether something of a sandbox's token is there, also an unfinished one.
    pub(crate) fn has_token_folder(&self, id: &SandboxId) -> bool {
        self.tokens().iter().any(|folder| folder.join(id.as_str()).exists())
    }

    /// Writes a sandbox's token, whatever was there before.
    pub(crate) fn write_token(&self, id: &SandboxId, token: &str) -> CallResult<PathBuf> {
        if token.trim().is_empty() || token.chars().any(char::is_control) {
            let error = Error::invalid("sandbox_token", "the sandbox has no token that its supervisor could show");
            return Err(CallError::NotRun(error.cure("let the gateway mint tokens for its sandboxes")));
        }
        let folder = self.token_folder(id);
        let mode = self.options.dialect.supervised().token_mode();
        write(&folder, token, mode, self.keeps_tokens()).map(|()| folder.join(file_name())).map_err(|error| {
            let text = format!("the supervisor's token cannot be written below {}: {error}", folder.display());
            CallError::NotRun(Error::unavailable("driver", text).cure("make room, or mend the folder's permissions"))
        })
    }

    /// Whether there is a token of a sandbox.
    pub(crate) fn has_token(&self, id: &SandboxId) -> bool {
        self.token_folder(id).join(file_name()).is_file()
    }

    /// Removes what there is of a sandbox's token, wherever an earlier setting put it.
    pub(crate) fn remove_token(&self, id: &SandboxId) -> CallResult<()> {
        for folder in self.tokens() {
            match fs::remove_dir_all(folder.join(id.as_str())) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let text = format!("the token of {id} cannot be removed: {error}");
                    return Err(CallError::Failed(
                        Error::unavailable("driver", text).cure("remove it, and delete the sandbox again"),
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes tokens of which there is no sandbox: what a crash left whose row is lost too. What is being made is left.
    pub(crate) async fn sweep_tokens(&self) -> CallResult<()> {
        let found = self.tokens().into_iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
        let ids: BTreeSet<SandboxId> =
            found.filter_map(|entry| SandboxId::new(entry.file_name().to_str()?).ok()).collect();
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

fn write(folder: &Path, token: &str, mode: u32, lasting: bool) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // What a crash left half written is a token too.
    for old in fs::read_dir(folder)? {
        let old = old?;
        if old.file_name() != file_name() {
            fs::remove_file(old.path())?;
        }
    }
    let mut file = tempfile::Builder::new().permissions(fs::Permissions::from_mode(mode)).tempfile_in(folder)?;
    // As the other side's drivers write it: one line.
    let line = Zeroizing::new(format!("{token}\n"));
    file.write_all(line.as_bytes())?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    if lasting {
        file.as_file().sync_all()?;
    }
    file.persist(folder.join(file_name())).map_err(|error| error.error)?;
    if lasting {
        // The name, and the folder's own.
        for folder in [Some(folder), folder.parent()].into_iter().flatten() {
            fs::File::open(folder)?.sync_all()?;
        }
    }
    Ok(())
}
