//! The network of the `oci` driver's sandboxes that ask for one.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use schemars::JsonSchema;
use serde::Deserialize;

use super::super::checks::Issues;

/// `[compute.driver.oci.bridge]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BridgeConfig {
    /// The bridge's own IPv4 range, from /16 to /29, used by nothing else. Default: a free /20 of 10.128.0.0/9.
    pub(super) subnet: Option<String>,
    /// Name servers of sandboxes whose request names none, at most three IPv4 addresses; their port 53 is open even if
    /// they are private. Default: the host's own servers that are public.
    pub(super) dns: Vec<Ipv4Addr>,
    /// Private, link-local and host addresses that requests may ask for, as ranges. Default: none.
    pub(super) allow_private: Vec<String>,
    /// Whether `net.ipv4.ip_forward` may be set, which makes this machine a router. Default: no.
    pub(super) enable_forwarding: Option<bool>,
}

impl BridgeConfig {
    pub(super) fn range(text: &str) -> Option<Ipv4Net> {
        text.parse::<Ipv4Net>().ok().filter(|range| range.trunc() == *range)
    }

    pub(super) fn check(&self, issues: &mut Issues) {
        if let Some(text) = &self.subnet {
            let fits = Self::range(text).filter(|range| (16..=29).contains(&range.prefix_len()));
            if fits.is_none() {
                issues.add(
                    "/bridge/subnet",
                    format!("{text:?} is not an IPv4 range from /16 to /29 without host bits"),
                    "write a range that nothing else uses, for example \"10.200.0.0/20\"",
                );
            }
        }
        for (index, text) in self.allow_private.iter().enumerate().filter(|(_, text)| Self::range(text).is_none()) {
            issues.add(
                format!("/bridge/allow_private/{index}"),
                format!("{text:?} is not an IPv4 range without host bits"),
                "write a range such as \"10.1.0.0/16\" or \"10.1.2.3/32\"",
            );
        }
        if self.dns.len() > 3 {
            issues.add("/bridge/dns", "resolvers read at most three name servers", "name at most three");
        }
        let unusable = |server: &Ipv4Addr| server.is_loopback() || server.is_multicast() || server.is_unspecified();
        for (index, server) in self.dns.iter().enumerate().filter(|(_, server)| unusable(server)) {
            issues.add(
                format!("/bridge/dns/{index}"),
                format!("name server {server} cannot be reached from a sandbox"),
                "name a server that other machines reach too",
            );
        }
    }
}
