//! Unix sockets whose other end is known.
//!
//! - [`PeerListener`]: a socket that lets only some users in, bound here or handed over by systemd
//! - [`Dial`]: the way to a socket whose owner and peer are looked at before a byte is sent
//! - [`Peer`]: who is at the other end, as the kernel vouches for it
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod dial;
mod listen;

use std::collections::BTreeSet;

pub use dial::{Dial, connect_to};
pub use listen::{Access, PeerListener, PeerStream};

/// The process at the other end of a connection, as the kernel saw it when it connected (unix(7), `SO_PEERCRED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// The process; none when it is of another pid namespace.
    pub pid: Option<i32>,
}

/// The users that are trusted where nobody says otherwise: our own and root.
pub fn own_and_root() -> BTreeSet<u32> {
    BTreeSet::from([0, rustix::process::geteuid().as_raw()])
}
