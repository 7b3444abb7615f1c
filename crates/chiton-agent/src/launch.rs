//! Taking the launch document from standard input.
//!
//! It is read in the one thread there is, before the agent does anything else: what comes after (the confinement, the event
//! loop, the first program) depends on it or must not see it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use chiton_agent_proto::launch::{DocumentError, LIMIT, LaunchDocument};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use zeroize::Zeroizing;

use crate::config::Document;

/// How long the whole line may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// Room for the first read: most documents are shorter.
const FIRST: usize = 4096;

/// Why there is no document. No message holds anything of what was read.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// What is typed into a terminal is shown by it, and longer lines are cut.
    #[error(
        "standard input is a terminal, which repeats what it is given; attach the agent's standard input as a pipe (a container without a terminal of its own)"
    )]
    Terminal,
    /// The writing side closed.
    #[error(
        "standard input ended after {0} bytes, before the end of the launch document's line; keep it open and send the whole line with its newline"
    )]
    Ended(usize),
    /// The line does not end.
    #[error("the launch document has more than {LIMIT} bytes without a newline; hand over fewer or shorter variables")]
    TooLong,
    /// It takes too long.
    #[error(
        "no launch document arrived on standard input within {DEADLINE:?} ({0} bytes did, and no newline); attach when it is started and send it at once"
    )]
    Late(usize),
    /// The line is no document.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The kernel refused something.
    #[error("the agent could not {0}: {1}")]
    System(&'static str, io::Error),
}

/// From here on programs of the same user cannot read the agent's memory and descriptors.
///
/// # Errors
/// What the kernel reports.
pub(crate) fn protect() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Takes the document from standard input, which is `/dev/null` afterwards: what the driver may have written behind the line
/// is nobody's, and no program shall hold the pipe.
///
/// # Errors
/// As [`LaunchError`] says. Standard input may be half read then; the agent ends.
pub fn receive() -> Result<Document, LaunchError> {
    protect().map_err(|error| LaunchError::System("protect its memory", error))?;
    let input = rustix::stdio::stdin();
    if rustix::termios::isatty(input) {
        return Err(LaunchError::Terminal);
    }
    let line = line(input, Instant::now() + DEADLINE)?;
    let nothing =
        File::open("/dev/null").map_err(|error| LaunchError::System("open /dev/null for its standard input", error))?;
    rustix::stdio::dup2_stdin(nothing)
        .map_err(|error| LaunchError::System("close its standard input", error.into()))?;
    // The library copies text with escapes through a buffer of its own, which is not wiped; nothing but the agent's own
    // memory holds it, and that is protected.
    Ok(LaunchDocument::decode(&line)?)
}

/// Reads to the first newline and returns what is before it. Wiped when dropped, as every smaller buffer is on the way.
fn line(input: impl AsFd, deadline: Instant) -> Result<Zeroizing<Vec<u8>>, LaunchError> {
    let mut bytes = Zeroizing::new(vec![0; FIRST]);
    let mut length = 0;
    loop {
        if length == bytes.len() {
            if length >= LIMIT {
                return Err(LaunchError::TooLong);
            }
            // Not by the vector itself: what it leaves behind when it moves is not wiped.
            let mut larger = Zeroizing::new(vec![0; (length * 2).min(LIMIT)]);
            larger[..length].copy_from_slice(&bytes);
            bytes = larger;
        }
        if !ready(&input, deadline)? {
            return Err(LaunchError::Late(length));
        }
        match rustix::io::read(&input, &mut bytes[length..]) {
            Ok(0) => return Err(LaunchError::Ended(length)),
            Ok(read) => {
                let end = bytes[length..length + read].iter().position(|byte| *byte == b'\n');
                length += read;
                if let Some(end) = end {
                    // Wiped with the rest: the whole capacity is.
                    bytes.truncate(length - read + end);
                    return Ok(bytes);
                }
            }
            // Somebody else read, or the descriptor does not wait: so we wait.
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(LaunchError::System("read its standard input", error.into())),
        }
    }
}

/// Waits until there is something to read, also the end; false at the deadline.
fn ready(input: &impl AsFd, deadline: Instant) -> Result<bool, LaunchError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = Timespec::try_from(left).map_err(|_| LaunchError::Late(0))?;
        match poll(&mut [PollFd::new(input, PollFlags::IN)], Some(&wait)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(error) => return Err(LaunchError::System("wait for its standard input", error.into())),
        }
    }
}

#[cfg(test)]
mod tests;
