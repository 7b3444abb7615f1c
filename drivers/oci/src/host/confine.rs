//! What a sandbox's init is told to apply, and what it said that holds.

use std::fs;
use std::io;

use chiton_confine::{Arch, Confinement, Enforced, Held, Program, Seccomp};
use chiton_driver::{CallError, CallResult};
use chiton_model::Error;
use chiton_oci_monitor::files;

use super::{Doing, Host};
use crate::launch::Launched;
use crate::plan::OciPlan;
use crate::record::Paths;

/// How many compiled profiles are kept; most sandboxes have the standard one.
const KEPT: usize = 8;

/// Compiled profiles, the last used at the end. Compiling one takes longer than installing it.
#[derive(Debug, Default)]
pub(super) struct Filters(Vec<(Seccomp, Program)>);

impl Filters {
    fn program(&mut self, profile: &Seccomp) -> Result<Program, Error> {
        if let Some(index) = self.0.iter().position(|(known, _)| known == profile) {
            let entry = self.0.remove(index);
            let program = entry.1.clone();
            self.0.push(entry);
            return Ok(program);
        }
        let compiled = Arch::current().and_then(|arch| profile.compile(arch));
        let program = compiled.map_err(|error| {
            Error::refused("driver", format!("the system call profile cannot be used: {error}")).cure(error.cure())
        })?;
        if self.0.len() == KEPT {
            self.0.remove(0);
        }
        self.0.push((profile.clone(), program.clone()));
        Ok(program)
    }
}

impl Host {
    pub(super) fn confinement(&self, plan: &OciPlan) -> CallResult<Confinement> {
        let seccomp = self.filters.lock().program(&plan.security.seccomp).map_err(CallError::NotRun)?;
        Ok(Confinement { seccomp, landlock: plan.security.landlock.clone() })
    }

    /// What the sandbox's init enforced on itself in its last launch; none where nothing was launched.
    pub(crate) fn enforced(paths: &Paths) -> CallResult<Option<Enforced>> {
        match fs::read(paths.dir.join(files::LAUNCHED)) {
            Ok(text) => {
                let launched: io::Result<Launched> = serde_json::from_slice(&text).map_err(io::Error::from);
                launched.map(|launched| Some(launched.enforced)).failed("read what was launched")
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).failed("read what was launched"),
        }
    }

    /// Says where the kernel holds less than the plan has. What a plan requires was refused before.
    pub(super) fn report(id: &chiton_model::SandboxId, paths: &Paths) -> CallResult<()> {
        if let Some(enforced) = Self::enforced(paths)?
            && enforced.landlock != Held::Fully
        {
            tracing::warn!(
                sandbox = %id,
                abi = enforced.landlock_abi,
                "the kernel enforces the Landlock rules {}; run Linux 6.12 or newer with Landlock",
                enforced.landlock
            );
        }
        Ok(())
    }
}
