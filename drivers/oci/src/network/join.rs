//! How a container gets its network: in the launch child, when init waits.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use ipnet::Ipv4Net;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use super::names;
use super::netlink::{INSIDE, Netlink};
use crate::sys;

/// What the launch child is told of the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum NetworkDocument {
    /// A loopback interface.
    None,
    /// The container shares the launch child's network.
    Host,
    /// A port of the bridge.
    Bridge(Attachment),
}

/// A port of the bridge and what is on its other side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attachment {
    pub(crate) bridge: String,
    pub(crate) bridge_owner: String,
    pub(crate) port: String,
    pub(crate) port_owner: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) subnet: Ipv4Net,
    pub(crate) router: Ipv4Addr,
}

/// Gives the container of `pid` its network. The sandbox has no capability and could not do this itself. This process
/// is in the container's network namespace afterwards.
pub(crate) fn join(pid: i32, network: &NetworkDocument) -> io::Result<()> {
    if *network == NetworkDocument::Host {
        return Ok(());
    }
    let mut host = Netlink::open()?;
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    sys::loopback_up()?;
    let NetworkDocument::Bridge(attachment) = network else { return Ok(()) };
    // What comes after this has no IPv6: the packet filter drops it, and programs need not try it first. The loopback
    // interface is there already and keeps its own.
    match fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let port = outside(&mut host, attachment, &namespace)?;
    let mut inside = Netlink::open()?;
    let interface = inside.link(INSIDE)?.ok_or_else(|| io::Error::other("the sandbox's interface is not there"))?;
    inside.add_address(interface.index, attachment.address, attachment.subnet)?;
    inside.up(interface.index)?;
    host.up_isolated(port)?;
    inside.add_default_route(attachment.router, interface.index)
}

/// Makes the pair and returns the index of its end on the host, which is still down.
fn outside(host: &mut Netlink, attachment: &Attachment, namespace: &File) -> io::Result<u32> {
    let bridge = host
        .link(&attachment.bridge)?
        .filter(|bridge| bridge.alias == attachment.bridge_owner)
        .ok_or_else(|| io::Error::other(format!("bridge {} of this gateway is gone", attachment.bridge)))?;
    // A namespace that ends takes its interfaces along, but in its own time: the one of the last run may still be here.
    if let Some(old) = host.link(&attachment.port)? {
        let half_made = old.alias.is_empty() && old.controller == Some(bridge.index);
        if old.alias != attachment.port_owner && !half_made {
            let what = format!("interface {} belongs to somebody else ({:?})", attachment.port, old.alias);
            return Err(io::Error::other(what));
        }
        host.delete(old.index)?;
    }
    let hardware = names::hardware(attachment.address);
    host.add_pair(&attachment.port, bridge.index, namespace.as_fd(), hardware)?;
    let port = host.link(&attachment.port)?.ok_or_else(|| io::Error::other("the port is not there"))?;
    host.adopt(port.index, &attachment.port_owner)?;
    Ok(port.index)
}
