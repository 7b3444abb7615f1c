//! Who is at the other end of a connection.

use std::collections::BTreeMap;

use axum::extract::ConnectInfo;
use chiton_model::Principal;
use tonic::{Extensions, Status};

/// A peer on the Unix socket, as the kernel vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The uid of the process that connected.
    pub uid: u32,
}

impl Peer {
    /// The peer as a principal.
    pub(crate) fn principal(self) -> Principal {
        Principal { subject: format!("uid:{}", self.uid), claims: BTreeMap::new() }
    }
}

/// The principal of a request. A request without a known peer is refused.
pub(crate) fn principal(extensions: &Extensions) -> Result<Principal, Status> {
    extensions
        .get::<ConnectInfo<Peer>>()
        .map(|info| info.0.principal())
        .ok_or_else(|| Status::unauthenticated("the connection's peer is not known"))
}
