//! The container itself, by libcontainer, on a stage that is ready.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::notify_socket::{NOTIFY_FILE, NotifySocket};
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::{Value, json};

use super::stage::{BUNDLE, ROOT, STATE};
use super::{LaunchError, Step};
use crate::network::join::{self, NetworkDocument};
use crate::sys;

/// A created container.
pub(super) struct Created {
    id: String,
    pid: i32,
    executed: File,
}

/// Makes the container, up to its init waiting for the order to execute the main process.
pub(super) fn create(id: &str, mut spec: Value, network: &NetworkDocument) -> Result<Created, LaunchError> {
    if let Some(root) = spec.get_mut("root") {
        root["path"] = json!(ROOT);
    }
    fs::write(Path::new(BUNDLE).join("config.json"), spec.to_string()).step("write the specification")?;
    // Closed by the kernel at the moment of a successful execve: end of file without a byte means that it runs.
    let (executed, failure) = pipe_with(PipeFlags::CLOEXEC).step("make a pipe")?;
    let container = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_executor(Execute { failure: Arc::new(failure) })
        .with_stdin(File::open("/dev/null").step("open /dev/null")?)
        .with_root_path(STATE)
        .step("set the state folder")?
        .as_init(BUNDLE)
        .with_systemd(false)
        .build()
        .step("create the container")?;
    let pid = container
        .pid()
        .ok_or_else(|| LaunchError { step: "create the container", message: "it has no init".to_owned() })?
        .as_raw();
    join::join(pid, network).step("join the network")?;
    Ok(Created { id: id.to_owned(), pid, executed: File::from(executed) })
}

impl Created {
    /// Init's process id.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// Executes the main process; returns when it was executed or could not be.
    pub(super) fn start(&mut self) -> Result<(), LaunchError> {
        NotifySocket::new(Path::new(STATE).join(&self.id).join(NOTIFY_FILE))
            .notify_container_start()
            .step("start the container")?;
        let mut message = String::new();
        self.executed.read_to_string(&mut message).step("wait for the main process")?;
        if message.is_empty() { Ok(()) } else { Err(LaunchError { step: "execute the main process", message }) }
    }
}

/// Executes the main process and tells the launch child when it cannot.
#[derive(Clone)]
struct Execute {
    failure: Arc<OwnedFd>,
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
        let _ = rustix::io::write(&*self.failure, message.as_bytes());
        Err(ExecutorError::Other(message))
    }

    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        // The attempt to execute is the check, and its answer is reported.
        Ok(())
    }
}
