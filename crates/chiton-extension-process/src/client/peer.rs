//! The process at the other end, and whether it is gone.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Between two looks at a process that is waited for: doubling from the first to the second.
const LOOKS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));

/// A process that was at the other end of a connection.
pub(super) struct Peer {
    pid: i32,
    handle: OwnedFd,
}

impl Peer {
    /// The process of this id, which must live. None when the system does not let it be watched, as across pid namespaces.
    /// Whoever calls this makes sure that the connection answers afterwards: then the id was not another's.
    pub(super) fn watch(pid: Option<i32>) -> Option<Self> {
        let pid = pid?;
        let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        Some(Self { pid, handle })
    }

    /// Whether it has ended: its handle can be read then (`pidfd_open(2)`).
    pub(super) fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(&self.handle, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }

    /// Resolves when it has ended. Only fences wait for it, so looking now and then is cheaper than being told.
    pub(super) async fn gone(&self) {
        let mut pause = LOOKS.0;
        while !self.is_gone() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOKS.1);
        }
    }

    /// Whether both are one process.
    pub(super) fn is(&self, other: &Self) -> bool {
        // Ids are given anew only when their process is gone.
        self.pid == other.pid && !self.is_gone()
    }
}
