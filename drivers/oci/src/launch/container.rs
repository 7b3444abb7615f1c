//! The container itself, by libcontainer, on a stage that is ready.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use chiton_confine::{Confinement, Enforced};
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::notify_socket::{NOTIFY_FILE, NotifySocket};
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::{Value, json};

use super::stage::{BUNDLE, ROOT, STATE};
use super::steps::Watch;
use super::{LaunchError, Step};
use crate::network::join::{self, NetworkDocument};
use crate::sys;

/// A created container.
pub(super) struct Created {
    id: String,
    pid: i32,
    enforced: Enforced,
    /// Init's words: first what it enforced on itself, then why it could not execute the main process.
    words: BufReader<File>,
}

/// Init's first words.
type Word = Result<Enforced, String>;

/// Makes the container, up to its init waiting for the order to execute the main process.
pub(super) fn create(
    id: &str,
    mut spec: Value,
    confinement: Confinement,
    network: &NetworkDocument,
    watch: &mut Watch,
) -> Result<Created, LaunchError> {
    if let Some(root) = spec.get_mut("root") {
        root["path"] = json!(ROOT);
    }
    fs::write(Path::new(BUNDLE).join("config.json"), spec.to_string()).step("write the specification")?;
    // Closed by the kernel at the moment of a successful execve: end of file without a byte means that it runs.
    let (words, ours) = pipe_with(PipeFlags::CLOEXEC).step("make a pipe")?;
    let mut words = BufReader::new(File::from(words));
    let built = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_executor(Execute { words: Arc::new(ours), confinement: Arc::new(confinement) })
        .with_stdin(File::open("/dev/null").step("open /dev/null")?)
        .with_root_path(STATE)
        .step("set the state folder")?
        .as_init(BUNDLE)
        .with_systemd(false)
        .build();
    let container = match built {
        Ok(container) => container,
        Err(error) => {
            // Init may hang instead of having ended, so this does not wait.
            rustix::io::ioctl_fionbio(words.get_ref(), true).step("read what init said")?;
            return match first_word(&mut words) {
                Ok(Err(message)) => Err(LaunchError { step: CONFINE, message }),
                _ => Err(error).step("create the container"),
            };
        }
    };
    let enforced = match first_word(&mut words).step(CONFINE)? {
        Ok(enforced) => enforced,
        Err(message) => return Err(LaunchError { step: CONFINE, message }),
    };
    let pid = container
        .pid()
        .ok_or_else(|| LaunchError { step: "create the container", message: "it has no init".to_owned() })?
        .as_raw();
    watch.done("create the container");
    join::join(pid, network).step("join the network")?;
    watch.done("join the network");
    Ok(Created { id: id.to_owned(), pid, enforced, words })
}

const CONFINE: &str = "confine the container's init";

fn first_word(words: &mut BufReader<File>) -> io::Result<Word> {
    let mut line = String::new();
    // Longer than any: a path has at most 4 KiB.
    Read::take(&mut *words, 64 << 10).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

impl Created {
    /// Init's process id.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// What it enforced on itself.
    pub(super) fn enforced(&self) -> Enforced {
        self.enforced
    }

    /// Executes the main process; returns when it was executed or could not be.
    pub(super) fn start(&mut self) -> Result<(), LaunchError> {
        NotifySocket::new(Path::new(STATE).join(&self.id).join(NOTIFY_FILE))
            .notify_container_start()
            .step("start the container")?;
        let mut message = String::new();
        self.words.read_to_string(&mut message).step("wait for the main process")?;
        if message.is_empty() { Ok(()) } else { Err(LaunchError { step: "execute the main process", message }) }
    }
}

/// Executes the main process and tells the launch child when it cannot.
#[derive(Clone)]
struct Execute {
    words: Arc<OwnedFd>,
    confinement: Arc<Confinement>,
}

impl Executor for Execute {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        sys::default_signals();
        let arguments = spec.process().as_ref().and_then(|process| process.args().clone()).unwrap_or_default();
        let cstrings: Result<Vec<CString>, _> = arguments.iter().map(|text| CString::new(text.as_bytes())).collect();
        let error = match (cstrings, arguments.first()) {
            (Ok(cstrings), Some(_)) => match nix::unistd::execvp(&cstrings[0], &cstrings) {
                Ok(never) => match never {},
                Err(error) => io::Error::from(error).to_string(),
            },
            _ => "the command is empty or contains a NUL byte".to_owned(),
        };
        let program = arguments.first().map_or("", String::as_str);
        let message = format!("program {program:?}: {error}");
        let _ = rustix::io::write(&*self.words, message.as_bytes());
        Err(ExecutorError::Other(message))
    }

    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        // Called as the last thing before init says that it is ready: root and capabilities are as the program will
        // have them, and what follows is a wait on a socket and an execve, which no profile refuses. So a container
        // that is reported as created is confined, and nothing that it executes can undo that.
        let word: Word = chiton_confine::apply(&self.confinement).map_err(|error| error.to_string());
        let mut line = serde_json::to_vec(&word).unwrap_or_default();
        line.push(b'\n');
        let said = rustix::io::write(&*self.words, &line);
        match (word, said) {
            (Ok(_), Ok(_)) => Ok(()),
            (Err(message), _) => Err(ExecutorValidationError::ArgValidationError(message)),
            (_, Err(error)) => Err(ExecutorValidationError::ArgValidationError(error.to_string())),
        }
    }
}
