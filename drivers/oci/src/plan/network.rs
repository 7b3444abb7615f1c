//! The sandbox's network.

use std::net::IpAddr;

use chiton_model::{Error, NetworkMode as Asked, NetworkRule, NetworkSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::network::dns;
use crate::options::OciOptions;

/// The kinds of network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// A loopback interface and nothing else.
    #[default]
    None,
    /// The host's own network.
    Host,
    /// An address on the gateway's bridge, behind its packet filter.
    Bridge,
}

/// Who named the name servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DnsSource {
    /// The request.
    Request,
    /// The operator, in the driver's settings.
    Operator,
    /// The host's own configuration; for a bridge, the servers in it that are public.
    Host,
    /// Nobody: the host has no server that the sandbox could reach, and names are not resolved.
    Nobody,
}

/// Network of the sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkPlan {
    /// Its kind; sealed.
    pub mode: NetworkMode,
    /// An address that an extension reserved; without one the driver takes a free one. No interface carries it unless
    /// `mode` is `bridge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What the sandbox reaches beyond the public network; sealed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<NetworkRule>,
    /// Its name servers; sealed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// Who named them; sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_from: Option<DnsSource>,
}

/// The network of a request.
pub(super) fn network(spec: &NetworkSpec, options: &OciOptions) -> Result<NetworkPlan, Error> {
    let mode = match spec.mode {
        Asked::None => return Ok(NetworkPlan::default()),
        Asked::Host => NetworkMode::Host,
        Asked::Bridge => NetworkMode::Bridge,
        Asked::Named(_) => {
            let text = format!("the oci driver has no network {:?}", spec.mode.to_string());
            return Err(Error::unsupported(options.id.as_str(), "network.mode", text)
                .cure("use none, bridge, or host where the operator allows it"));
        }
    };
    let (dns, source) = if !spec.dns.is_empty() {
        (spec.dns.clone(), DnsSource::Request)
    } else if !options.network.dns.is_empty() {
        (options.network.dns.iter().copied().map(IpAddr::from).collect(), DnsSource::Operator)
    } else {
        let found = if mode == NetworkMode::Host { dns::of_host() } else { dns::public_of_host() };
        let source = if found.is_empty() { DnsSource::Nobody } else { DnsSource::Host };
        (found, source)
    };
    let plan = NetworkPlan { mode, address: None, allow: spec.allow.clone(), dns, dns_from: Some(source) };
    crate::network::check::allowed(&plan, &options.network)?;
    Ok(plan)
}
