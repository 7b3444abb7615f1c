//! The sandbox's network.

use std::net::IpAddr;

use chiton_model::{Error, NetworkMode, NetworkSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::options::EngineOptions;

/// Network of the sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkPlan {
    /// `none`, `bridge` (the gateway's own network on the engine), `host`, or `named:` and a network of the engine; sealed.
    pub mode: NetworkMode,
    /// An address that an extension reserved; without one the engine takes a free one. The network's range must be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Its name servers; the engine's choice when there are none. Sealed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
}

/// The network of a request, refused where the operator does not allow it.
pub(super) fn network(spec: &NetworkSpec, options: &EngineOptions) -> Result<NetworkPlan, Error> {
    let plan = NetworkPlan { mode: spec.mode.clone(), address: None, dns: spec.dns.clone() };
    if !spec.allow.is_empty() {
        let kind = options.dialect.kind();
        let text = format!("{kind} has no rules about what a network's members may reach");
        return Err(Error::unsupported(options.id.as_str(), "network.allow", text)
            .cure("leave it out, or use the oci driver, which has such rules"));
    }
    allowed(&plan, options)?;
    Ok(plan)
}

/// What the operator must have allowed.
pub(crate) fn allowed(plan: &NetworkPlan, options: &EngineOptions) -> Result<(), Error> {
    let setting = format!("[compute.driver.{}]", options.id);
    match &plan.mode {
        NetworkMode::None | NetworkMode::Bridge => Ok(()),
        NetworkMode::Host if options.allowed.host_network => Ok(()),
        NetworkMode::Host => Err(Error::refused("policy", "the host's own network is not allowed here")
            .cure(format!("ask for bridge or none, or let the operator set host_network = true in {setting}"))),
        NetworkMode::Named(name) if options.allowed.networks.contains(name) => Ok(()),
        NetworkMode::Named(name) => {
            let known: Vec<&str> = options.allowed.networks.iter().map(String::as_str).collect();
            let cure = match known.as_slice() {
                [] => {
                    format!("ask for bridge or none, or let the operator list it: networks = [{name:?}] in {setting}")
                }
                known => format!("the networks that are allowed are {}", known.join(", ")),
            };
            Err(Error::refused("policy", format!("the network {name:?} is not allowed here")).cure(cure))
        }
    }
}
