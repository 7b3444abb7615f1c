//! Readers that count, hash, limit and can be ended.

use std::io::{self, BufReader, Read};

use sha2::{Digest as _, Sha256};

use super::limits::Limits;
use crate::error::ImageError;
use crate::{Cancel, Digest};

/// Hashes and counts what goes through it, and ends when its work is ended.
pub(crate) struct Hashing<R> {
    inner: R,
    hash: Sha256,
    pub(crate) bytes: u64,
    cancel: Cancel,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(inner: R, cancel: Cancel) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0, cancel }
    }

    pub(crate) fn digest(self) -> Digest {
        Digest::finish(self.hash)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cancel.check()?;
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

/// How a layer is compressed, by its first bytes: media types are not always right.
enum Plain<R: Read> {
    Not(R),
    Gzip(Box<flate2::bufread::MultiGzDecoder<R>>),
    Zstd(Box<zstd::Decoder<'static, R>>),
}

/// A layer's archive, decompressed, hashed and limited.
pub(crate) struct Unpacked<R: Read> {
    plain: Plain<BufReader<Hashing<R>>>,
    hash: Sha256,
    bytes: u64,
    limits: Limits,
}

/// The largest window that a zstd layer may ask memory for, as a power of two: what its specification recommends.
const ZSTD_WINDOW: u32 = 27;

impl<R: Read> Unpacked<R> {
    pub(crate) fn new(stored: R, limits: &Limits, cancel: &Cancel) -> io::Result<Self> {
        let mut reader = BufReader::with_capacity(128 * 1024, Hashing::new(stored, cancel.clone()));
        let first = io::BufRead::fill_buf(&mut reader)?;
        let plain = if first.starts_with(&[0x1f, 0x8b]) {
            Plain::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(reader)))
        } else if is_zstd(first) {
            let mut decoder = zstd::Decoder::with_buffer(reader)?;
            decoder.window_log_max(ZSTD_WINDOW)?;
            Plain::Zstd(Box::new(decoder))
        } else {
            Plain::Not(reader)
        };
        Ok(Self { plain, hash: Sha256::new(), bytes: 0, limits: *limits })
    }

    fn stored(&self) -> u64 {
        match &self.plain {
            Plain::Not(reader) => reader.get_ref().bytes,
            Plain::Gzip(decoder) => decoder.get_ref().get_ref().bytes,
            Plain::Zstd(decoder) => decoder.get_ref().get_ref().bytes,
        }
    }

    /// Reads what is left; the digests of the layer as it is stored and as it is unpacked, and its unpacked bytes.
    pub(crate) fn finish(mut self) -> io::Result<(Digest, Digest, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        let (diff_id, bytes) = (Digest::finish(self.hash), self.bytes);
        let mut reader = match self.plain {
            Plain::Not(reader) => reader,
            Plain::Gzip(decoder) => decoder.into_inner(),
            Plain::Zstd(decoder) => decoder.finish(),
        };
        io::copy(&mut reader, &mut io::sink())?;
        Ok((reader.into_inner().digest(), diff_id, bytes))
    }
}

/// Whether these first bytes, at least four, are those of a file compressed with zstd.
pub(crate) fn is_zstd(first: &[u8]) -> bool {
    first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || is_skippable(first)
}

/// Zstandard frames that hold no data, for example an index at the front.
fn is_skippable(first: &[u8]) -> bool {
    matches!(first, [kind, 0x2a, 0x4d, 0x18, ..] if kind & 0xf0 == 0x50)
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.plain {
            Plain::Not(reader) => reader.read(buffer),
            Plain::Gzip(decoder) => decoder.read(buffer),
            Plain::Zstd(decoder) => decoder.read(buffer),
        };
        let read = read.map_err(|error| {
            if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<ImageError>) {
                return error;
            }
            let why = format!("it cannot be decompressed: {error}");
            ImageError::Form { what: "the layer".to_owned(), why }.into()
        })?;
        self.hash.update(&buffer[..read]);
        self.bytes += read as u64;
        if self.bytes > self.limits.layer_bytes {
            return Err(ImageError::TooLarge { what: "bytes in a layer", limit: self.limits.layer_bytes }.into());
        }
        if self.bytes > self.limits.ratio_from && self.bytes / self.limits.ratio.max(1) > self.stored() {
            return Err(
                ImageError::TooLarge { what: "times its stored size in a layer", limit: self.limits.ratio }.into()
            );
        }
        Ok(read)
    }
}
