//! Interfaces, addresses and routes by rtnetlink(7): one socket, blocking, each answer awaited with a deadline.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use ipnet::Ipv4Net;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind,
    InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// How long the kernel may take to answer: it waits for other changes of the network configuration.
const PATIENCE: Duration = Duration::from_secs(15);
/// Room for one answer; the kernel sends no longer ones to a dump.
const ANSWER: usize = 64 << 10;

/// A socket for the network namespace in which it was made.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) up: bool,
    /// The bridge that it is a port of.
    pub(crate) controller: Option<u32>,
}

/// A range that the kernel has an interface for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) range: Ipv4Net,
    pub(crate) interface: Option<u32>,
}

fn failed(doing: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{doing}: {error}"))
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        for kind in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(socket.as_fd(), kind, Some(PATIENCE))?;
        }
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends a request and collects what is answered, up to the kernel's acknowledgement or the end of a list.
    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        let mut buffer = Vec::with_capacity(ANSWER);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel does not answer"));
                }
                result => result?,
            };
            let mut rest = buffer.as_slice();
            while !rest.is_empty() {
                let message: NetlinkMessage<RouteNetlinkMessage> =
                    NetlinkMessage::deserialize(rest).map_err(io::Error::other)?;
                // Messages are aligned to four bytes (netlink(7)).
                let length = usize::try_from(message.header.length).map_err(io::Error::other)?.next_multiple_of(4);
                rest = rest.get(length.max(16)..).unwrap_or_default();
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    _ => {}
                }
            }
        }
    }

    /// All interfaces.
    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        let answers = self
            .request(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)
            .map_err(|error| failed("list the interfaces", &error))?;
        Ok(answers.into_iter().filter_map(link).collect())
    }

    /// One interface by its name.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.request(RouteNetlinkMessage::GetLink(message), NLM_F_ACK) {
            Ok(answers) => Ok(answers.into_iter().find_map(link)),
            Err(error) if is(&error, Errno::NODEV) => Ok(None),
            Err(error) => Err(failed(&format!("look at interface {name}"), &error)),
        }
    }

    /// Makes a bridge that is down.
    pub(crate) fn add_bridge(&mut self, name: &str, hardware: [u8; 6]) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(hardware.to_vec()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
            .map(drop)
            .map_err(|error| failed(&format!("make bridge {name}"), &error))
    }

    /// Makes a pair of interfaces: a port of the bridge here, and `eth0` in another network namespace. Both are down.
    pub(crate) fn add_pair(
        &mut self,
        port: &str,
        bridge: u32,
        inside: BorrowedFd<'_>,
        hardware: [u8; 6],
    ) -> io::Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(INSIDE.to_owned()),
            LinkAttribute::Address(hardware.to_vec()),
            LinkAttribute::NetNsFd(inside.as_raw_fd()),
        ];
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(port.to_owned()),
            LinkAttribute::Controller(bridge),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
            .map(drop)
            .map_err(|error| failed(&format!("make interface {port}"), &error))
    }

    /// Brings an interface up.
    pub(crate) fn up(&mut self, index: u32) -> io::Result<()> {
        self.set_up(index, Vec::new())
    }

    /// Brings a bridge's port up, from which no frame goes to another such port.
    pub(crate) fn up_isolated(&mut self, index: u32) -> io::Result<()> {
        let port = vec![InfoBridgePort::Isolated(true), InfoBridgePort::Guard(true)];
        let info = vec![LinkInfo::PortKind(InfoPortKind::Bridge), LinkInfo::PortData(InfoPortData::BridgePort(port))];
        self.set_up(index, vec![LinkAttribute::LinkInfo(info)])
    }

    fn set_up(&mut self, index: u32, attributes: Vec<LinkAttribute>) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = attributes;
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_ACK)
            .map(drop)
            .map_err(|error| failed(&format!("bring interface {index} up"), &error))
    }

    /// Says whose an interface is, which cannot be said when it is made, and keeps the kernel from giving it an IPv6
    /// address of its own.
    pub(crate) fn adopt(&mut self, index: u32, alias: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let inet6 = vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)];
        message.attributes = vec![
            LinkAttribute::IfAlias(alias.to_owned()),
            LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(inet6)]),
        ];
        match self.request(RouteNetlinkMessage::SetLink(message.clone()), NLM_F_ACK) {
            // A kernel without IPv6 gives none.
            Err(error) if is(&error, Errno::AFNOSUPPORT) => {
                message.attributes.truncate(1);
                self.request(RouteNetlinkMessage::SetLink(message), NLM_F_ACK)
            }
            result => result,
        }
        .map(drop)
        .map_err(|error| failed(&format!("name the owner of interface {index}"), &error))
    }

    /// Removes an interface; absent is fine.
    pub(crate) fn delete(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        match self.request(RouteNetlinkMessage::DelLink(message), NLM_F_ACK) {
            Err(error) if !is(&error, Errno::NODEV) => Err(failed(&format!("remove interface {index}"), &error)),
            _ => Ok(()),
        }
    }

    /// Gives an interface an address, and with it the route to its range.
    pub(crate) fn add_address(&mut self, index: u32, address: Ipv4Addr, range: Ipv4Net) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = range.prefix_len();
        message.header.scope = AddressScope::Universe;
        message.header.index = index;
        message.attributes = vec![
            AddressAttribute::Local(address.into()),
            AddressAttribute::Address(address.into()),
            AddressAttribute::Broadcast(range.broadcast()),
        ];
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
            .map(drop)
            .map_err(|error| failed(&format!("give an interface the address {address}"), &error))
    }

    /// All IPv4 addresses of this namespace with their interface.
    pub(crate) fn addresses(&mut self) -> io::Result<Vec<(Ipv4Net, u32)>> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        let answers = self
            .request(RouteNetlinkMessage::GetAddress(message), NLM_F_DUMP)
            .map_err(|error| failed("list the addresses", &error))?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| {
                let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
                let local = message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Local(std::net::IpAddr::V4(address)) => Some(*address),
                    _ => None,
                });
                Some((Ipv4Net::new(local?, message.header.prefix_len).ok()?, message.header.index))
            })
            .collect())
    }

    /// All IPv4 ranges that have a route, the default aside.
    pub(crate) fn routes(&mut self) -> io::Result<Vec<Route>> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let answers = self
            .request(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)
            .map_err(|error| failed("list the routes", &error))?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| {
                let RouteNetlinkMessage::NewRoute(message) = answer else { return None };
                let mut destination = None;
                let mut interface = None;
                for attribute in &message.attributes {
                    match attribute {
                        RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = Some(*address),
                        RouteAttribute::Oif(index) => interface = Some(*index),
                        _ => {}
                    }
                }
                let range = Ipv4Net::new(destination?, message.header.destination_prefix_length).ok()?;
                Some(Route { range, interface })
            })
            .collect())
    }

    /// Sends what has no other route to a router.
    pub(crate) fn add_default_route(&mut self, router: Ipv4Addr, interface: u32) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: AddressFamily::Inet,
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Boot,
            scope: RouteScope::Universe,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        message.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(router)), RouteAttribute::Oif(interface)];
        self.request(RouteNetlinkMessage::NewRoute(message), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
            .map(drop)
            .map_err(|error| failed("add the default route", &error))
    }
}

/// What a sandbox's interface is called in it.
pub(crate) const INSIDE: &str = "eth0";

fn link(answer: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = answer else { return None };
    let up = message.header.flags.contains(LinkFlags::Up);
    let mut link =
        Link { index: message.header.index, name: String::new(), alias: String::new(), up, controller: None };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = alias,
            LinkAttribute::Controller(index) => link.controller = Some(index),
            _ => {}
        }
    }
    Some(link)
}
