//! From the plan of what is injected to what the engine is asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bollard::models::{Mount, MountType};
use serde_json::json;

use super::{SupervisorPlan, names};

/// What the supervisor's container is shown of this machine.
pub(crate) struct Injected {
    /// Its program.
    pub(crate) program: PathBuf,
    /// Its token.
    pub(crate) token: PathBuf,
    /// What names of this machine lead to.
    pub(crate) host: String,
}

impl Injected {
    /// Source and target of what is bound, read-only.
    pub(crate) fn binds<'a>(&'a self, plan: &'a SupervisorPlan) -> impl Iterator<Item = (&'a Path, &'a str)> {
        let files = plan.files.iter().map(|file| (Path::new(&file.source), file.target.as_str()));
        let own =
            [(self.program.as_path(), plan.entrypoint.as_str()), (self.token.as_path(), plan.token_file.as_str())];
        own.into_iter().chain(files)
    }
}

/// The container's variables: the request's, then the supervisor's over them. Names that begin as the supervisor's do no
/// request has: they are reserved.
pub(crate) fn variables(env: &BTreeMap<String, String>, plan: &SupervisorPlan) -> BTreeMap<String, String> {
    let mut all = plan.defaults.clone();
    all.extend(env.clone());
    all.extend(plan.env.clone());
    if !env.is_empty() {
        all.insert(names::USER_ENVIRONMENT.to_owned(), json!(env).to_string());
    }
    all.insert(names::TOKEN_FILE.to_owned(), plan.token_file.clone());
    all
}

/// The lines that give the names of this machine their address.
pub(crate) fn host_entries(plan: &SupervisorPlan, host: &str) -> Vec<String> {
    plan.hosts.iter().map(|name| format!("{name}:{host}")).collect()
}

impl SupervisorPlan {
    /// What is mounted beside binds.
    pub(crate) fn mounts(&self) -> impl Iterator<Item = Mount> {
        let memory = self.memory.iter().map(|target| Mount {
            typ: Some(MountType::TMPFS),
            target: Some(target.clone()),
            // No options: Podman takes those that are left out of them for zeros, and nobody may write there then.
            ..Mount::default()
        });
        let workspace = self.workspace.iter().map(|target| Mount {
            typ: Some(MountType::VOLUME),
            target: Some(target.clone()),
            ..Mount::default()
        });
        memory.chain(workspace)
    }
}
