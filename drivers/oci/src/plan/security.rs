//! Confinement, readable before anything runs.

use std::path::{Component, Path};

use chiton_confine::{Landlock, Seccomp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Confinement. It stands in the plan so that it can be read and is covered by the digest. A request can make it
/// tighter; extensions cannot change it, and nothing can make it looser than [`SecurityPlan::default`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecurityPlan {
    /// Whether programs cannot gain privileges by execution.
    pub no_new_privileges: bool,
    /// Capabilities of the main process.
    pub capabilities: Vec<String>,
    /// Namespaces of its own.
    pub namespaces: Vec<String>,
    /// How many ids are mapped into the sandbox, all to unprivileged host ids.
    pub mapped_ids: u32,
    /// System calls.
    pub seccomp: Seccomp,
    /// Paths.
    pub landlock: Landlock,
    /// Paths that cannot be seen.
    pub masked_paths: Vec<String>,
    /// Paths that cannot be written.
    pub readonly_paths: Vec<String>,
}

impl SecurityPlan {
    /// The confinement that goes with a network: a sandbox on the host's has no network namespace of its own.
    pub(crate) fn of(network: super::NetworkMode) -> Self {
        let mut plan = Self::default();
        if network == super::NetworkMode::Host {
            plan.namespaces.retain(|namespace| namespace != "network");
        }
        plan
    }
}

impl Default for SecurityPlan {
    fn default() -> Self {
        let list = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
        Self {
            no_new_privileges: true,
            capabilities: Vec::new(),
            namespaces: list(&["user", "mount", "pid", "network", "uts", "ipc", "cgroup"]),
            mapped_ids: 65_536,
            seccomp: Seccomp::standard(),
            landlock: Landlock::standard(),
            // What tells of the host or of other sandboxes: its devices, its keys, how its kernel is laid out and what
            // it was started with, and counters fine enough to watch somebody type or compute.
            masked_paths: list(&[
                "/proc/acpi",
                "/proc/asound",
                "/proc/cmdline",
                "/proc/interrupts",
                "/proc/kallsyms",
                "/proc/kcore",
                "/proc/key-users",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/modules",
                "/proc/sched_debug",
                "/proc/schedstat",
                "/proc/scsi",
                "/proc/softirqs",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/sys/devices/virtual/powercap",
                "/sys/firmware",
            ]),
            readonly_paths: list(&["/dev", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]),
        }
    }
}

impl SecurityPlan {
    /// What of this is looser than the default; `None` when nothing is.
    pub fn looser_than_default(&self) -> Option<String> {
        self.looser_than_default_on(super::NetworkMode::None)
    }

    /// The same for a sandbox with a network, whose namespaces go with it.
    pub(crate) fn looser_than_default_on(&self, network: super::NetworkMode) -> Option<String> {
        let default = Self::of(network);
        let missing = |ours: &[String], theirs: &[String]| theirs.iter().find(|path| !ours.contains(path)).cloned();
        let hidden: Vec<String> = self.masked_paths.iter().chain(&self.readonly_paths).cloned().collect();
        if !self.no_new_privileges {
            return Some("programs could gain privileges".to_owned());
        }
        if let Some(capability) = self.capabilities.first() {
            return Some(format!("it has the capability {capability:?}"));
        }
        if let Some(namespace) = missing(&self.namespaces, &default.namespaces) {
            return Some(format!("it has no {namespace} namespace of its own"));
        }
        if !(1..=default.mapped_ids).contains(&self.mapped_ids) {
            return Some(format!("{} ids would be mapped", self.mapped_ids));
        }
        if let Some(path) = missing(&self.masked_paths, &default.masked_paths) {
            return Some(format!("{path} could be seen"));
        }
        if let Some(path) = missing(&hidden, &default.readonly_paths) {
            return Some(format!("{path} could be written"));
        }
        if let Some(path) = hidden.iter().find(|path| !plain(path)) {
            return Some(format!("{path:?} is not a path that can be hidden"));
        }
        if let Err(error) = self.seccomp.check() {
            return Some(error.to_string());
        }
        if let Some(name) = self.seccomp.looser_than(&default.seccomp) {
            return Some(format!("the system call {name:?} would be allowed"));
        }
        if !self.landlock.at_least_as_tight(&default.landlock) {
            return Some("its path rules allow more".to_owned());
        }
        None
    }
}

/// Whether a path can be hidden in a sandbox: plain, and not what a sandbox is reached by.
pub(super) fn plain(path: &str) -> bool {
    let parts = Path::new(path);
    let mut components = parts.components();
    let absolute = components.next() == Some(Component::RootDir);
    let mut rest = components.peekable();
    let own = ["/run/chiton", "/run/chiton-agent"].iter().any(|own| {
        let own = Path::new(own);
        own.starts_with(parts) || parts.starts_with(own)
    });
    absolute
        && rest.peek().is_some()
        && rest.all(|part| matches!(part, Component::Normal(_)))
        && !path.contains('\0')
        && !own
}
