//! The network of sandboxes: none, the host's, or a port of a bridge behind a packet filter.
//!
//! Everything is derived from the sandbox's address, which stands in its record before anything is made: the names of
//! its interface, of its chain, and its hardware address. What to remove is therefore known after any crash. Who makes
//! what: the gateway the bridge and the packet filter's tables, while the launch child works; the launch child the pair
//! of interfaces, when init waits. A port that the tables do not know yet passes nothing.

pub(crate) mod check;
pub(crate) mod dns;
pub(crate) mod doctor;
mod forward;
pub(crate) mod join;
mod manager;
mod names;
mod netlink;
mod nft;
mod rules;
mod subnet;
mod table;
mod watch;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use chiton_model::NetworkRule;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::plan::{ImageKind, NetworkMode, OciPlan};
use crate::record::{Paths, Record};

pub(crate) use manager::Network;

/// A sandbox's place on the bridge, as its record keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    /// Its address.
    pub(crate) address: Ipv4Addr,
    /// The bridge's range.
    pub(crate) subnet: Ipv4Net,
    /// What its request asked for.
    pub(crate) allow: Vec<NetworkRule>,
    /// Its name servers.
    pub(crate) dns: Vec<Ipv4Addr>,
}

/// The sandbox's own `/etc/hosts`.
pub(crate) fn hosts_file(plan: &OciPlan, record: &Record) -> String {
    let own = record.network.as_ref().map_or(Ipv4Addr::new(127, 0, 1, 1), |lease| lease.address);
    format!("127.0.0.1 localhost\n::1 localhost\n{own} {}\n", plan.hostname)
}

/// The file that is to cover an image's own `/etc/resolv.conf`, which names servers of wherever it was built.
pub(crate) fn resolver_file(plan: &OciPlan, paths: &Paths) -> Option<PathBuf> {
    let covers = plan.network.mode != NetworkMode::None && plan.image.kind != ImageKind::Host;
    covers.then(|| paths.dir.join("resolv.conf"))
}

/// Writes it.
pub(crate) fn write_resolver_file(plan: &OciPlan, paths: &Paths) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let Some(path) = resolver_file(plan, paths) else { return Ok(()) };
    std::fs::write(&path, dns::file(&plan.network.dns))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))
}

#[cfg(test)]
mod tests;
