//! Small files that are there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Puts a file with these bytes and mode 0600 in the place of what is there; the folder is made when it is not there. After
/// a crash or a power loss it is the old one or the new one. One writer at a time: the new one is written as
/// `<path>.new` first, which a crash may leave and the next call replaces.
///
/// # Errors
/// What the file system says; the old file stays then.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    // The name, too, is to be on disk.
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests;
