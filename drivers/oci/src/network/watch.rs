//! Notices when somebody else removes the packet filter's tables, as `nft flush ruleset` does in many firewalls' reload.

use std::io;
use std::sync::Weak;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::io::Errno;

use super::Network;

/// The multicast group of changes of `nf_tables` (`NFNLGRP_NFTABLES`, `linux/netfilter/nfnetlink.h`).
const GROUP: u32 = 7;
/// A table was removed: `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELTABLE` (`linux/netfilter/nf_tables.h`).
const TABLE_REMOVED: u16 = (10 << 8) | 2;
/// Where a netlink message's type is, and how long its header is (netlink(7)).
const TYPE: std::ops::Range<usize> = 4..6;
const HEADER: usize = 16;

/// Listens from now on, on a thread of its own that ends with the first message after the network is gone.
pub(super) fn watch(network: Weak<Network>) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.add_membership(GROUP)?;
    std::thread::Builder::new().name("oci-packet-filter".to_owned()).spawn(move || listen(&socket, &network))?;
    Ok(())
}

fn listen(socket: &Socket, network: &Weak<Network>) {
    let mut buffer = Vec::with_capacity(64 << 10);
    loop {
        buffer.clear();
        let removed = match socket.recv(&mut buffer, 0) {
            Ok(_) => tells_of_removal(&buffer),
            // Messages were lost: any may have been the one.
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                tracing::warn!(%error, "changes of the packet filter are no longer noticed");
                return;
            }
        };
        let Some(network) = network.upgrade() else { return };
        if removed && let Err(error) = network.restore() {
            tracing::error!(error = %error.into_error(), "the packet filter's tables are gone and could not be restored");
        }
    }
}

/// Whether one of the messages tells of a table's removal.
pub(super) fn tells_of_removal(mut messages: &[u8]) -> bool {
    while let (Some(length), Some(kind)) = (messages.first_chunk::<4>(), messages.get(TYPE)) {
        if kind == TABLE_REMOVED.to_ne_bytes() {
            return true;
        }
        let length = usize::try_from(u32::from_ne_bytes(*length)).unwrap_or(usize::MAX).max(HEADER);
        messages = messages.get(length.saturating_add(3) & !3..).unwrap_or_default();
    }
    false
}
