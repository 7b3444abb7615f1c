//! The network that a request asks for.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::suggest::nearest;

/// The most exceptions that one request may ask for.
const RULES: usize = 64;
/// The most name servers: resolvers read no more (`MAXNS` of resolv.conf(5)).
const SERVERS: usize = 3;

/// How a sandbox reaches other machines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum NetworkMode {
    /// A loopback interface and nothing else.
    #[default]
    None,
    /// The host's own network. Only where the operator allows it.
    Host,
    /// A network of the driver's own, closed to the host, to other sandboxes, and to private ranges.
    Bridge,
    /// A network that the operator or the engine knows by this name; written `named:NAME`.
    Named(String),
}

impl FromStr for NetworkMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let name = |name: &str| {
            matches!(name.len(), 1..=63)
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
                && name.as_bytes()[0].is_ascii_alphanumeric()
        };
        match text {
            "none" => Ok(Self::None),
            "host" => Ok(Self::Host),
            "bridge" => Ok(Self::Bridge),
            _ => match text.strip_prefix("named:") {
                Some(named) if name(named) => Ok(Self::Named(named.to_owned())),
                Some(named) => Err(Error::invalid("network.mode", format!("network name {named:?} is not valid"))
                    .cure("use 1 to 63 letters, digits, inner hyphens, dots and underscores")),
                None => Err(Error::invalid("network.mode", format!("there is no network called {text:?}")).cure(
                    match nearest(text, ["none", "host", "bridge"]) {
                        Some(known) => format!("did you mean {known:?}?"),
                        None => "use \"none\", \"host\", \"bridge\" or \"named:\" and a network's name".to_owned(),
                    },
                )),
            },
        }
    }
}

impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Host => f.write_str("host"),
            Self::Bridge => f.write_str("bridge"),
            Self::Named(name) => write!(f, "named:{name}"),
        }
    }
}

impl TryFrom<String> for NetworkMode {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<NetworkMode> for String {
    fn from(mode: NetworkMode) -> Self {
        mode.to_string()
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Where a sandbox may connect to beyond what its network allows by itself:
/// `CIDR`, `CIDR:PORT`, `CIDR:FIRST-LAST`, each with `/tcp` or `/udp` behind it or both protocols without; an IPv6 range
/// with ports stands in brackets. A lone address is a range of one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct NetworkRule {
    /// The addresses.
    pub range: IpNet,
    /// First and last port; absent means all, and every protocol if none is named.
    pub ports: Option<(u16, u16)>,
    /// The protocol; absent means TCP and UDP, or everything where no port is named either.
    pub protocol: Option<Protocol>,
}

impl NetworkRule {
    fn parse(text: &str) -> Option<Self> {
        let (rest, protocol) = match text.rsplit_once('/') {
            Some((rest, "tcp")) => (rest, Some(Protocol::Tcp)),
            Some((rest, "udp")) => (rest, Some(Protocol::Udp)),
            _ => (text, None),
        };
        let (range, ports) = match rest.strip_prefix('[') {
            Some(inner) => {
                let (range, behind) = inner.split_once(']')?;
                (range, if behind.is_empty() { None } else { Some(behind.strip_prefix(':')?) })
            }
            // With two colons it is an IPv6 range without ports.
            None => match rest.split_once(':') {
                Some((_, behind)) if behind.contains(':') => (rest, None),
                Some((range, ports)) => (range, Some(ports)),
                None => (rest, None),
            },
        };
        let range: IpNet = range.parse().ok().or_else(|| range.parse::<IpAddr>().ok().map(IpNet::from))?;
        if range.trunc() != range {
            return None;
        }
        let ports = match ports {
            None => None,
            Some(ports) => {
                let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
                let port = |text: &str| text.parse::<u16>().ok().filter(|_| !text.starts_with(['+', '0']));
                Some((port(first)?, port(last)?)).filter(|(first, last)| first <= last)
            }
            .map(Some)?,
        };
        Some(Self { range, ports, protocol })
    }
}

impl FromStr for NetworkRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text).ok_or_else(|| {
            Error::invalid("network.allow", format!("{text:?} is not a range of addresses and ports")).cure(
                "write a range without host bits, with ports and protocol if you like: 10.1.0.0/16, 10.1.2.3:443/tcp, \
                 [fd00::/8]:8000-8080",
            )
        })
    }
}

impl fmt::Display for NetworkRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.ports, self.range) {
            (Some(_), IpNet::V6(range)) => write!(f, "[{range}]")?,
            (_, range) => write!(f, "{range}")?,
        }
        match self.ports {
            Some((first, last)) if first == last => write!(f, ":{first}")?,
            Some((first, last)) => write!(f, ":{first}-{last}")?,
            None => {}
        }
        match self.protocol {
            Some(Protocol::Tcp) => f.write_str("/tcp"),
            Some(Protocol::Udp) => f.write_str("/udp"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for NetworkRule {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<NetworkRule> for String {
    fn from(rule: NetworkRule) -> Self {
        rule.to_string()
    }
}

/// What a request says about the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkSpec {
    /// The kind.
    pub mode: NetworkMode,
    /// Exceptions from what a bridge refuses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<NetworkRule>,
    /// Name servers; none means the driver's choice.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
}

impl NetworkSpec {
    /// Whether nothing but a loopback interface is asked for.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Checks what is certain without knowing the driver.
    pub fn check(&self) -> Result<(), Error> {
        if self.allow.len() > RULES {
            let text = format!("{} ranges are more than the {RULES} that one sandbox may have", self.allow.len());
            return Err(Error::invalid("network.allow", text).cure("join ranges, or let the operator allow them"));
        }
        if self.dns.len() > SERVERS {
            let text = format!("{} name servers are more than the {SERVERS} that resolvers read", self.dns.len());
            return Err(Error::invalid("network.dns", text).cure("name at most three"));
        }
        let without_use = [(!self.allow.is_empty(), "allow"), (!self.dns.is_empty(), "dns")];
        if let (NetworkMode::None, Some((_, field))) = (&self.mode, without_use.iter().find(|(set, _)| *set)) {
            return Err(Error::invalid(format!("network.{field}"), "a sandbox without a network cannot use this")
                .cure("ask for a network too, for example bridge"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
