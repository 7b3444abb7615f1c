//! What the machine was like before a set came up, and who brought it up: written before anything is started, so that a
//! later `down` knows what is the set's although everybody who knew it was killed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::layout::Layout;
use super::{filter, processes, sweep};

/// Where runc keeps what it runs for whoever does not say where.
pub(crate) const RUNC: &str = "/run/runc";

/// Places outside of the set's folder that engines make for all sets in common and cannot be told to make elsewhere.
const SHARED: [&str; 10] = [
    "/etc/docker/key.json",
    "/run/docker",
    "/run/containerd",
    "/opt/containerd",
    "/run/containers",
    "/run/libpod",
    "/var/lib/containers",
    "/var/cache/containers",
    RUNC,
    "/dev/shm/libpod_lock",
];

/// What another version of this program wrote is read as far as it goes: better to take away most than nothing.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    /// The process that ends the set when it ends; none when a person brought it up.
    pub(crate) owner: Option<Process>,
    /// The second number of this set's networks, 10.N.0.0/16.
    pub(crate) network: u8,
    /// Whether docker may use the packet filter: only one dockerd can, for its chains have fixed names.
    pub(crate) packet_filter: bool,
    /// Of `SHARED`, what was not there.
    pub(crate) absent: Vec<String>,
    /// Whether there was a folder of named network namespaces.
    pub(crate) netns: bool,
    /// Whether it was mounted.
    pub(crate) netns_mounted: bool,
    /// What was in it.
    pub(crate) netns_names: BTreeSet<String>,
    /// Tables of nftables that were there.
    pub(crate) tables: BTreeSet<String>,
    /// Chains and rules of iptables that were there.
    pub(crate) rules: BTreeSet<String>,
    /// Whether the machine forwarded packets.
    pub(crate) forwarding: String,
    /// Whether podman's cgroup was there.
    pub(crate) libpod_cgroup: bool,
}

/// A process for as long as it lives: ids are used again.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Process {
    pid: u32,
    started: String,
}

impl Process {
    pub(crate) fn this() -> Self {
        let pid = std::process::id();
        Self { pid, started: started(pid).unwrap_or_default() }
    }

    pub(crate) fn lives(&self) -> bool {
        started(self.pid).is_some_and(|started| started == self.started)
    }
}

/// Field 22 of `proc_pid_stat(5)`, counted from behind the name, which may have blanks.
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(ToOwned::to_owned)
}

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

impl State {
    /// The machine as it is now.
    pub(crate) fn now(layout: &Layout) -> Result<Self, String> {
        let network = free_network()?;
        let packet_filter = !processes::another_dockerd(layout);
        Ok(Self {
            owner: None,
            network,
            packet_filter,
            absent: SHARED.into_iter().filter(|path| !Path::new(path).exists()).map(ToOwned::to_owned).collect(),
            netns: Path::new(sweep::NETNS).is_dir(),
            netns_mounted: sweep::is_mount(sweep::NETNS),
            netns_names: sweep::named_namespaces(),
            tables: filter::tables(),
            rules: filter::rules(),
            forwarding: fs::read_to_string(FORWARDING).unwrap_or_default(),
            libpod_cgroup: sweep::cgroups("libpod_parent").next().is_some(),
        })
    }

    pub(crate) fn read(layout: &Layout) -> Option<Self> {
        serde_json::from_slice(&fs::read(layout.state()).ok()?).ok()
    }

    pub(crate) fn write(&self, layout: &Layout) -> Result<(), String> {
        let path = layout.state();
        let text = serde_json::to_vec_pretty(self).map_err(|error| error.to_string())?;
        // Whole or not at all: the reader of half of it would not know what to remove.
        let new = path.with_extension("new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|error| format!("{} cannot be written: {error}", path.display()))
    }

    /// Sets back what the kernel was told.
    pub(crate) fn restore_forwarding(&self) {
        let now = fs::read_to_string(FORWARDING).unwrap_or_default();
        if !self.forwarding.is_empty() && now != self.forwarding {
            drop(fs::write(FORWARDING, &self.forwarding));
        }
    }

    /// A network of the set: third number and length of the prefix.
    pub(crate) fn subnet(&self, third: u8, prefix: u8) -> String {
        format!("10.{}.{third}.0/{prefix}", self.network)
    }
}

/// A second number of 10/8 that nothing on this machine uses.
fn free_network() -> Result<u8, String> {
    let mut taken = String::new();
    for arguments in [["-4", "-o", "addr"], ["-4", "-o", "route"]] {
        let output =
            Command::new("ip").args(arguments).output().map_err(|error| format!("ip cannot be run: {error}"))?;
        taken.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    let uses = |second: &u8| !taken.contains(&format!(" 10.{second}.")) && !taken.starts_with(&format!("10.{second}."));
    let uses = |second: &u8| uses(second) && !taken.contains(&format!("\n10.{second}."));
    (201..=250).find(uses).ok_or_else(|| "all of 10.201.0.0/16 to 10.250.0.0/16 is in use on this machine".to_owned())
}
