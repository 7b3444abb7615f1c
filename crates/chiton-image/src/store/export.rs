//! An image of a file as a container engine loads it: an archive as `docker save` writes it, with one name.
//!
//! Only the name that the caller gives is in it, whatever names the file has, so that loading it moves nobody's tag. The
//! config goes out byte for byte: its digest is the image's id on the engine. Every byte is checked on its way; an
//! archive that turns out to be wrong ends before its manifest, without which no engine takes it for an image.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};

use serde_json::json;
use tar::{EntryType, Header};

use super::blobs::Meter;
use super::{Images, Inner, Listener, Pinned};
use crate::error::{Doing, ImageError, Result};
use crate::source::Described;
use crate::source::archive::Archive;
use crate::source::layout::Layout;
use crate::unpack::stream::{Unpacked, is_zstd};
use crate::{Cancel, Digest, Layer, Limits, Reference};

/// Where an image's layers are read from.
enum Source<'a> {
    Layout(Layout<'a>),
    Archive(Archive, Option<&'a str>),
}

impl Source<'_> {
    fn layer(&self, index: usize, layer: &Layer) -> Result<(Box<dyn Read>, u64)> {
        match self {
            Self::Layout(layout) => {
                let file = layout.layer(layer)?;
                let length = length(&file)?;
                Ok((Box::new(file), length))
            }
            Self::Archive(archive, tag) => {
                let part = archive.layer(*tag, index, layer)?;
                let length = part.limit();
                Ok((Box::new(part), length))
            }
        }
    }
}

fn length(file: &File) -> Result<u64> {
    Ok(file.metadata().doing("look at a layer")?.len())
}

impl Images {
    /// Writes an image of a layout or an archive as `docker save` does, under one name, `NAME:TAG`. Every layer is
    /// checked against its digests while it is read; layers that are compressed with zstd, which not every engine reads,
    /// are decompressed. Returns the digest of the config, which engines call the image's id. After an error what was
    /// written is no image. Blocking.
    ///
    /// # Errors
    /// What [`Images::resolve`] says; [`ImageError::Digest`] when the file no longer holds what was pinned; and whatever
    /// the writer says, as [`ImageError::Io`].
    pub fn export(
        &self,
        image: &Pinned,
        name: &str,
        out: &mut dyn Write,
        cancel: &Cancel,
        tell: Listener<'_>,
    ) -> Result<Digest> {
        self.inner.export(image, name, out, cancel, tell)
    }
}

impl Inner {
    fn export(
        &self,
        image: &Pinned,
        name: &str,
        out: &mut dyn Write,
        cancel: &Cancel,
        tell: Listener<'_>,
    ) -> Result<Digest> {
        let limits = &self.policy.limits;
        let text = image.reference.to_string();
        let (source, found) = match &image.reference {
            Reference::Layout { path, tag } => {
                let layout = Layout { path, reference: &text };
                let found = layout.describe(tag.as_deref(), limits)?;
                (Source::Layout(layout), found)
            }
            Reference::Archive { path, tag } => {
                let archive = Archive::open(path, &text)?;
                let found = archive.describe(tag.as_deref(), limits)?;
                (Source::Archive(archive, tag.as_deref()), found)
            }
            Reference::Registry { .. } => {
                return Err(ImageError::Reference {
                    reference: text,
                    why: "it is an image of a registry, and only those of files are exported".to_owned(),
                    cure: "let the engine pull it".to_owned(),
                });
            }
        };
        let Described { digest, layers, document, .. } = found;
        if digest != image.digest {
            let what = format!("the image of {text}, which was changed since it was looked at,");
            return Err(ImageError::Digest { what, wanted: image.digest, found: digest });
        }
        let config = Digest::of(&document);
        let mut out = Tar { out };
        let config_name = format!("{}.json", config.hex());
        out.document(&config_name, &document)?;
        let meter = Meter::new(tell, layers.iter().map(|layer| layer.size).sum());
        let mut written = BTreeSet::new();
        let mut names = Vec::new();
        for (index, layer) in layers.iter().enumerate() {
            let name = format!("{}/layer.tar", layer.diff_id.hex());
            names.push(name.clone());
            // The same contents twice are in the archive once.
            if written.insert(layer.diff_id) {
                out.layer(&name, &source, index, layer, limits, cancel, &meter)?;
            } else {
                meter.add(layer.size);
            }
        }
        let manifest = json!([{ "Config": config_name, "RepoTags": [name], "Layers": names }]);
        out.document("manifest.json", manifest.to_string().as_bytes())?;
        out.end()?;
        Ok(config)
    }
}

/// The archive in the making.
struct Tar<'a> {
    out: &'a mut dyn Write,
}

const DOING: &str = "hand the image over";

impl Tar<'_> {
    fn head(&mut self, name: &str, size: u64) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_path(name).doing(DOING)?;
        header.set_entry_type(EntryType::Regular);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        self.out.write_all(header.as_bytes()).doing(DOING)
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let over = usize::try_from(size % 512).unwrap_or(0);
        if over == 0 { Ok(()) } else { self.out.write_all(&[0; 512][over..]).doing(DOING) }
    }

    fn document(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.head(name, bytes.len() as u64)?;
        self.out.write_all(bytes).doing(DOING)?;
        self.pad(bytes.len() as u64)
    }

    #[expect(clippy::too_many_arguments, reason = "one layer: from where, to where, and what it is checked against")]
    fn layer(
        &mut self,
        name: &str,
        source: &Source<'_>,
        index: usize,
        layer: &Layer,
        limits: &Limits,
        cancel: &Cancel,
        meter: &Meter<'_>,
    ) -> Result<()> {
        let (mut stored, length) = source.layer(index, layer)?;
        let mut first = [0; 4];
        let begins = read_up_to(&mut stored, &mut first).doing("read a layer")?;
        let stored = (&first[..begins]).chain(stored);
        if !is_zstd(&first[..begins]) {
            self.head(name, length)?;
            let tee = Tee { inner: stored.take(length), out: &mut *self.out, meter: Some(meter), bytes: 0 };
            let mut tee = tee;
            let unpacked = Unpacked::new(&mut tee, limits, cancel).doing("read a layer")?;
            let (digest, diff_id, _) = unpacked.finish().doing("read a layer")?;
            let short = tee.bytes != length;
            check(layer, digest, diff_id)?;
            if short {
                return Err(ended_early());
            }
            return self.pad(length);
        }
        // An archive says how long a member is before it comes, so that it is decompressed twice; that costs less than
        // the room for it.
        let unpacked = Unpacked::new(stored, limits, cancel).doing("read a layer")?;
        let (digest, diff_id, bytes) = unpacked.finish().doing("read a layer")?;
        check(layer, digest, diff_id)?;
        self.head(name, bytes)?;
        let (stored, _) = source.layer(index, layer)?;
        let counted = Tee { inner: stored, out: &mut io::sink(), meter: Some(meter), bytes: 0 };
        let mut unpacked = Unpacked::new(counted, limits, cancel).doing("read a layer")?;
        let mut tee = Tee { inner: (&mut unpacked).take(bytes), out: &mut *self.out, meter: None, bytes: 0 };
        io::copy(&mut tee, &mut io::sink()).doing("read a layer")?;
        if tee.bytes != bytes {
            return Err(ended_early());
        }
        let (digest, diff_id, _) = unpacked.finish().doing("read a layer")?;
        check(layer, digest, diff_id)?;
        self.pad(bytes)
    }

    fn end(&mut self) -> Result<()> {
        self.out.write_all(&[0; 1024]).and_then(|()| self.out.flush()).doing(DOING)
    }
}

fn ended_early() -> ImageError {
    ImageError::Form { what: "a layer".to_owned(), why: "it was changed while it was read".to_owned() }
}

fn check(layer: &Layer, digest: Digest, diff_id: Digest) -> Result<()> {
    if diff_id != layer.diff_id {
        let what = "a layer, unpacked,".to_owned();
        return Err(ImageError::Digest { what, wanted: layer.diff_id, found: diff_id });
    }
    // Where a source names no digest of the stored bytes, the one of the contents stands for it.
    if digest != layer.digest && layer.digest != layer.diff_id {
        return Err(ImageError::Digest { what: "a layer".to_owned(), wanted: layer.digest, found: digest });
    }
    Ok(())
}

fn read_up_to(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match reader.read(&mut buffer[have..])? {
            0 => break,
            read => have += read,
        }
    }
    Ok(have)
}

/// Passes on what is read through it, and counts it.
struct Tee<'a, R> {
    inner: R,
    out: &'a mut dyn Write,
    meter: Option<&'a Meter<'a>>,
    bytes: u64,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        // As an error of ours it is told apart from one of what is read.
        self.out.write_all(&buffer[..read]).doing(DOING)?;
        self.bytes += read as u64;
        if let Some(meter) = self.meter {
            meter.add(read as u64);
        }
        Ok(read)
    }
}
