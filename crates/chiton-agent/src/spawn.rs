//! Starting a program, exactly: no shell on any path, everything the child needs made before the fork, and errors that
//! tell a missing program from a missing folder.
//!
//! `std::process::Command` does the fork, the standard streams and the report of a failure; the rest happens in a hook
//! after the fork that ends in `execve`, because Command's own `execvp` hands a file without an interpreter line to
//! `/bin/sh`.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, NulError, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Where programs are looked for when the environment has no `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Added to the error number when the working folder could not be entered: the hook can report one number only.
const FOLDER_FAILED: i32 = 1 << 16;
/// Added when the session or its terminal could not be set up.
const SESSION_FAILED: i32 = 1 << 17;

/// What to start.
#[derive(Debug)]
pub struct Program {
    /// Program and arguments; at least one.
    pub argv: Vec<OsString>,
    /// The whole environment.
    pub env: BTreeMap<OsString, OsString>,
    /// Working folder, or the agent's own.
    pub workdir: Option<PathBuf>,
}

/// The child's standard streams.
#[derive(Debug)]
pub enum Streams {
    /// Those of the agent.
    Inherit,
    /// One end of three pipes.
    Pipes {
        /// The child reads this.
        stdin: OwnedFd,
        /// The child writes this.
        stdout: OwnedFd,
        /// The child writes this.
        stderr: OwnedFd,
    },
    /// A terminal, which becomes the controlling one.
    Terminal(OwnedFd),
}

/// Why a program did not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// There is no program.
    #[error("the command is empty; name a program")]
    Empty,
    /// A string holds a zero byte.
    #[error("the command, environment or folder holds a zero byte, which no program can be given")]
    Nul(#[from] NulError),
    /// A variable's name is empty or holds `=`.
    #[error("{0:?} cannot name an environment variable; use a name without '='")]
    Variable(OsString),
    /// The program is nowhere.
    #[error("{0:?} was not found in the sandbox; check its path or PATH")]
    Missing(OsString),
    /// The program is there and cannot be run.
    #[error("{0:?} cannot be executed: {1}")]
    NotExecutable(OsString, io::Error),
    /// The working folder cannot be entered.
    #[error("the working folder {0:?} cannot be entered: {1}")]
    Folder(PathBuf, io::Error),
    /// Session, terminal or fork failed.
    #[error("no process could be made: {0}")]
    Process(io::Error),
}

impl SpawnError {
    /// The exit code that stands for this error: 127 when the program is not there, else 126.
    pub fn code(&self) -> i32 {
        if matches!(self, Self::Missing(_)) { 127 } else { 126 }
    }
}

/// Everything `execve` needs, made before the fork: after it the child must not allocate.
struct Image {
    candidates: Vec<CString>,
    workdir: Option<CString>,
    // The pointers below point into these.
    _strings: Vec<CString>,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
}

// SAFETY: the pointers point into heap blocks that `_strings` owns, which live and move with the struct and are never
// changed after it was made.
unsafe impl Send for Image {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Image {}

impl Image {
    fn new(program: &Program) -> Result<Self, SpawnError> {
        let name = program.argv.first().filter(|name| !name.is_empty()).ok_or(SpawnError::Empty)?;
        let mut strings = Vec::with_capacity(program.argv.len() + program.env.len());
        for argument in &program.argv {
            strings.push(CString::new(argument.as_bytes())?);
        }
        for (name, value) in &program.env {
            if name.is_empty() || name.as_bytes().contains(&b'=') {
                return Err(SpawnError::Variable(name.clone()));
            }
            let mut entry = name.as_bytes().to_vec();
            entry.push(b'=');
            entry.extend_from_slice(value.as_bytes());
            strings.push(CString::new(entry)?);
        }
        let (argv, envp) = strings.split_at(program.argv.len());
        let pointers = |list: &[CString]| {
            list.iter().map(|text| text.as_ptr()).chain(std::iter::once(std::ptr::null())).collect::<Vec<_>>()
        };
        let (argv, envp) = (pointers(argv), pointers(envp));
        let path = program.env.get(OsStr::new("PATH")).map_or(DEFAULT_PATH, |path| path.as_bytes());
        let workdir = program.workdir.as_ref().map(|folder| CString::new(folder.as_os_str().as_bytes())).transpose()?;
        Ok(Self { candidates: candidates(name, path)?, workdir, _strings: strings, argv, envp })
    }

    /// Runs in the child. Returns only on failure.
    fn enter(&self, terminal: bool) -> io::Error {
        if let Err(error) = rustix::process::setsid() {
            return io::Error::from_raw_os_error(SESSION_FAILED + error.raw_os_error());
        }
        if terminal && let Err(error) = rustix::process::ioctl_tiocsctty(rustix::stdio::stdin()) {
            return io::Error::from_raw_os_error(SESSION_FAILED + error.raw_os_error());
        }
        if let Some(folder) = &self.workdir
            && let Err(error) = rustix::process::chdir(folder.as_c_str())
        {
            return io::Error::from_raw_os_error(FOLDER_FAILED + error.raw_os_error());
        }
        // As execvp does it: a file that may not be run does not end the search, but is what is reported after it.
        let mut found = libc::ENOENT;
        for candidate in &self.candidates {
            match self.execve(candidate) {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => found = libc::EACCES,
                other => {
                    found = other;
                    break;
                }
            }
        }
        io::Error::from_raw_os_error(found)
    }

    /// The error number with which `execve` failed.
    fn execve(&self, candidate: &CStr) -> i32 {
        // SAFETY: all three arguments are zero-terminated (the arrays by a null pointer) and live as long as `self`.
        unsafe { libc::execve(candidate.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
        io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)
    }
}

/// The files to try, in order.
fn candidates(name: &OsStr, path: &[u8]) -> Result<Vec<CString>, NulError> {
    if name.as_bytes().contains(&b'/') {
        return Ok(vec![CString::new(name.as_bytes())?]);
    }
    path.split(|byte| *byte == b':')
        .map(|folder| {
            // An empty element means the working folder, by POSIX.
            let mut file = if folder.is_empty() { b".".to_vec() } else { folder.to_vec() };
            file.push(b'/');
            file.extend_from_slice(name.as_bytes());
            CString::new(file)
        })
        .collect()
}

/// Starts a program in a new session and returns its process id, which is its process group's too. Nobody but the caller
/// knows of it: it must be waited for.
pub(crate) fn spawn(program: &Program, streams: Streams) -> Result<i32, SpawnError> {
    let image = Image::new(program)?;
    let mut command = Command::new("chiton-agent-exec");
    let terminal = matches!(streams, Streams::Terminal(_));
    match streams {
        Streams::Inherit => {}
        Streams::Pipes { stdin, stdout, stderr } => {
            command.stdin(stdin).stdout(stdout).stderr(stderr);
        }
        Streams::Terminal(terminal) => {
            let copy = || terminal.as_fd().try_clone_to_owned().map(Stdio::from).map_err(SpawnError::Process);
            command.stdin(copy()?).stdout(copy()?).stderr(copy()?);
        }
    }
    // SAFETY: the hook runs between fork and exec. It allocates nothing, takes no lock and makes only system calls:
    // `Image` was built before, and an error made of a number is no allocation.
    unsafe { command.pre_exec(move || Err(image.enter(terminal))) };
    match command.spawn() {
        // A process id fits: the kernel's own type is signed.
        Ok(child) => Ok(child.id().cast_signed()),
        Err(error) => Err(explain(program, error)),
    }
}

fn explain(program: &Program, error: io::Error) -> SpawnError {
    let name = || program.argv.first().cloned().unwrap_or_default();
    match error.raw_os_error() {
        Some(code) if code & SESSION_FAILED != 0 => {
            SpawnError::Process(io::Error::from_raw_os_error(code & !SESSION_FAILED))
        }
        Some(code) if code & FOLDER_FAILED != 0 => {
            let folder = program.workdir.clone().unwrap_or_default();
            SpawnError::Folder(folder, io::Error::from_raw_os_error(code & !FOLDER_FAILED))
        }
        Some(libc::ENOENT | libc::ENOTDIR) => SpawnError::Missing(name()),
        // The kernel's word for "no more processes"; exec itself never answers it for a file.
        Some(libc::EAGAIN | libc::ENOMEM) => SpawnError::Process(error),
        _ => SpawnError::NotExecutable(name(), error),
    }
}

/// A child that has ended and was not reaped, so that its id cannot yet belong to anything else. None when there is none.
pub(crate) fn ended_child() -> Option<i32> {
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: an all-zero `siginfo_t` is a valid value of that plain C struct.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is a valid place to write to for the whole call.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) };
    if result != 0 {
        return None;
    }
    // SAFETY: after a successful `waitid` the kernel filled the variant with a process id, or left zeros.
    let pid = unsafe { info.si_pid() };
    (pid > 0).then_some(pid)
}

/// Sends a signal (any number, realtime ones too) to a process group.
///
/// # Errors
/// What the kernel reports: `ESRCH` for no such group, `EINVAL` for no such signal.
pub(crate) fn signal_group(group: i32, signal: i32) -> io::Result<()> {
    // SAFETY: `kill` takes two integers and touches no memory of ours. A group of 1 or less would mean "everyone".
    if group > 1 && unsafe { libc::kill(-group, signal) } == 0 {
        return Ok(());
    }
    if group <= 1 { Err(io::Error::from_raw_os_error(libc::ESRCH)) } else { Err(io::Error::last_os_error()) }
}

/// Makes a descriptor known to the event loop. It must be non-blocking.
///
/// # Errors
/// What the kernel reports.
pub(crate) fn register(end: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names one open descriptor, always the same, until it is dropped; nobody replaces the one inside
    // an `AsyncFd`, because what we hand out borrows it only shared.
    unsafe { AsyncFd::register_with_interest(end, interest) }.map_err(io::Error::from)
}

/// Turns text from the wire into the operating system's strings.
pub(crate) fn os(text: &str) -> OsString {
    OsString::from_vec(text.as_bytes().to_vec())
}
