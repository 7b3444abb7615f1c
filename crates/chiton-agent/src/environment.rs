//! Taking a secret out of the environment that the process was started with.
//!
//! The kernel shows that environment as `/proc/<pid>/environ` for as long as the process lives, whatever the process does
//! with its variables: what it shows are the bytes on the first pages of the stack. They are overwritten by way of
//! `/proc/self/mem`, which needs no unsafe code.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;

/// Overwrites every occurrence of the secret in the environment that the process was started with. A variable of which it
/// is the value stays, with as many asterisks.
///
/// # Errors
/// What the kernel reports about `/proc/self`; without it the secret stays where it is.
pub(crate) fn forget(secret: &[u8]) -> io::Result<()> {
    if secret.is_empty() {
        return Ok(());
    }
    let (begin, length) = place(&fs::read_to_string("/proc/self/stat")?).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "/proc/self/stat does not say where the environment is")
    })?;
    let memory = OpenOptions::new().read(true).write(true).open("/proc/self/mem")?;
    let mut bytes = vec![0; length];
    memory.read_exact_at(&mut bytes, begin)?;
    let stars = vec![b'*'; secret.len()];
    let mut from = 0;
    while let Some(found) = bytes[from..].windows(secret.len()).position(|window| window == secret) {
        from += found;
        // An offset in a buffer of the kernel's size fits.
        memory.write_all_at(&stars, begin + from as u64)?;
        from += secret.len();
    }
    Ok(())
}

/// Where the environment begins and how long it is: fields 50 and 51 of the line, counted from 1 (`proc_pid_stat(5)`).
fn place(stat: &str) -> Option<(u64, usize)> {
    // The name in brackets may hold anything, also brackets; what follows it begins with field 3.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().skip(47);
    let begin: u64 = fields.next()?.parse().ok()?;
    let end: u64 = fields.next()?.parse().ok()?;
    Some((begin, usize::try_from(end.checked_sub(begin)?).ok()?))
}

#[cfg(test)]
mod tests;
