//! Where a gateway has to listen so that what a driver puts into sandboxes reaches it.

use std::net::SocketAddr;

/// One place. A gateway that listens there already has nothing to do; a driver only says what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayListener {
    /// Why, for people.
    pub reason: String,
    /// Where.
    pub at: ListenAt,
}

/// Where that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenAt {
    /// This address and port.
    Address(SocketAddr),
    /// The address of this machine on its IPv4 default route, at the gateway's port.
    DefaultRoute,
    /// 127.0.0.1, at the gateway's port.
    Loopback,
}
