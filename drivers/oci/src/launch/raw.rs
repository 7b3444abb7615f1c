//! The container library alone, as a measure: what a create and start cost without this driver.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use serde_json::json;

/// How long the container library took.
#[derive(Clone, Copy, Debug)]
pub struct RawTiming {
    /// Until the container's init waited.
    pub create: Duration,
    /// From there until the library's start returned.
    pub start: Duration,
}

/// Creates, starts and (untimed) deletes a container with the library's own cgroup handling and nothing of ours. To be
/// called in a single-threaded process; `bundle` holds `config.json` and the root that it names, `state` is a folder
/// for the library, and `id` must be safe as a file name.
pub fn raw_create_start(bundle: &Path, state: &Path, id: &str) -> Result<RawTiming, LibcontainerError> {
    let begin = Instant::now();
    let mut container = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(state)?
        .validate_id()?
        .as_init(bundle)
        .with_systemd(false)
        .build()?;
    let create = begin.elapsed();
    let begin = Instant::now();
    container.start()?;
    let start = begin.elapsed();
    container.delete(true)?;
    Ok(RawTiming { create, start })
}

pub(super) fn main(bundle: &Path, state: &Path, id: &str) -> ExitCode {
    match raw_create_start(bundle, state, id) {
        Ok(timing) => {
            let line = json!({ "create_us": timing.create.as_micros(), "start_us": timing.start.as_micros() });
            match io::Write::write_all(&mut io::stdout(), format!("{line}\n").as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            eprintln!("the container library failed: {error}");
            ExitCode::FAILURE
        }
    }
}
