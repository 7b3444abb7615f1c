//! The main process's output on disk.
//!
//! One record a piece: `<nanoseconds since 1970> <o|e> <F|P> <length> <bytes>\n`. `F` says that a newline followed the
//! bytes in the output, `P` that the piece ended without one. The length makes the format safe for any bytes. One
//! record never crosses a file; when a file is full it is renamed to `log.1` (replacing an older one) and a new one
//! begins, so that a sandbox never keeps more than two limits of disk.
//!
//! What was dropped is counted by where it would have been: a record of the stream `p` holds, in digits, how many bytes
//! of output came before it. Every file begins with one, and one follows where a write failed; a reader that is elsewhere
//! knows how many bytes it is missing.

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
    /// Set where it is no output: how many bytes of output came before.
    pub position: Option<u64>,
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
    let (b"o" | b"e" | b"p", b"F" | b"P") = (fields[1], fields[2]) else { return Parsed::Corrupt };
    let Some(length) = usize::try_from(length).ok().filter(|length| *length <= LARGEST) else { return Parsed::Corrupt };
    let end = start + length;
    match buffer.get(end) {
        None => Parsed::Incomplete,
        Some(b'\n') => {
            let data = &buffer[start..end];
            let position = if fields[1] == b"p" { number(data) } else { None };
            if fields[1] == b"p" && (position.is_none() || fields[2] != b"F") {
                return Parsed::Corrupt;
            }
            let record = Record { nanos, stderr: fields[1] == b"e", full: fields[2] == b"F", position, data };
            Parsed::Record(record, end + 1)
        }
        Some(_) => Parsed::Corrupt,
    }
}

/// What could not be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Bytes of output.
    pub bytes: u64,
    /// Records they would have been.
    pub records: u64,
}

/// Writes records.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    file: File,
    size: u64,
    limit: u64,
    /// How many bytes of output came before what is written next.
    position: u64,
    /// Whether that has to be said before anything else.
    unplaced: bool,
    dropped: Dropped,
}

/// Records that are written at once, and what they are of the output.
#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
    output: Dropped,
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
        let (size, position) = end(File::open(dir.join(CURRENT))?)?;
        // A record that an earlier writer did not finish would swallow the next one.
        file.set_len(size)?;
        Ok(Self { dir, file, size, limit, position, unplaced: size > 0, dropped: Dropped::default() })
    }

    fn append(dir: &Path) -> io::Result<File> {
        OpenOptions::new().append(true).create(true).mode(0o600).open(dir.join(CURRENT))
    }

    /// What could not be written since it was opened.
    pub fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// Writes a piece of output as it was read. A newline at its very end belongs to the last record. What cannot be
    /// written is counted as dropped.
    ///
    /// # Errors
    /// What the system reports about the first write that failed.
    pub fn write(&mut self, stderr: bool, data: &[u8]) -> io::Result<()> {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let stream = if stderr { 'e' } else { 'o' };
        let (mut block, mut result) = (Block::default(), Ok(()));
        let mut rest = data;
        while !rest.is_empty() {
            let (line, full, next) = match rest.iter().position(|byte| *byte == b'\n') {
                Some(at) => (&rest[..at], 'F', &rest[at + 1..]),
                None => (rest, 'P', &rest[..0]),
            };
            let header = format!("{nanos} {stream} {full} {} ", line.len());
            let length = block.bytes.len() + header.len() + line.len() + 1;
            if self.size.saturating_add(count(length)) > self.limit && self.size + count(block.bytes.len()) > 0 {
                result = result.and(self.flush(&mut block)).and_then(|()| self.rotate());
            }
            if self.unplaced {
                let digits = self.position.to_string();
                writeln!(block.bytes, "{nanos} p F {} {digits}", digits.len())?;
                self.unplaced = false;
            }
            block.bytes.extend_from_slice(header.as_bytes());
            block.bytes.extend_from_slice(line);
            block.bytes.push(b'\n');
            let taken = count(rest.len() - next.len());
            block.output.bytes += taken;
            block.output.records += 1;
            self.position = self.position.saturating_add(taken);
            rest = next;
        }
        result.and(self.flush(&mut block))
    }

    /// Writes what was collected, whole or not at all.
    fn flush(&mut self, block: &mut Block) -> io::Result<()> {
        let Block { bytes, output } = std::mem::take(block);
        let written = self.file.write_all(&bytes);
        if written.is_ok() {
            self.size = self.size.saturating_add(count(bytes.len()));
        } else {
            // A part that stays is skipped by readers up to its next newline.
            let _ = self.file.set_len(self.size);
            self.unplaced = true;
            self.dropped.bytes += output.bytes;
            self.dropped.records += output.records;
        }
        written
    }

    fn rotate(&mut self) -> io::Result<()> {
        fs::rename(self.dir.join(CURRENT), self.dir.join(OLDER))?;
        self.file = Self::append(&self.dir)?;
        self.size = 0;
        self.unplaced = true;
        Ok(())
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Where the whole records of a file end, and how many bytes of output came before that.
fn end(mut file: File) -> io::Result<(u64, u64)> {
    let (mut unread, mut size, mut position) = (Vec::new(), 0, 0_u64);
    loop {
        let mut buffer = [0; LARGEST];
        let read = io::Read::read(&mut file, &mut buffer)?;
        unread.extend_from_slice(&buffer[..read]);
        let mut taken = 0;
        loop {
            match parse(&unread[taken..]) {
                Parsed::Record(record, length) => {
                    position = record.after(position);
                    taken += length;
                }
                Parsed::Incomplete => break,
                Parsed::Corrupt => match unread[taken..].iter().position(|byte| *byte == b'\n') {
                    Some(newline) => taken += newline + 1,
                    None => break,
                },
            }
        }
        unread.drain(..taken);
        size += count(taken);
        // What is no record and does not end is no more than this.
        if read == 0 || unread.len() > 2 * LARGEST {
            return Ok((size, position));
        }
    }
}

impl Record<'_> {
    /// How many bytes of output came before what follows it, when so many came before it.
    pub fn after(&self, position: u64) -> u64 {
        self.position.unwrap_or_else(|| position + count(self.data.len()) + u64::from(self.full))
    }
}

#[cfg(test)]
mod tests;
