//! A bound on the headers of a tar stream.
//!
//! Long names and extended attributes stand before the entry that they are about, and a tar library reads each of them
//! whole before it gives the entry. Their sizes are whatever the archive says, so without a bound the other side decides
//! how much memory a reader takes. File contents are not bounded here: they are never held.

use std::cell::Cell;
use std::io::{self, Read};

/// The most bytes of all headers of one entry: a name and a link's target of the longest kind (4 KiB each), and room for
/// extended attributes (64 KiB each on Linux).
pub const LIMIT: u64 = 256 * 1024;

/// Says whether headers or contents are being read.
#[derive(Debug, Default)]
pub struct Gate(Cell<Option<u64>>);

impl Gate {
    /// From here on headers are read: at most [`LIMIT`] bytes until [`Gate::contents`].
    pub fn headers(&self) {
        self.0.set(Some(LIMIT));
    }

    /// From here on an entry's contents are read.
    pub fn contents(&self) {
        self.0.set(None);
    }
}

/// A tar stream behind a [`Gate`].
#[derive(Debug)]
pub struct Bounded<'a, R> {
    from: R,
    gate: &'a Gate,
}

impl<'a, R> Bounded<'a, R> {
    /// Puts the stream behind the gate.
    pub fn new(from: R, gate: &'a Gate) -> Self {
        Self { from, gate }
    }
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(left) = self.gate.0.get() else { return self.from.read(into) };
        if left == 0 {
            let text = format!("the headers of one entry have more than {LIMIT} bytes; shorten its name or attributes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
        let length = self.from.read(&mut into[..most])?;
        self.gate.0.set(Some(left.saturating_sub(length as u64)));
        Ok(length)
    }
}
