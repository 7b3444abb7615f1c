//! The launch child: spawned at once, so that its program loads while the cgroups are made.

use std::fs;
use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use nix::unistd::Pid;

use super::output::{self, Output};
use crate::lock::Lock;
use crate::wire::{Config, LaunchOrder, LaunchReport, send};

/// The launch child and the connection to it.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) pid: Pid,
    pub(super) stream: UnixStream,
    unread: Vec<u8>,
}

impl Launch {
    /// Spawns it with the lock inherited and the output pipes as its standard output and error, which is how the
    /// container's init gets them.
    pub(super) fn spawn(config: &Config, lock: &Lock) -> io::Result<(Self, Output)> {
        let (program, arguments) = config
            .launcher
            .split_first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the config names no launch program"))?;
        let (ours, theirs) = UnixStream::pair()?;
        let (stdout, stdout_writer) = output::pipe(config.root_uid)?;
        let (stderr, stderr_writer) = output::pipe(config.root_uid)?;
        lock.inherit(true)?;
        let spawned = Command::new(program)
            .args(arguments)
            .arg(std::process::id().to_string())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(stdout_writer))
            .stderr(Stdio::from(stderr_writer))
            .spawn();
        lock.inherit(false)?;
        let pid = i32::try_from(spawned?.id()).map_err(io::Error::other)?;
        let launch = Self { pid: Pid::from_raw(pid), stream: ours, unread: Vec::new() };
        Ok((launch, Output { ends: [Some(stdout), Some(stderr)] }))
    }

    /// Hands over the launch document. Blocking: the child reads it as soon as it runs, and the caller's alarm bounds
    /// the case that it does not.
    pub(super) fn hand_over(&mut self, document: &str, within: std::time::Duration) -> io::Result<()> {
        self.stream.set_write_timeout(Some(within))?;
        io::Write::write_all(&mut self.stream, document.as_bytes())?;
        io::Write::write_all(&mut self.stream, b"\n")?;
        self.stream.set_nonblocking(true)
    }

    /// Tells it to execute the main process.
    pub(super) fn start(&mut self) -> io::Result<()> {
        send(&mut self.stream, &LaunchOrder::Start)
    }

    /// Reports that came; the flag says that the child closed its end.
    pub(super) fn reports(&mut self) -> io::Result<(Vec<LaunchReport>, bool)> {
        let mut buffer = [0; 1024];
        let mut ended = false;
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    ended = true;
                    break;
                }
                Ok(count) => self.unread.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    ended = true;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        let mut reports = Vec::new();
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            reports.push(serde_json::from_slice(&line)?);
        }
        Ok((reports, ended))
    }
}

/// The namespaces that a container must not share with the host.
const NAMESPACES: [&str; 7] = ["user", "mnt", "pid", "net", "uts", "ipc", "cgroup"];

/// Looks at a created container from outside and refuses one that is less confined than promised: every namespace its
/// own (but the network's, where it is to share that), and what [`verify_process`] demands. `pid` is the monitor's number
/// for it in both.
pub(super) fn verify(pid: i32, host_network: bool) -> io::Result<()> {
    let outer = crate::user::outer_pid(pid)?;
    let refuse = |what: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    for namespace in NAMESPACES.into_iter().filter(|namespace| !host_network || *namespace != "net") {
        let theirs = fs::read_link(format!("/proc/{outer}/ns/{namespace}"))?;
        let ours = fs::read_link(format!("/proc/self/ns/{namespace}"))?;
        if theirs == ours {
            return refuse(format!("the container shares the host's {namespace} namespace"));
        }
    }
    verify_process(pid)
}

/// Looks at the container's init, which may be the main process already: a system call filter, no new privileges, and
/// no capability in any set. None of the three can be undone by what init executes. A process that ended and was not
/// reaped still shows them.
pub(super) fn verify_process(pid: i32) -> io::Result<()> {
    let refuse = |what: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    let mut status = String::new();
    // A monitor in a pid namespace of its own numbers processes in another way than its `/proc`.
    let outer = crate::user::outer_pid(pid)?;
    BufReader::new(fs::File::open(format!("/proc/{outer}/status"))?).read_to_string(&mut status)?;
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map_or("", str::trim);
    if field("Seccomp") != "2" {
        return refuse(format!(
            "no system call filter holds for the container's init: Seccomp is {:?}",
            field("Seccomp")
        ));
    }
    if field("NoNewPrivs") != "1" {
        return refuse("no_new_privs is not set on the container's init".to_owned());
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let value = field(set);
        if value.is_empty() || value.bytes().any(|digit| digit != b'0') {
            return refuse(format!("the container's init has capabilities: {set} is {value:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
