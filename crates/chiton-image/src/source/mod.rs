//! Where images come from.

pub(crate) mod archive;
mod challenge;
pub(crate) mod layout;
pub(crate) mod registry;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, openat};

use crate::error::{Doing, ImageError, Result};
use crate::manifest::{Config, Descriptor, Document, ImageConfig, check_layer, choose};
use crate::{Digest, Layer, Limits};

/// Opens a file that somebody else named: only a plain one, and without waiting for anybody.
pub(crate) fn open_plain(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = openat(CWD, path, flags, Mode::empty()).doing(format!("open {}", path.display()))?;
    let stat = rustix::fs::fstat(&file).doing(format!("look at {}", path.display()))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        return Ok(File::from(file));
    }
    Err(ImageError::Form { what: path.display().to_string(), why: "it is not a file".to_owned() })
}

/// Reads a document, which is small.
pub(crate) fn read_document(reader: impl Read, what: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(Limits::DOCUMENT_BYTES + 1).read_to_end(&mut bytes).doing(format!("read {what}"))?;
    if bytes.len() as u64 > Limits::DOCUMENT_BYTES {
        return Err(ImageError::TooLarge { what: "bytes in a manifest or config", limit: Limits::DOCUMENT_BYTES });
    }
    Ok(bytes)
}

/// Checks bytes against the digest that they were asked for by.
pub(crate) fn verify(bytes: &[u8], wanted: &Digest, what: &str) -> Result<()> {
    let found = Digest::of(bytes);
    if found == *wanted {
        return Ok(());
    }
    Err(ImageError::Digest { what: what.to_owned(), wanted: *wanted, found })
}

/// An image whose every byte is named by a digest.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    pub(crate) digest: Digest,
    pub(crate) layers: Vec<Layer>,
    pub(crate) config: ImageConfig,
    /// The config's bytes.
    pub(crate) document: Vec<u8>,
}

/// From a manifest or index to what it describes. `document` fetches one by its descriptor; what it returns is checked
/// here.
pub(crate) fn describe(
    digest: Digest,
    bytes: &[u8],
    limits: &Limits,
    mut document: impl FnMut(&Descriptor, bool) -> Result<Vec<u8>>,
) -> Result<Described> {
    let (mut digest, mut parsed) = (digest, Document::parse(bytes)?);
    // An index may hold an index; nobody needs more of them.
    for _ in 0..2 {
        let Document::Index(manifests) = &parsed else { break };
        let chosen = choose(manifests)?.clone();
        let bytes = document(&chosen, true)?;
        verify(&bytes, &chosen.digest, "the image's manifest")?;
        (digest, parsed) = (chosen.digest, Document::parse(&bytes)?);
    }
    let Document::Manifest { config, layers } = parsed else {
        return Err(ImageError::Form { what: "the image's index".to_owned(), why: "it is nested too deep".to_owned() });
    };
    let bytes = document(&config, false)?;
    verify(&bytes, &config.digest, "the image's config")?;
    let config = Config::parse(&bytes)?;
    layers.iter().try_for_each(check_layer)?;
    if layers.len() != config.diff_ids.len() {
        let why = format!("it names {} layers and its config {}", layers.len(), config.diff_ids.len());
        return Err(ImageError::Form { what: "the image's manifest".to_owned(), why });
    }
    let layers = layers
        .iter()
        .zip(&config.diff_ids)
        .map(|(layer, diff_id)| Layer { digest: layer.digest, size: layer.size, diff_id: *diff_id })
        .collect();
    checked(Described { digest, layers, config: config.run, document: bytes }, limits)
}

/// Checks an image against the operator's limits.
pub(crate) fn checked(image: Described, limits: &Limits) -> Result<Described> {
    if image.layers.len() > limits.layers {
        return Err(ImageError::TooLarge { what: "layers", limit: limits.layers as u64 });
    }
    let bytes = image.layers.iter().try_fold(0_u64, |sum, layer| sum.checked_add(layer.size));
    if bytes.is_none_or(|bytes| bytes > limits.image_bytes) {
        return Err(ImageError::TooLarge { what: "bytes as it is stored", limit: limits.image_bytes });
    }
    Ok(image)
}
