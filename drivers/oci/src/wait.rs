//! Waiting for what the kernel tells by no event.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// The first pause between two looks, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(20));

/// Locks a file, waiting for whoever has it locked; the error says what is in the way.
pub(crate) fn for_lock(file: &File, patience: Duration, in_the_way: &str) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    let mut pause = PAUSES.0;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                #[expect(clippy::disallowed_methods, reason = "the kernel tells of a free lock by no event")]
                std::thread::sleep(pause);
                pause = (pause * 2).min(PAUSES.1);
            }
            Err(Errno::WOULDBLOCK) => return Err(io::Error::new(io::ErrorKind::ResourceBusy, in_the_way)),
            locked => return Ok(locked?),
        }
    }
}
