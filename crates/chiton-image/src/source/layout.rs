//! A folder of the OCI image layout (image specification, image-layout.md).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::{Described, describe, open_plain, read_document, verify};
use crate::error::{ImageError, Result};
use crate::manifest::{Descriptor, Document, choose};
use crate::{Digest, Layer, Limits};

/// The annotation that names an image of a layout.
const NAME: &str = "org.opencontainers.image.ref.name";

pub(crate) struct Layout<'a> {
    pub(crate) path: &'a Path,
    /// For messages.
    pub(crate) reference: &'a str,
}

impl Layout<'_> {
    pub(crate) fn describe(&self, tag: Option<&str>, limits: &Limits) -> Result<Described> {
        let marker = self.open(Path::new("oci-layout"))?;
        check_layout(&read_document(marker, "oci-layout")?)?;
        let index = read_document(self.open(Path::new("index.json"))?, "index.json")?;
        let chosen = named(&index, tag, self.reference)?;
        let manifest = read_document(self.blob(&chosen.digest)?, "the image's manifest")?;
        verify(&manifest, &chosen.digest, "the image's manifest")?;
        describe(chosen.digest, &manifest, limits, |wanted, _| {
            read_document(self.blob(&wanted.digest)?, "a document of the image")
        })
    }

    pub(crate) fn layer(&self, layer: &Layer) -> Result<File> {
        self.blob(&layer.digest)
    }

    fn blob(&self, digest: &Digest) -> Result<File> {
        self.open(&PathBuf::from("blobs/sha256").join(digest.hex()))
    }

    fn open(&self, name: &Path) -> Result<File> {
        open_plain(&self.path.join(name)).map_err(|error| match error {
            ImageError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => ImageError::Missing {
                reference: self.reference.to_owned(),
                why: format!("the folder has no {}", name.display()),
            },
            other => other,
        })
    }
}

/// Checks the marker file of a layout.
pub(crate) fn check_layout(bytes: &[u8]) -> Result<()> {
    let version = serde_json::from_slice::<serde_json::Value>(bytes)
        .ok()
        .and_then(|marker| marker.get("imageLayoutVersion").and_then(|version| version.as_str().map(str::to_owned)));
    if version.as_deref() == Some("1.0.0") {
        return Ok(());
    }
    Err(ImageError::Form { what: "oci-layout".to_owned(), why: "its version is not 1.0.0".to_owned() })
}

/// The image of this name in a layout's index; without a name, the only one.
pub(crate) fn named(index: &[u8], tag: Option<&str>, reference: &str) -> Result<Descriptor> {
    let Document::Index(all) = Document::parse(index)? else {
        return Err(ImageError::Form { what: "index.json".to_owned(), why: "it is no index".to_owned() });
    };
    let name = |found: &Descriptor| found.annotations.as_ref().and_then(|notes| notes.get(NAME)).cloned();
    let names = || {
        let names: Vec<String> = all.iter().filter_map(name).collect();
        chiton_model::printable(&names.join(", "))
    };
    let fitting: Vec<Descriptor> = match tag {
        None => all.clone(),
        Some(tag) => {
            let is = |found: &&Descriptor| {
                name(found)
                    .is_some_and(|name| name == tag || name.rsplit_once(':').is_some_and(|(_, last)| last == tag))
            };
            all.iter().filter(is).cloned().collect()
        }
    };
    match fitting.as_slice() {
        [] if tag.is_some() => Err(ImageError::Missing {
            reference: reference.to_owned(),
            why: format!("no image has this tag; there are: {}", names()),
        }),
        [] => Err(ImageError::Missing { reference: reference.to_owned(), why: "the layout holds no image".to_owned() }),
        [one] => Ok(one.clone()),
        several if tag.is_some() || several.iter().all(|found| name(found).is_none()) => choose(several).cloned(),
        _ => Err(ImageError::Reference {
            reference: reference.to_owned(),
            why: format!("it holds several images: {}", names()),
            cure: "name one of them after a colon".to_owned(),
        }),
    }
}
