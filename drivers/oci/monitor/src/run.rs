//! The monitor's life: lock, launch, watch over, record, clean, end.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use crate::user;
use crate::wire::{self, Config};

mod clients;
mod launch;
mod output;
mod watch;

/// How long the driver may take to hand over the config.
const CONFIG_DEADLINE: Duration = Duration::from_secs(10);

/// Why a monitor could not do its work.
#[derive(Debug, thiserror::Error)]
enum MonitorError {
    /// A step failed.
    #[error("{step}: {source}")]
    Step {
        /// What was being done.
        step: &'static str,
        /// What went wrong.
        source: io::Error,
    },
    /// The id was deleted before.
    #[error("the sandbox was deleted and its id is never used again")]
    Tombstone,
    /// Somebody else makes or holds this sandbox.
    #[error("another monitor holds the sandbox's lock")]
    Locked,
}

/// Names the step of an I/O error.
trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, MonitorError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &'static str) -> Result<T, MonitorError> {
        self.map_err(|source| MonitorError::Step { step, source: source.into() })
    }
}

/// Runs a monitor. The arguments are for people who read process lists (the sandbox's id); all that matters comes as
/// the first line on standard input, which must be a Unix socket.
///
/// For an ordinary user there are three more modes, told apart by their first word ([`crate::user`]):
/// `hold` alone, `enter NAMESPACE LAUNCHER ID` and `remove NAMESPACE FOLDER...`.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    match args.as_slice() {
        [word] if word == user::HOLD => return user::hold(),
        [word, namespace, launcher, id] if word == user::ENTER => {
            return user::enter(namespace.as_ref(), launcher.as_ref(), id);
        }
        [word, namespace, folders @ ..] if word == user::REMOVE => return user::remove(namespace.as_ref(), folders),
        _ => {}
    }
    let Ok(control) = take_stdin() else {
        eprintln!(
            "chiton-agent monitor: standard input is not the driver's socket; this mode is started by the driver"
        );
        return ExitCode::from(2);
    };
    let Ok(mut config) = read_config(&control) else { return ExitCode::from(2) };
    // Open until this process ends: the launch child is executed from it.
    let mut _launcher = None;
    if user::is_first() {
        match (user::take_launcher(), user::own_pid(), config.launcher.first_mut()) {
            (Ok(program), Ok(pid), Some(word)) => {
                *word = format!("/proc/{pid}/fd/{}", program.as_raw_fd());
                _launcher = Some(program);
            }
            _ => return ExitCode::from(2),
        }
    }
    match watch::Monitor::new(config, control).run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Takes the driver's socket off descriptor 0, so that no child inherits it.
pub(crate) fn take_stdin() -> io::Result<UnixStream> {
    let stdin: OwnedFd = rustix::stdio::stdin().try_clone_to_owned()?;
    let stat = rustix::fs::fstat(&stdin)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Socket {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(null.as_fd())?;
    Ok(UnixStream::from(stdin))
}

fn read_config(control: &UnixStream) -> io::Result<Config> {
    control.set_read_timeout(Some(CONFIG_DEADLINE))?;
    // The driver sends nothing after the config until it was answered, so that nothing is lost with this buffer.
    let config = wire::receive(&mut BufReader::new(control))?;
    control.set_nonblocking(true)?;
    config.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
}
