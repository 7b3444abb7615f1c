//! What the fuzz targets call of the command line.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chiton_model::Error;
use jiff::Timestamp;

/// `K=V`.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    crate::parse::key_value(text)
}

/// `5s`, `1m30s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    crate::parse::duration(text)
}

/// A time, or how long ago.
pub fn since(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    crate::parse::since(text, now)
}

/// One side of a copy: the sandbox's name, if it is in one, and the path.
pub fn side(text: &str) -> Result<(Option<String>, PathBuf), String> {
    crate::parse::remote_or_local(text).map(|side| match side {
        crate::parse::Side::Local(path) => (None, path),
        crate::parse::Side::Remote { name, path } => (Some(name), path.into()),
    })
}

/// Unpacks what a sandbox sent below a folder.
pub fn unpack(archive: &mut impl Read, root: &Path, top: Option<&OsStr>) -> Result<Vec<(PathBuf, u32)>, Error> {
    crate::commands::unpack_archive(archive, root, top)
}

/// The command line's form.
pub fn command() -> clap::Command {
    <crate::cli::Cli as clap::CommandFactory>::command()
}
