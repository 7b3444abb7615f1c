//! What the kernel's objects of one driver are called.
//!
//! Interface names have 15 bytes, so that they carry a digest of the driver's identity; the whole identity stands in
//! each interface's alias, and an interface without it is never touched.

use std::net::Ipv4Addr;

use chiton_model::{DriverId, GatewayId, SandboxId};
use sha2::{Digest, Sha256};

/// The names of one driver of one gateway.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    tag: String,
    owner: String,
}

impl Names {
    pub(crate) fn new(gateway: &GatewayId, driver: &DriverId) -> Self {
        let owner = format!("chiton {gateway} {driver}");
        let tag = hex::encode(&Sha256::digest(&owner)[..4]);
        Self { tag, owner }
    }

    /// The bridge.
    pub(crate) fn bridge(&self) -> String {
        format!("ch{}", self.tag)
    }

    /// What every sandbox's interface on the host begins with.
    pub(crate) fn port_prefix(&self) -> String {
        format!("ch{}-", self.tag)
    }

    /// A sandbox's interface on the host. A subnet has at most 2^16 addresses, so that the last two bytes tell them
    /// apart, and the name is found from the sandbox's address alone.
    pub(crate) fn port(&self, address: Ipv4Addr) -> String {
        let [_, _, high, low] = address.octets();
        format!("{}{high:02x}{low:02x}", self.port_prefix())
    }

    /// The tables of the packet filter.
    pub(crate) fn table(&self) -> String {
        format!("chiton_{}", self.tag)
    }

    /// The alias of the bridge: whose it is.
    pub(crate) fn owner(&self) -> &str {
        &self.owner
    }

    /// The alias of a sandbox's interface.
    pub(crate) fn port_owner(&self, sandbox: &SandboxId) -> String {
        format!("{} {sandbox}", self.owner)
    }

    /// A number that differs from gateway to gateway.
    pub(crate) fn seed(&self) -> u32 {
        u32::from_str_radix(&self.tag, 16).unwrap_or(0)
    }
}

/// The hardware address that goes with an address: locally administered, so that nobody else's device has it.
pub(crate) fn hardware(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x63, a, b, c, d]
}

/// A hardware address as programs write it.
pub(crate) fn hardware_text(address: Ipv4Addr) -> String {
    hardware(address).map(|byte| format!("{byte:02x}")).join(":")
}
