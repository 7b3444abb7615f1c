//! The bridge's range.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use chiton_oci_monitor::files;
use ipnet::Ipv4Net;

use super::netlink::Netlink;

/// The file in the driver's folder that keeps a chosen range.
const FILE: &str = "subnet";
/// Where ranges are chosen from: seldom used by anybody else.
const POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 128, 0, 0), 9);
/// How large a chosen range is: 4,093 sandboxes.
const PREFIX: u8 = 20;

/// The largest and the smallest range that a bridge may have: two bytes tell its addresses apart.
pub(crate) const PREFIXES: std::ops::RangeInclusive<u8> = 16..=29;

/// The first address: the bridge's own.
pub(crate) fn router(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()) + 1)
}

/// Whether an address can be a sandbox's.
pub(crate) fn usable(subnet: Ipv4Net, address: Ipv4Addr) -> bool {
    subnet.contains(&address)
        && address != subnet.network()
        && address != subnet.broadcast()
        && address != router(subnet)
}

/// A free address: the next one after the last that was given out.
pub(crate) fn next_free(subnet: Ipv4Net, last: Option<Ipv4Addr>, taken: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
    let first = u32::from(router(subnet)) + 1;
    let count = u32::from(subnet.broadcast()) - first;
    let begin = last.filter(|last| usable(subnet, *last)).map_or(0, |last| u32::from(last) + 1 - first);
    (0..count).map(|step| Ipv4Addr::from(first + (begin + step) % count)).find(|address| !taken(*address))
}

/// What stands in the way of a range: a route or address that overlaps it and is not on `bridge`.
pub(crate) fn obstacle(netlink: &mut Netlink, subnet: Ipv4Net, bridge: Option<u32>) -> io::Result<Option<Ipv4Net>> {
    let routes = netlink.routes()?.into_iter().map(|route| (route.range, route.interface));
    let addresses = netlink.addresses()?.into_iter().map(|(range, index)| (range, Some(index)));
    Ok(routes
        .chain(addresses)
        .filter(|(_, interface)| bridge.is_none() || *interface != bridge)
        .map(|(range, _)| range)
        .find(|range| {
            range.prefix_len() > 0 && (range.contains(&subnet.network()) || subnet.contains(&range.network()))
        }))
}

/// The range that was chosen before, else one that is free now, kept for ever.
pub(crate) fn chosen(folder: &Path, seed: u32) -> io::Result<Ipv4Net> {
    match fs::read_to_string(folder.join(FILE)) {
        Ok(text) => {
            let kept = text.trim().parse().ok().filter(|subnet: &Ipv4Net| PREFIXES.contains(&subnet.prefix_len()));
            return kept.ok_or_else(|| {
                let path = folder.join(FILE);
                io::Error::other(format!("{} does not hold a range such as 10.200.0.0/20", path.display()))
            });
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) => {}
    }
    let mut netlink = Netlink::open()?;
    let count = 1_u32 << (PREFIX - POOL.prefix_len());
    for step in 0..count {
        let place = (seed.wrapping_add(step) % count) << (32 - PREFIX);
        let subnet = Ipv4Net::new_assert(Ipv4Addr::from(u32::from(POOL.network()) + place), PREFIX);
        if obstacle(&mut netlink, subnet, None)?.is_none() {
            files::replace(folder, FILE, format!("{subnet}\n").as_bytes(), true)?;
            return Ok(subnet);
        }
    }
    Err(io::Error::other(format!("every /{PREFIX} of {POOL} has a route on this machine")))
}
