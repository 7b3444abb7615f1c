//! The tar format, read strictly and with bounded memory: ustar, pax (POSIX.1-2001) and GNU.
//!
//! The `tar` crate reads the header block; names and extended records are read here, because the crate keeps as much
//! of them in memory as the archive claims to have.

use std::io::{self, Read, Seek};

use tar::{EntryType, Header};

use crate::error::{Doing, ImageError, Result};

const BLOCK: usize = 512;
/// The most bytes of all name records and extended headers about one entry.
const RECORD_BYTES: u64 = 1 << 20;
/// The most parts of a sparse file.
const SPARSE_PARTS: usize = 100_000;

/// A piece of a sparse file that holds data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// One entry with everything that records before it said.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) kind: EntryType,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    /// The file's length, holes included.
    pub(crate) length: u64,
    /// Where data is; none for a file without holes.
    pub(crate) parts: Option<Vec<Part>>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) device: (u32, u32),
}

/// What stands before an entry and is about it.
#[derive(Default)]
struct Records {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A name as people can read it.
pub(crate) fn printable(name: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(name).chars().take(200).collect();
    chiton_model::printable(&text)
}

fn refuse(entry: &[u8], why: impl Into<String>) -> ImageError {
    ImageError::Entry { entry: printable(entry), why: why.into() }
}

fn malformed(why: impl Into<String>) -> ImageError {
    ImageError::Form { what: "the layer's archive".to_owned(), why: why.into() }
}

/// The entries of an archive, one after the other.
pub(crate) struct Frames<R> {
    reader: R,
    /// Bytes of the current entry that were not read yet.
    left: u64,
    /// Bytes that fill its last block.
    padding: u64,
}

impl<R: Read> Frames<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, left: 0, padding: 0 }
    }

    /// The next entry; none after the end mark, or after the end of a stream that has none.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        let mut records = Records::default();
        // Of all records about one entry: each is bounded, and there must be no end of them either.
        let mut sum = 0_u64;
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                if records.path.is_some() || records.link.is_some() || !records.pax.is_empty() {
                    return Err(malformed("it ends after a record that is about a next entry"));
                }
                return Ok(None);
            };
            let size = header.entry_size().map_err(|error| malformed(format!("an entry's size: {error}")))?;
            let about = [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader, EntryType::XGlobalHeader];
            if about.contains(&header.entry_type()) {
                // One without data takes a block all the same.
                sum = sum.saturating_add(size.max(1));
                if sum > RECORD_BYTES {
                    return Err(malformed(format!("names and extended headers of {sum} bytes about one entry")));
                }
            }
            match header.entry_type() {
                EntryType::GNULongName => records.path = Some(name(self.record(size)?)),
                EntryType::GNULongLink => records.link = Some(name(self.record(size)?)),
                EntryType::XHeader => records.pax.extend(pax(&self.record(size)?)?),
                // About the whole archive: comments and defaults that no image depends on.
                EntryType::XGlobalHeader => drop(self.record(size)?),
                _ => return self.entry(&header, records, size).map(Some),
            }
        }
    }

    /// Reads the current entry's data; nothing at its end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.reader.read(&mut buffer[..most]).doing("read the layer")?;
        if read == 0 {
            return Err(malformed("it ends in the middle of a file"));
        }
        self.left -= read as u64;
        Ok(read)
    }

    /// Reads to the end of the stream, so that its digest is complete.
    pub(crate) fn finish(mut self) -> Result<()> {
        io::copy(&mut self.reader, &mut io::sink()).doing("read the layer's end").map(drop)
    }

    /// Where the current entry's data begins.
    pub(crate) fn offset(&mut self) -> Result<u64>
    where
        R: Seek,
    {
        self.reader.stream_position().doing("find a place in the archive")
    }

    /// Passes over the current entry's data without reading it.
    pub(crate) fn jump(&mut self) -> Result<()>
    where
        R: Seek,
    {
        let rest = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        let rest = i64::try_from(rest).map_err(|_| malformed("a member that has no end"))?;
        self.reader.seek_relative(rest).doing("pass over a member of the archive")
    }

    fn skip(&mut self) -> Result<()> {
        let rest = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        let skipped = io::copy(&mut self.reader.by_ref().take(rest), &mut io::sink()).doing("read the layer")?;
        if skipped == rest { Ok(()) } else { Err(malformed("it ends in the middle of a file")) }
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.reader.read(&mut block[filled..]).doing("read the layer")? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(malformed("it ends in the middle of a block")),
                read => filled += read,
            }
        }
        Ok(Some(block))
    }

    fn header(&mut self) -> Result<Option<Header>> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum: u32 = block[..148].iter().chain(&block[156..]).map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
        match header.cksum() {
            Ok(stored) if stored == sum => Ok(Some(header)),
            _ => Err(malformed("a header's checksum is wrong")),
        }
    }

    /// A record; its size was checked.
    fn record(&mut self, size: u64) -> Result<Vec<u8>> {
        self.begin(size);
        let mut record = vec![0; usize::try_from(size).unwrap_or(0)];
        let mut filled = 0;
        while filled < record.len() {
            filled += self.read(&mut record[filled..])?;
        }
        Ok(record)
    }

    fn begin(&mut self, size: u64) {
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64).saturating_sub(size);
    }

    fn entry(&mut self, header: &Header, records: Records, size: u64) -> Result<Entry> {
        let mut entry = Entry {
            kind: header.entry_type(),
            path: records.path.unwrap_or_else(|| header.path_bytes().into_owned()),
            link: records
                .link
                .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
                .unwrap_or_default(),
            mode: header.mode().map_err(|error| malformed(format!("a mode: {error}")))?,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            length: size,
            parts: None,
            xattrs: Vec::new(),
            device: (0, 0),
        };
        let (mut uid, mut gid) = (header.uid().ok(), header.gid().ok());
        entry.mtime.0 = header.mtime().ok().and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0);
        let mut stored = size;
        let mut sparse = Vec::new();
        for (key, value) in records.pax {
            match key.as_slice() {
                b"path" => entry.path = value,
                b"linkpath" => entry.link = value,
                b"size" => stored = number(&value).ok_or_else(|| malformed("a size that is no number"))?,
                b"uid" => uid = number(&value),
                b"gid" => gid = number(&value),
                b"mtime" => entry.mtime = time(&value).ok_or_else(|| malformed("a time that is no number"))?,
                _ => match (key.strip_prefix(b"SCHILY.xattr."), key.starts_with(b"GNU.sparse.")) {
                    (Some(name), _) => entry.xattrs.push((name.to_vec(), value)),
                    (None, true) => sparse.push((key, value)),
                    (None, false) => {}
                },
            }
        }
        entry.length = stored;
        let id = |id: Option<u64>, what| {
            id.and_then(|id| u32::try_from(id).ok())
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| refuse(&entry.path, format!("its {what} is no number below 4294967295")))
        };
        (entry.uid, entry.gid) = (id(uid, "owner")?, id(gid, "group")?);
        if matches!(entry.kind, EntryType::Char | EntryType::Block) {
            let number = |number: io::Result<Option<u32>>| number.ok().flatten();
            entry.device =
                number(header.device_major()).zip(number(header.device_minor())).unwrap_or((u32::MAX, u32::MAX));
        }
        // Links, folders and the like have no data, whatever their header says; only old archives give a size.
        let holds = matches!(entry.kind, EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse);
        self.begin(if holds || entry.kind.as_byte() > b'7' { stored } else { 0 });
        if entry.kind == EntryType::GNUSparse {
            self.gnu_sparse(header, &mut entry)?;
        } else if !sparse.is_empty() {
            self.pax_sparse(&sparse, &mut entry)?;
        }
        if entry.path.contains(&0) || entry.link.contains(&0) {
            return Err(refuse(&entry.path, "its name holds a NUL byte"));
        }
        Ok(entry)
    }

    /// The old GNU form: a table in the header, continued in blocks of its own.
    fn gnu_sparse(&mut self, header: &Header, entry: &mut Entry) -> Result<()> {
        let gnu = header.as_gnu().ok_or_else(|| malformed("a sparse file in an archive that is not GNU's"))?;
        let mut parts = Vec::new();
        let mut add = |slot: &tar::GnuSparseHeader| -> Result<()> {
            if slot.is_empty() {
                return Ok(());
            }
            let part = slot.offset().and_then(|offset| Ok(Part { offset, length: slot.length()? }));
            parts.push(part.map_err(|error| malformed(format!("a sparse file's table: {error}")))?);
            if parts.len() > SPARSE_PARTS { Err(malformed("a sparse file of too many parts")) } else { Ok(()) }
        };
        gnu.sparse.iter().try_for_each(&mut add)?;
        let mut more = gnu.is_extended();
        while more {
            let block = self.block()?.ok_or_else(|| malformed("it ends in a sparse file's table"))?;
            let mut extended = tar::GnuExtSparseHeader::new();
            extended.as_mut_bytes().copy_from_slice(&block);
            extended.sparse.iter().try_for_each(&mut add)?;
            more = extended.is_extended();
        }
        let stored = entry.length;
        entry.length = gnu.real_size().map_err(|error| malformed(format!("a sparse file's length: {error}")))?;
        accept(entry, parts, stored)
    }

    /// The pax form 1.0: the table stands in text before the data, in blocks.
    fn pax_sparse(&mut self, sparse: &[(Vec<u8>, Vec<u8>)], entry: &mut Entry) -> Result<()> {
        let value = |key: &str| {
            let key = [b"GNU.sparse.", key.as_bytes()].concat();
            sparse.iter().rev().find(|(name, _)| *name == key).map(|(_, value)| value.as_slice())
        };
        if value("major") != Some(b"1") || value("minor") != Some(b"0") {
            return Err(refuse(&entry.path, "its form of sparse file is not 1.0"));
        }
        if let Some(name) = value("name") {
            entry.path = name.to_vec();
        }
        let length = value("realsize").and_then(number).ok_or_else(|| malformed("a sparse file without a length"))?;
        let mut line = || -> Result<u64> {
            let mut digits = Vec::new();
            loop {
                let mut byte = [0];
                if self.read(&mut byte)? == 0 || digits.len() > 20 {
                    return Err(malformed("a sparse file's table is no list of numbers"));
                }
                if byte[0] == b'\n' {
                    return number(&digits).ok_or_else(|| malformed("a sparse file's table is no list of numbers"));
                }
                digits.push(byte[0]);
            }
        };
        let count = line()?;
        if count > SPARSE_PARTS as u64 {
            return Err(malformed("a sparse file of too many parts"));
        }
        let mut parts = Vec::new();
        for _ in 0..count {
            parts.push(Part { offset: line()?, length: line()? });
        }
        let table = entry.length - self.left;
        let fill = table.next_multiple_of(BLOCK as u64) - table;
        let mut rest = vec![0; usize::try_from(fill).unwrap_or(0)];
        let mut filled = 0;
        while filled < rest.len() {
            match self.read(&mut rest[filled..])? {
                0 => return Err(malformed("it ends in a sparse file's table")),
                read => filled += read,
            }
        }
        let stored = self.left;
        entry.length = length;
        accept(entry, parts, stored)
    }
}

/// Takes a sparse table whose parts follow each other, fit into the file and are as long as the data.
fn accept(entry: &mut Entry, parts: Vec<Part>, stored: u64) -> Result<()> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for part in &parts {
        let after = part.offset.checked_add(part.length);
        match after {
            Some(after) if part.offset >= end && after <= entry.length => end = after,
            _ => return Err(refuse(&entry.path, "the parts of the sparse file overlap or lie outside it")),
        }
        sum += part.length;
    }
    if sum != stored {
        return Err(refuse(&entry.path, "the parts of the sparse file are not as long as its data"));
    }
    entry.kind = EntryType::Regular;
    entry.parts = Some(parts);
    Ok(())
}

/// A name record ends with a NUL byte.
fn name(mut record: Vec<u8>) -> Vec<u8> {
    if record.last() == Some(&0) {
        record.pop();
    }
    record
}

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds, perhaps negative, perhaps with a fraction.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (negative, digits) = whole.strip_prefix('-').map_or((false, whole), |digits| (true, digits));
    let seconds = i64::try_from(number(digits.as_bytes())?).ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9.9}").parse().ok()?;
    Some(match (negative, nanos) {
        (false, nanos) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, nanos) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

/// The records of an extended header: each is its own length in decimal, a space, `key=value` and a line feed.
fn pax(bytes: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let wrong = || malformed("an extended header's records do not fit their lengths");
    let mut records = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
        let length = usize::try_from(number(&rest[..space]).ok_or_else(wrong)?).map_err(|_| wrong())?;
        if length <= space + 1 || length > rest.len() || rest[length - 1] != b'\n' {
            return Err(wrong());
        }
        let record = &rest[space + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        rest = &rest[length..];
    }
    Ok(records)
}
