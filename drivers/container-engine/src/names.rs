//! How what the driver makes is called on the engine. Gateways, workspaces and volumes have no dots in their names, so
//! that none can pass for another.

use crate::options::EngineOptions;
use chiton_model::{GatewayId, SandboxId, VolumeName, WorkspaceName};

/// The container of a sandbox.
pub(crate) fn container(id: &SandboxId) -> String {
    format!("chiton-{id}")
}

/// The network of sandboxes that ask for a bridge: the gateway's, or, where an engine cannot keep the members of a network
/// apart, each sandbox's own. A supervisor's gateway listens on the network's own address, so that there is one network for
/// all of its sandboxes, and it keeps their workloads apart.
pub(crate) fn network(options: &EngineOptions, id: &SandboxId) -> String {
    if options.dialect.keeps_members_apart() || options.bridge.subnet.is_some() || options.agent.supervisor().is_some()
    {
        shared_network(options)
    } else {
        format!("chiton.{}.{id}", options.gateway)
    }
}

/// The one network of a gateway's sandboxes.
pub(crate) fn shared_network(options: &EngineOptions) -> String {
    format!("chiton.{}", options.gateway)
}

/// A named volume.
pub(crate) fn volume(gateway: &GatewayId, workspace: &WorkspaceName, name: &VolumeName) -> String {
    format!("chiton.{gateway}.{workspace}.{name}")
}
