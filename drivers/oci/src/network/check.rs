//! Whether a planned network may be had.

use std::net::Ipv4Addr;

use chiton_model::Error;
use ipnet::Ipv4Net;

use super::{nft, rules, subnet};
use crate::options::NetworkOptions;
use crate::plan::{NetworkMode, NetworkPlan};

/// Where the kernel says whether it forwards.
pub(crate) const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Checks what depends on the operator's settings and on who runs the gateway alone.
pub(crate) fn allowed(plan: &NetworkPlan, options: &NetworkOptions) -> Result<(), Error> {
    match plan.mode {
        NetworkMode::Host if !options.host => {
            Err(Error::refused("policy", "the operator does not let sandboxes use the host's network")
                .cure("ask for network bridge, or let the operator set host_network = true for this driver"))
        }
        NetworkMode::Host if !plan.allow.is_empty() => Err(Error::invalid(
            "network.allow",
            "the host's network is not filtered, so that nothing can be allowed in it",
        )
        .cure("leave the ranges out, or ask for network bridge")),
        NetworkMode::Bridge if !rustix::process::geteuid().is_root() => Err(Error::unavailable(
            "network bridge",
            "a bridge can only be made by root, and the gateway runs as somebody else",
        )
        .cure("run the gateway as root, or ask for network none")),
        NetworkMode::None | NetworkMode::Host | NetworkMode::Bridge => Ok(()),
    }
}

/// Checks rules, name servers and the address. `own` are the host's addresses.
pub(crate) fn bridge(
    plan: &NetworkPlan,
    options: &NetworkOptions,
    range: Ipv4Net,
    own: &[Ipv4Addr],
) -> Result<(), Error> {
    for (index, rule) in plan.allow.iter().enumerate() {
        rules::check(&format!("network.allow[{index}]"), rule, options, own)?;
    }
    for (index, server) in plan.dns.iter().enumerate() {
        rules::check_server(&format!("network.dns[{index}]"), *server, options, own)?;
    }
    match plan.address.as_deref() {
        Some(text) if !chiton_driver::has_open_slot(text) => address(text, range).map(drop),
        _ => Ok(()),
    }
}

/// Reads an address of the bridge.
pub(crate) fn address(text: &str, range: Ipv4Net) -> Result<Ipv4Addr, Error> {
    let field = "network.address";
    let address: Ipv4Addr = text.parse().map_err(|_| {
        Error::invalid(field, format!("{text:?} is not an IPv4 address")).cure("write an address such as 10.200.0.7")
    })?;
    if subnet::usable(range, address) {
        return Ok(address);
    }
    let router = subnet::router(range);
    Err(Error::invalid(field, format!("address {address} cannot be a sandbox's: the bridge has {range}, itself {router}"))
        .cure("lease addresses of that range (without its first two and its last), or set the bridge's subnet to the leases' range"))
}

/// What the machine lacks for a bridge.
pub(crate) fn machine(options: &NetworkOptions) -> Result<(), Error> {
    if nft::find().is_none() {
        return Err(Error::unavailable(
            "network bridge",
            "the program nft is not installed, and without it nothing is filtered",
        )
        .cure("install nftables, or ask for network none"));
    }
    if !options.enable_forwarding && !forwards() {
        return Err(Error::unavailable("network bridge", format!("this machine does not forward packets ({FORWARD} is 0)"))
            .cure("run: sysctl -w net.ipv4.ip_forward=1, or let the operator set enable_forwarding = true in the bridge settings"));
    }
    Ok(())
}

/// Whether the kernel forwards packets.
pub(crate) fn forwards() -> bool {
    std::fs::read_to_string(FORWARD).is_ok_and(|text| text.trim() == "1")
}
