//! What to look for on a driver. The runner and the audit are the same for all of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use chiton_proto::v1 as wire;
use rand::Rng as _;
use rand::rngs::StdRng;

use super::leftovers;
use crate::engines::{Engine, Kind, SANDBOX};

/// Whose life a thing may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Life {
    /// Only a running sandbox may have it: processes, control groups.
    Running,
    /// Every sandbox that is not gone may have it: its folders, what an extension gave it.
    There,
}

/// One thing on the machine that the gateway's installation put there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Who may have it.
    pub life: Life,
    /// What it is, for people; contains the id of its sandbox.
    pub what: String,
}

/// A process of the driver's own beside the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Helper {
    /// One word.
    pub kind: &'static str,
    /// Its process id.
    pub pid: i32,
}

/// A driver under test.
pub trait Platform: Send + Sync {
    /// The driver's id in the config.
    fn id(&self) -> &'static str;

    /// Why it cannot be tested here.
    ///
    /// # Errors
    /// What is missing, and what to do about it.
    fn usable(&self) -> Result<(), String>;

    /// Its block of the config, if it needs one.
    fn config(&self) -> String {
        String::new()
    }

    /// What a create asks for: some sandboxes without a command, some whose command ends by itself.
    fn spec(&self, random: &mut StdRng) -> wire::SandboxSpec;

    /// Whether commands can be run in its sandboxes.
    fn exec(&self) -> bool;

    /// All that the driver put on the machine for this gateway, found without asking either. `folder` holds the
    /// gateway's data folder as `data`; `gateway` is the process of the gateway, which is not to be reported.
    fn look(&self, gateway_id: &str, folder: &Path, gateway: Option<i32>) -> Vec<Found>;

    /// Helper processes that may die at any time.
    fn helpers(&self, _gateway_id: &str, _folder: &Path) -> Vec<Helper> {
        Vec::new()
    }

    /// Ends by force what a run left that failed.
    fn sweep(&self, _gateway_id: &str, _folder: &Path) {}
}

/// The platform of a driver's id.
///
/// # Errors
/// Nobody taught the runner what to look for on that driver.
pub fn platform(driver: &str) -> Result<Box<dyn Platform>, String> {
    match driver {
        "oci" => Ok(Box::new(Oci)),
        "links" => Ok(Box::new(Links)),
        "docker" => Ok(Box::new(Containers(Engine::from_environment(Kind::Docker)?))),
        "podman" => Ok(Box::new(Containers(Engine::from_environment(Kind::Podman)?))),
        _ => Err(format!("what to look for on driver {driver:?} is not known; known are oci, docker, podman, links")),
    }
}

/// Containers that the gateway runs itself.
struct Oci;

impl Platform for Oci {
    fn id(&self) -> &'static str {
        "oci"
    }

    fn usable(&self) -> Result<(), String> {
        if rustix::process::geteuid().is_root() {
            Ok(())
        } else {
            Err("it makes real sandboxes, which needs root".to_owned())
        }
    }

    fn config(&self) -> String {
        "[compute.driver.oci]\nstop_grace_seconds = 1\n".to_owned()
    }

    fn spec(&self, random: &mut StdRng) -> wire::SandboxSpec {
        let command: &[&str] = match random.random_range(0..10) {
            0..5 => &[],
            5..8 => &["sh", "-c", "while :; do sleep 0.1; done"],
            _ => &["sh", "-c", "sleep 0.2; exit 3"],
        };
        wire::SandboxSpec { command: command.iter().map(|word| (*word).to_owned()).collect(), ..Default::default() }
    }

    fn exec(&self) -> bool {
        true
    }

    fn look(&self, gateway_id: &str, folder: &Path, gateway: Option<i32>) -> Vec<Found> {
        let mut found: Vec<Found> = leftovers::pids(gateway_id, folder)
            .into_iter()
            .filter(|(pid, _)| Some(*pid) != gateway)
            .map(|(pid, what)| Found { life: Life::Running, what: format!("process {pid} {what}") })
            .collect();
        let groups = leftovers::cgroups(gateway_id);
        // The parent of all is empty and goes with the last sandbox.
        let groups = groups.into_iter().filter(|group| !group.trim_end_matches('/').ends_with(gateway_id));
        found.extend(groups.map(|group| Found { life: Life::Running, what: format!("control group {group}") }));
        for part in ["drivers/oci/sandboxes", "run/drivers/oci/monitors", "run/drivers/oci/agent"] {
            found.extend(entries(&folder.join("data").join(part)));
        }
        found
    }

    fn helpers(&self, gateway_id: &str, folder: &Path) -> Vec<Helper> {
        let mut helpers = Vec::new();
        for (pid, what) in leftovers::pids(gateway_id, folder) {
            if what.contains(" monitor s-") {
                let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
                for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
                    let command = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
                    let launches = String::from_utf8_lossy(&command).contains("oci-launch");
                    helpers.push(Helper { kind: if launches { "launch" } else { "init" }, pid: child });
                }
                helpers.push(Helper { kind: "monitor", pid });
            }
        }
        helpers
    }

    fn sweep(&self, gateway_id: &str, folder: &Path) {
        leftovers::sweep(gateway_id, folder);
    }
}

/// Containers of an engine.
struct Containers(Engine);

impl Platform for Containers {
    fn id(&self) -> &'static str {
        self.0.kind.name()
    }

    fn usable(&self) -> Result<(), String> {
        Oci.usable()?;
        match self.0.ask("GET", "/_ping", None) {
            Ok((200, _)) => Ok(()),
            Ok((status, text)) => Err(format!("{} answers {status}: {text}", self.0.kind)),
            Err(why) => Err(why),
        }
    }

    fn config(&self) -> String {
        self.0.block(&self.0.socket)
    }

    fn spec(&self, random: &mut StdRng) -> wire::SandboxSpec {
        Oci.spec(random)
    }

    fn exec(&self) -> bool {
        true
    }

    fn look(&self, gateway_id: &str, folder: &Path, _gateway: Option<i32>) -> Vec<Found> {
        let mut found = Vec::new();
        for container in self.0.containers(gateway_id) {
            let life = if container["State"] == "running" { Life::Running } else { Life::There };
            let id = container["Labels"][SANDBOX].as_str().unwrap_or("nobody");
            found.push(Found { life, what: format!("{} container of {id}: {}", self.0.kind, container["State"]) });
        }
        found.extend(entries(&folder.join("data/run/drivers").join(self.id()).join("agent")));
        found
    }

    fn sweep(&self, gateway_id: &str, folder: &Path) {
        self.0.sweep(gateway_id);
        leftovers::sweep(gateway_id, folder);
    }
}

/// The driver that costs nothing, for runs of the engine and the store alone.
struct Links;

impl Platform for Links {
    fn id(&self) -> &'static str {
        "links"
    }

    fn usable(&self) -> Result<(), String> {
        if rustix::process::geteuid().is_root() { Ok(()) } else { Err("network namespaces need root".to_owned()) }
    }

    fn config(&self) -> String {
        "[compute.driver.links]\ncreate_ms = 5\n".to_owned()
    }

    fn spec(&self, _random: &mut StdRng) -> wire::SandboxSpec {
        wire::SandboxSpec::default()
    }

    fn exec(&self) -> bool {
        false
    }

    fn look(&self, _gateway_id: &str, folder: &Path, _gateway: Option<i32>) -> Vec<Found> {
        // A draft that a crash left names no object and is overwritten by the next.
        let drafts = |found: &Found| !found.what.contains("/.");
        entries(&folder.join("data/drivers/links/objects")).into_iter().filter(drafts).collect()
    }
}

/// What is in a folder, each for a sandbox that is there.
pub(super) fn entries(folder: &Path) -> BTreeSet<Found> {
    let Ok(listing) = fs::read_dir(folder) else { return BTreeSet::new() };
    let names = listing.flatten().map(|entry| entry.path().display().to_string());
    names.map(|what| Found { life: Life::There, what }).collect()
}
