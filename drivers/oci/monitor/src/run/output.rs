//! The main process's output pipes.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::log::{LARGEST, Writer};

/// How much is read at once. The memory is the monitor's largest single piece.
const CHUNK: usize = LARGEST;

/// Both pipes' reading ends; an end is dropped when no writer is left.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) ends: [Option<OwnedFd>; 2],
}

/// Makes a pipe whose writing end belongs to the sandbox's root.
pub(super) fn pipe(root_uid: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    let (uid, gid) = (rustix::fs::Uid::from_raw(root_uid), rustix::fs::Gid::from_raw(root_uid));
    rustix::fs::fchown(&writer, Some(uid), Some(gid))?;
    Ok((reader, writer))
}

impl Output {
    /// Moves what is there now from a pipe to the log; `all` goes on until the pipe is empty.
    pub(super) fn drain(&mut self, index: usize, log: &mut Writer, all: bool) {
        let mut buffer = [0; CHUNK];
        while let Some(end) = &self.ends[index] {
            match rustix::io::read(end, &mut buffer) {
                Ok(0) => self.ends[index] = None,
                // A full disk must not stop the sandbox: what cannot be written is dropped, and counted by the log.
                Ok(count) => drop(log.write(index == 1, &buffer[..count])),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return,
                Err(_) => self.ends[index] = None,
            }
            if !all {
                return;
            }
        }
    }
}
