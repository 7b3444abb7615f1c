//! The main process's output on disk.
//!
//! One record a piece: `<nanoseconds since 1970> <o|e> <F|P> <length> <bytes>\n`. `F` says that a newline followed the
//! bytes in the output, `P` that the piece ended without one. The length makes the format safe for any bytes. One
//! record never crosses a file; when a file is full it is renamed to `log.1` (replacing an older one) and a new one
//! begins, so that a sandbox never keeps more than two limits of disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The folder of log files in the sandbox's folder.
pub const FOLDER: &str = "log";
/// The file that is written.
pub const CURRENT: &str = "log";
/// The file before it.
pub const OLDER: &str = "log.1";

/// One piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it was read, in nanoseconds since 1970.
    pub nanos: u64,
    /// Whether it is of standard error.
    pub stderr: bool,
    /// Whether a newline followed it.
    pub full: bool,
    /// The bytes without the newline.
    pub data: &'a [u8],
}

/// What [`parse`] found at the beginning of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A record and how many bytes it took.
    Record(Record<'a>, usize),
    /// Not all of a record is there yet.
    Incomplete,
    /// The bytes are no record.
    Corrupt,
}

/// The longest header: 20 digits, three separators, two letters, 10 digits.
const HEADER_LIMIT: usize = 40;

/// The most bytes of one record: no more is read from the output at once. A header that announces more is damaged, and must
/// not hold back everything after it.
pub const LARGEST: usize = 16 * 1024;

/// Reads one record.
pub fn parse(buffer: &[u8]) -> Parsed<'_> {
    let mut start = 0;
    let mut fields = [&buffer[..0]; 4];
    for field in &mut fields {
        let rest = &buffer[start..];
        let Some(space) = rest.iter().take(HEADER_LIMIT).position(|byte| *byte == b' ') else {
            return if rest.len() < HEADER_LIMIT { Parsed::Incomplete } else { Parsed::Corrupt };
        };
        *field = &rest[..space];
        start += space + 1;
    }
    // Only as they are written: without a sign and without zeros in front.
    let number = |field: &[u8]| {
        let text = std::str::from_utf8(field).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
        text.parse::<u64>().ok().filter(|_| text == "0" || !text.starts_with('0'))
    };
    let (Some(nanos), Some(length)) = (number(fields[0]), number(fields[3])) else { return Parsed::Corrupt };
    let (b"o" | b"e", b"F" | b"P") = (fields[1], fields[2]) else { return Parsed::Corrupt };
    let Some(length) = usize::try_from(length).ok().filter(|length| *length <= LARGEST) else { return Parsed::Corrupt };
    let end = start + length;
    match buffer.get(end) {
        None => Parsed::Incomplete,
        Some(b'\n') => {
            let record =
                Record { nanos, stderr: fields[1] == b"e", full: fields[2] == b"F", data: &buffer[start..end] };
            Parsed::Record(record, end + 1)
        }
        Some(_) => Parsed::Corrupt,
    }
}

/// Writes records.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    file: File,
    size: u64,
    limit: u64,
}

impl Writer {
    /// Goes on with the log in `<sandbox>/log/`, making it when it is not there.
    pub fn open(sandbox: &Path, limit: u64) -> io::Result<Self> {
        let dir = sandbox.join(FOLDER);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let file = Self::append(&dir)?;
        let size = file.metadata()?.len();
        Ok(Self { dir, file, size, limit })
    }

    fn append(dir: &Path) -> io::Result<File> {
        OpenOptions::new().append(true).create(true).mode(0o600).open(dir.join(CURRENT))
    }

    /// Writes a piece of output as it was read. A newline at its very end belongs to the last record.
    pub fn write(&mut self, stderr: bool, data: &[u8]) -> io::Result<()> {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let mut block = Vec::with_capacity(data.len() + 64);
        let mut rest = data;
        while !rest.is_empty() {
            let (line, full, next) = match rest.iter().position(|byte| *byte == b'\n') {
                Some(at) => (&rest[..at], 'F', &rest[at + 1..]),
                None => (rest, 'P', &rest[..0]),
            };
            let stream = if stderr { 'e' } else { 'o' };
            write!(block, "{nanos} {stream} {full} {} ", line.len())?;
            block.extend_from_slice(line);
            block.push(b'\n');
            rest = next;
        }
        let length = u64::try_from(block.len()).unwrap_or(u64::MAX);
        if self.size > 0 && self.size.saturating_add(length) > self.limit {
            fs::rename(self.dir.join(CURRENT), self.dir.join(OLDER))?;
            self.file = Self::append(&self.dir)?;
            self.size = 0;
        }
        self.file.write_all(&block)?;
        self.size = self.size.saturating_add(length);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
