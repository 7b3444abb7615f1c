//! Changes of the packet filter, by the `nft` program: each script is one transaction that happens or does not.
//!
//! The script is a file, which is the program's standard input and at the same time the lock: the lock belongs to the
//! open file, so that the program holds it too. When the gateway is killed, the program still reads a whole script or
//! none, and the next gateway waits for its end before it looks at what is there.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::{program, wait};

/// How long one transaction may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// Where the program is on common systems.
const PLACES: [&str; 4] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"];

/// The program, if this machine has it.
pub(crate) fn find() -> Option<PathBuf> {
    PLACES.iter().map(PathBuf::from).find(|path| path.exists())
}

/// Runs a script. The error says what the program said.
pub(crate) fn run(file: &Path, script: &str) -> io::Result<()> {
    let program = find().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the program nft is not installed"))?;
    let mut input = lock(file)?;
    input.set_len(0)?;
    input.write_all(script.as_bytes())?;
    input.rewind()?;
    let mut command = Command::new(program);
    command.args(["-f", "-"]).env_clear().current_dir("/").stdin(Stdio::from(input));
    let ended = program::run(&mut command, PATIENCE)?;
    if ended.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("nft refused the rules ({}): {}", ended.status, ended.complaint())))
}

/// Opens the file and waits for whoever still works with it.
fn lock(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    wait::for_lock(&file, PATIENCE, "another nft of this driver does not end")?;
    Ok(file)
}
