//! Pseudo terminals.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use chiton_agent_proto::v1::WindowSize;
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Both ends of a new terminal of the given size: ours (non-blocking) and the program's.
pub(crate) fn open_pair(size: WindowSize) -> io::Result<(OwnedFd, OwnedFd)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    // By the descriptor first: a sandbox may have another /dev/pts than the one this terminal lives in.
    let peer = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC);
    let theirs = peer.or_else(|_| {
        let name = ptsname(&ours, Vec::new())?;
        open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
    })?;
    resize(&ours, size)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

/// Sets the size; the kernel tells the foreground group by SIGWINCH. Sizes over 65,535 are taken as that.
pub(crate) fn resize(terminal: impl AsFd, size: WindowSize) -> io::Result<()> {
    let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
    let size = Winsize { ws_row: cells(size.rows), ws_col: cells(size.columns), ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}
