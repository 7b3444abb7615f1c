//! Confinement, readable before anything runs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Confinement. It stands in the plan so that it can be read and is covered by the digest; nobody may change it.
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
    /// Paths that cannot be seen.
    pub masked_paths: Vec<String>,
    /// Paths that cannot be written.
    pub readonly_paths: Vec<String>,
    /// The most open files of a process; lowered to the gateway's own hard limit when that is lower.
    pub open_files: u64,
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
            masked_paths: list(&[
                "/proc/acpi",
                "/proc/asound",
                "/proc/interrupts",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/sched_debug",
                "/proc/scsi",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/sys/devices/virtual/powercap",
                "/sys/firmware",
            ]),
            readonly_paths: list(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]),
            open_files: 65_536,
        }
    }
}
