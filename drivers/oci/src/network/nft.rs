//! Changes of the packet filter, by the `nft` program: each script is one transaction that happens or does not.
//!
//! The script is a file, which is the program's standard input and at the same time the lock: the lock belongs to the
//! open file, so that the program holds it too. When the gateway is killed, the program still reads a whole script or
//! none, and the next gateway waits for its end before it looks at what is there.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How long one transaction may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How much of the program's complaint is passed on.
const COMPLAINT: u64 = 600;
/// Where the program is on common systems.
const PLACES: [&str; 4] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"];

/// The program, if this machine has it.
pub(crate) fn program() -> Option<PathBuf> {
    PLACES.iter().map(PathBuf::from).find(|path| path.exists())
}

/// Runs a script. The error says what the program said.
pub(crate) fn run(file: &Path, script: &str) -> io::Result<()> {
    let program =
        program().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the program nft is not installed"))?;
    let mut input = lock(file)?;
    input.set_len(0)?;
    input.write_all(script.as_bytes())?;
    input.rewind()?;
    let mut child = Command::new(program)
        .args(["-f", "-"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(input))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let ended = await_end(child.id(), PATIENCE);
    if !matches!(ended, Ok(true)) {
        let _ = child.kill();
    }
    let status = child.wait()?;
    if !ended? {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "nft does not end"));
    }
    if status.success() {
        return Ok(());
    }
    let mut complaint = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(COMPLAINT).read_to_end(&mut complaint)?;
    }
    let complaint = chiton_model::printable(String::from_utf8_lossy(&complaint).trim());
    Err(io::Error::other(format!("nft refused the rules ({status}): {complaint}")))
}

/// Opens the file and waits for whoever still works with it.
fn lock(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    let begin = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if begin.elapsed() < PATIENCE => {
                #[expect(clippy::disallowed_methods, reason = "the kernel tells of a free lock by no event")]
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(10));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "another nft of this driver does not end"));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits for a child of this process to end.
fn await_end(pid: u32, patience: Duration) -> io::Result<bool> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    let descriptor = pidfd_open(pid, PidfdFlags::empty())?;
    let begin = Instant::now();
    loop {
        let left = patience.saturating_sub(begin.elapsed());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result? > 0),
        }
    }
}
