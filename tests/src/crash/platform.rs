//! What to look for on a driver. The runner and the audit are the same for all of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use chiton_proto::v1 as wire;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rustix::process::{Pid, Signal, kill_process};

use super::containers::{Containers, Control};
use super::leftovers;
use crate::engines::Kind;

/// Whose life a thing may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Life {
    /// Only a running sandbox may have it: processes, control groups.
    Running,
    /// Every sandbox that is not gone may have it: its folders, what an extension gave it.
    There,
    /// It is there for all sandboxes together while there are any.
    Common,
    /// Nobody's life: it stays until somebody deletes it.
    Kept,
}

/// One thing on the machine that the gateway's installation put there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Who may have it.
    pub life: Life,
    /// What it is, for people; contains the id of its sandbox.
    pub what: String,
    /// The address that it was made with, and for which sandbox: nobody else may get it meanwhile.
    pub address: Option<(String, String)>,
}

impl Found {
    /// Something without an address.
    pub fn new(life: Life, what: impl Into<String>) -> Self {
        Self { life, what: what.into(), address: None }
    }
}

/// A process of the driver's own beside the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Helper {
    /// One word.
    kind: &'static str,
    /// Its process id.
    pid: i32,
}

/// The range of addresses of a driver that does nothing with them.
const RANGE: &str = "10.88.0.2-10.88.0.254";

/// A driver under test.
#[async_trait]
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

    /// The addresses that are leased, first and last.
    fn range(&self) -> String {
        RANGE.to_owned()
    }

    /// The longest that a gateway serves before it is killed, on a machine with nothing else to do.
    fn serves(&self) -> Duration {
        Duration::from_millis(300)
    }

    /// What a create asks for: some sandboxes without a command, some whose command ends by itself.
    fn spec(&self, random: &mut StdRng) -> wire::SandboxSpec;

    /// Whether commands can be run in its sandboxes.
    fn exec(&self) -> bool;

    /// Whether an engine makes its sandboxes: with addresses and named volumes, and perhaps late.
    fn remote(&self) -> bool {
        false
    }

    /// All that the driver put on the machine for this gateway, found without asking either. `folder` holds the
    /// gateway's data folder as `data`; `gateway` is the process of the gateway, which is not to be reported.
    ///
    /// # Errors
    /// The machine cannot be looked at.
    async fn look(&self, gateway_id: &str, folder: &Path, gateway: Option<i32>) -> Result<Vec<Found>, String>;

    /// Kills something beside the gateway that may die at any time, if there is anything; its kind in one word.
    async fn harm(&self, _gateway_id: &str, _folder: &Path, _random: &mut StdRng) -> Option<&'static str> {
        None
    }

    /// The engine that the driver drives, where it is the run's to kill.
    fn control(&self) -> Option<&Control> {
        None
    }

    /// Ends by force what a run left that failed.
    async fn sweep(&self, _gateway_id: &str, _folder: &Path) {}
}

/// The platform of a driver's id. An engine is killed, too, where `kills_engine` allows it.
///
/// # Errors
/// Nobody taught the runner what to look for on that driver, or its engine is not to be found.
pub fn platform(driver: &str, kills_engine: bool) -> Result<Box<dyn Platform>, String> {
    match driver {
        "oci" => Ok(Box::new(Oci)),
        "links" => Ok(Box::new(Links)),
        "docker" => Ok(Box::new(Containers::from_environment(Kind::Docker, kills_engine)?)),
        "podman" => Ok(Box::new(Containers::from_environment(Kind::Podman, kills_engine)?)),
        _ => Err(format!("what to look for on driver {driver:?} is not known; known are oci, docker, podman, links")),
    }
}

/// Containers that the gateway runs itself.
struct Oci;

#[async_trait]
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

    async fn look(&self, gateway_id: &str, folder: &Path, gateway: Option<i32>) -> Result<Vec<Found>, String> {
        let mut found: Vec<Found> = leftovers::pids(gateway_id, folder)
            .into_iter()
            .filter(|(pid, _)| Some(*pid) != gateway)
            .map(|(pid, what)| Found::new(Life::Running, format!("process {pid} {what}")))
            .collect();
        let groups = leftovers::cgroups(gateway_id);
        // The parent of all is empty and goes with the last sandbox.
        let groups = groups.into_iter().filter(|group| !group.trim_end_matches('/').ends_with(gateway_id));
        found.extend(groups.map(|group| Found::new(Life::Running, format!("control group {group}"))));
        for part in ["drivers/oci/sandboxes", "run/drivers/oci/monitors", "run/drivers/oci/agent"] {
            found.extend(entries(&folder.join("data").join(part)));
        }
        Ok(found)
    }

    async fn harm(&self, gateway_id: &str, folder: &Path, random: &mut StdRng) -> Option<&'static str> {
        let helpers = Self::helpers(gateway_id, folder);
        // A launch lasts for moments; when one is seen it is taken.
        let rare: Vec<_> = helpers.iter().filter(|helper| helper.kind == "launch").collect();
        let helper = rare.choose(random).copied().or_else(|| helpers.choose(random))?;
        Pid::from_raw(helper.pid).is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok()).then_some(helper.kind)
    }

    async fn sweep(&self, gateway_id: &str, folder: &Path) {
        leftovers::sweep(gateway_id, folder);
    }
}

impl Oci {
    /// Helper processes that may die at any time.
    fn helpers(gateway_id: &str, folder: &Path) -> Vec<Helper> {
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
}

/// The driver that costs nothing, for runs of the engine and the store alone.
struct Links;

#[async_trait]
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

    async fn look(&self, _gateway_id: &str, folder: &Path, _gateway: Option<i32>) -> Result<Vec<Found>, String> {
        // A draft that a crash left names no object and is overwritten by the next.
        let drafts = |found: &Found| !found.what.contains("/.");
        Ok(entries(&folder.join("data/drivers/links/objects")).into_iter().filter(drafts).collect())
    }
}

/// What is in a folder, each for a sandbox that is there.
pub(super) fn entries(folder: &Path) -> BTreeSet<Found> {
    let Ok(listing) = fs::read_dir(folder) else { return BTreeSet::new() };
    let names = listing.flatten().map(|entry| entry.path().display().to_string());
    names.map(|what| Found::new(Life::There, what)).collect()
}
