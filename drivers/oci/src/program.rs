//! Programs of the system: each is run with a deadline, without a shell, and is waited for whatever happens.

use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How much of what a program says is kept. It may say more, which is read and forgotten.
const KEPT: usize = 1 << 20;

/// How a program ended and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Ended {
    /// Its complaint in one line, short enough for a message.
    pub(crate) fn complaint(&self) -> String {
        let text: String = String::from_utf8_lossy(&self.stderr).trim().chars().take(600).collect();
        chiton_model::printable(&text)
    }

    /// The beginning of its standard output.
    pub(crate) fn output(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A child that does not outlive whoever waits for it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing is sent to a child that was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How long a program may be open for writing in a child of this process.
const WRITTEN: Duration = Duration::from_secs(10);

/// Spawns a program that this process may have written a moment ago. A child that was forked meanwhile, for whatever
/// program, has the file open for writing until it executes its own, and what is open for writing is not executed: so it
/// is tried again.
///
/// # Errors
/// It cannot be spawned.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    spawn_within(command, WRITTEN)
}

fn spawn_within(command: &mut Command, patience: Duration) -> io::Result<Child> {
    let end = Instant::now() + patience;
    loop {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < end => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the kernel tells by no event that nobody writes any more"
                )]
                std::thread::sleep(Duration::from_millis(2));
            }
            spawned => return spawned,
        }
    }
}

/// Runs a program to its end; kills it when it takes longer than `patience`. Standard input and the surroundings are the
/// caller's to choose; standard output and error are read here.
///
/// # Errors
/// It cannot be run; or [`io::ErrorKind::TimedOut`].
pub(crate) fn run(command: &mut Command, patience: Duration) -> io::Result<Ended> {
    let name = command.get_program().to_string_lossy().into_owned();
    let spawned = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut child = Running(spawned.map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?);
    let guard = pidfd_open(Pid::from_child(&child.0), PidfdFlags::empty())?;
    let (mut out, mut err) = (child.0.stdout.take(), child.0.stderr.take());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    if let (Some(out), Some(err)) = (&out, &err) {
        fcntl_setfl(out, fcntl_getfl(out)? | OFlags::NONBLOCK)?;
        fcntl_setfl(err, fcntl_getfl(err)? | OFlags::NONBLOCK)?;
    }
    let begin = Instant::now();
    loop {
        let timeout = Timespec::try_from(patience.saturating_sub(begin.elapsed())).map_err(io::Error::other)?;
        let mut waits = vec![PollFd::new(&guard, PollFlags::IN)];
        waits.extend(out.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        waits.extend(err.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        match poll(&mut waits, Some(&timeout)) {
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
            Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{name} does not end"))),
            Ok(_) => {}
        }
        let ended = !waits[0].revents().is_empty();
        // What a program wrote before its end is there when its end is seen. A child of its own that still holds the
        // pipe is not waited for.
        drain(&mut out, &mut stdout)?;
        drain(&mut err, &mut stderr)?;
        if ended {
            return Ok(Ended { status: child.0.wait()?, stdout, stderr });
        }
        if begin.elapsed() >= patience {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{name} does not end")));
        }
    }
}

/// Takes what is in a pipe; the pipe is gone at its end.
fn drain(pipe: &mut Option<impl Read>, kept: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    // As much as a pipe holds at once, so that an endless writer does not keep this from looking at the time.
    for _ in 0..16 {
        let Some(open) = pipe else { return Ok(()) };
        match open.read(&mut buffer) {
            Ok(0) => *pipe = None,
            Ok(read) => kept.extend_from_slice(&buffer[..read.min(KEPT.saturating_sub(kept.len()))]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
