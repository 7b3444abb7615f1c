//! What a sandbox on the bridge may reach: decided here, enforced by the packet filter.
//!
//! A packet is judged by where the sandbox sent it to, before any translation, and by nothing else: there is no state
//! that an earlier sandbox with the same address could have left behind. What is closed can be opened only as far as the
//! operator lets it: what is compiled is the *intersection* of a request's rules with the operator's ranges, so that a
//! rule which was harmless when it was checked cannot open more later.

use std::net::{IpAddr, Ipv4Addr};

use chiton_model::{Error, NetworkRule, Protocol};
use ipnet::{IpNet, Ipv4Net};

use crate::options::NetworkOptions;

/// Never reached, whatever anybody allows: this network (RFC 791), loopback (RFC 1122), multicast (RFC 5771), reserved
/// and broadcast (RFC 1112).
pub(crate) const NEVER: [Ipv4Net; 4] = [net(0, 0, 8), net(127, 0, 8), net(224, 0, 4), net(240, 0, 4)];
/// Reached only where a request asks and the operator lets it: private (RFC 1918), carrier's (RFC 6598), link-local
/// (RFC 3927, where clouds keep their metadata), protocol assignments (RFC 6890), benchmarks (RFC 2544); and one public
/// address, at which the host of a virtual machine in Azure hands out that machine's configuration.
pub(crate) const CLOSED: [Ipv4Net; 8] = [
    net(10, 0, 8),
    net(172, 16, 12),
    net(192, 168, 16),
    net(100, 64, 10),
    net(169, 254, 16),
    net(192, 0, 24),
    net(198, 18, 15),
    Ipv4Net::new_assert(Ipv4Addr::new(168, 63, 129, 16), 32),
];
/// The port of name servers.
const DNS: u16 = 53;

const fn net(first: u8, second: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(first, second, 0, 0), prefix)
}

/// Something closed that is open for one sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exception {
    pub(crate) ranges: Vec<Ipv4Net>,
    pub(crate) ports: Option<(u16, u16)>,
    pub(crate) protocol: Option<Protocol>,
}

/// What two ranges have in common: one of them or nothing.
fn common(one: Ipv4Net, other: Ipv4Net) -> Option<Ipv4Net> {
    if one.contains(&other) { Some(other) } else { other.contains(&one).then_some(one) }
}

/// Whether an address is in one of the ranges.
pub(crate) fn within(ranges: &[Ipv4Net], address: Ipv4Addr) -> bool {
    ranges.iter().any(|range| range.contains(&address))
}

/// Whether an address is reached by everybody.
pub(crate) fn public(address: Ipv4Addr) -> bool {
    !within(&NEVER, address) && !within(&CLOSED, address)
}

/// What a request's rules open under an operator's, plus its name servers.
pub(crate) fn compile(allow: &[NetworkRule], dns: &[Ipv4Addr], options: &NetworkOptions) -> Vec<Exception> {
    let bounds = Ipv4Net::aggregate(&options.allow_private);
    let mut exceptions = Vec::new();
    for rule in allow {
        let IpNet::V4(asked) = rule.range else { continue };
        let ranges: Vec<Ipv4Net> = bounds.iter().filter_map(|bound| common(asked, *bound)).collect();
        if !ranges.is_empty() {
            exceptions.push(Exception { ranges, ports: rule.ports, protocol: rule.protocol });
        }
    }
    let servers = dns.iter().filter(|server| options.dns.contains(server) || within(&bounds, **server));
    let ranges: Vec<Ipv4Net> = servers.map(|server| Ipv4Net::from(*server)).collect();
    if !ranges.is_empty() {
        exceptions.push(Exception { ranges, ports: Some((DNS, DNS)), protocol: None });
    }
    exceptions
}

/// Refuses a rule that asks for more than the operator lets anybody have. `own` are the host's own addresses.
pub(crate) fn check(field: &str, rule: &NetworkRule, options: &NetworkOptions, own: &[Ipv4Addr]) -> Result<(), Error> {
    let IpNet::V4(asked) = rule.range else {
        return Err(Error::invalid(
            field,
            format!("{rule} is an IPv6 range, and sandboxes on the bridge have IPv4 only"),
        )
        .cure("name an IPv4 range"));
    };
    if NEVER.iter().any(|range| range.contains(&asked)) {
        return Err(Error::invalid(field, format!("{rule} can never be reached from a sandbox"))
            .cure("loopback, multicast, broadcast and reserved addresses stay closed; leave the rule out"));
    }
    let bounds = Ipv4Net::aggregate(&options.allow_private);
    let own =
        own.iter().map(|address| Ipv4Net::from(*address)).filter(|address| !NEVER.iter().any(|r| r.contains(address)));
    let needed = CLOSED.into_iter().chain(own).filter_map(|range| common(asked, range));
    for piece in needed {
        if !bounds.iter().any(|bound| bound.contains(&piece)) {
            return Err(Error::refused(
                "policy",
                format!("{rule} opens {piece}, which the operator does not let sandboxes reach"),
            )
            .cure(format!(
                "ask for less, or let the operator add {piece} to allow_private in the bridge settings of this driver"
            )));
        }
    }
    Ok(())
}

/// Refuses a name server that the sandbox could not ask.
pub(crate) fn check_server(
    field: &str,
    server: IpAddr,
    options: &NetworkOptions,
    own: &[Ipv4Addr],
) -> Result<Ipv4Addr, Error> {
    let IpAddr::V4(address) = server else {
        return Err(Error::invalid(
            field,
            format!("name server {server} has an IPv6 address, and sandboxes on the bridge have IPv4 only"),
        )
        .cure("name a server by its IPv4 address"));
    };
    if within(&NEVER, address) {
        return Err(Error::invalid(field, format!("name server {server} can never be reached from a sandbox"))
            .cure("name a server that other machines reach too"));
    }
    if !options.dns.contains(&address) {
        let rule = NetworkRule { range: Ipv4Net::from(address).into(), ports: Some((DNS, DNS)), protocol: None };
        check(field, &rule, options, own)?;
    }
    Ok(address)
}

impl Exception {
    /// The rule that accepts what is open, in nft(8)'s language.
    pub(crate) fn text(&self) -> String {
        let ranges: Vec<String> = self.ranges.iter().map(ToString::to_string).collect();
        let ranges = ranges.join(", ");
        let protocol = match self.protocol {
            Some(Protocol::Tcp) => "meta l4proto tcp ",
            Some(Protocol::Udp) => "meta l4proto udp ",
            None if self.ports.is_some() => "meta l4proto { tcp, udp } ",
            None => "",
        };
        let ports = match self.ports {
            Some((first, last)) if first == last => format!("th dport {first} "),
            Some((first, last)) => format!("th dport {first}-{last} "),
            None => String::new(),
        };
        format!("ip daddr {{ {ranges} }} {protocol}{ports}accept")
    }
}

#[cfg(test)]
mod tests;
