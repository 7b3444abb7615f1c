//! What is known of images that are here whole.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::layers::LayerRecord;
use super::{Inner, Pinned};
use crate::error::{Doing, Result};
use crate::{Cancel, Digest};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImageRecord {
    pub(super) version: u32,
    pub(super) digest: Digest,
    /// The names that it was pulled by. They may mean something else by now.
    pub(super) references: BTreeSet<String>,
    /// Chain ids, the lowest first.
    pub(super) chains: Vec<Digest>,
    /// Of all layers, unpacked.
    pub(super) bytes: u64,
}

impl ImageRecord {
    const VERSION: u32 = 1;
}

/// An image that is here whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its digest.
    pub digest: Digest,
    /// The names that it was pulled by.
    pub references: Vec<String>,
    /// Chain ids of its layers, the lowest first.
    pub chains: Vec<Digest>,
    /// Bytes of its layers, unpacked. Layers that images share count in each.
    pub bytes: u64,
    /// When it was pulled or made into a sandbox last.
    pub used: SystemTime,
}

impl Inner {
    fn record_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("images").join(format!("{}.json", digest.hex()))
    }

    pub(super) fn record(&self, image: &Pinned, chains: &[Digest]) -> Result<()> {
        let _turn = self.joins.turn(format!("image {}", image.digest), &Cancel::default())?;
        let path = self.record_path(&image.digest);
        let mut record = Self::load(&path)?.unwrap_or(ImageRecord {
            version: ImageRecord::VERSION,
            digest: image.digest,
            references: BTreeSet::new(),
            chains: chains.to_vec(),
            bytes: 0,
        });
        if !record.references.insert(image.reference.to_string()) {
            let now = SystemTime::now();
            return File::options()
                .write(true)
                .open(&path)
                .and_then(|file| file.set_modified(now))
                .doing("mark an image as used");
        }
        record.bytes = 0;
        for chain in chains {
            record.bytes += LayerRecord::load(&self.layer(chain))?.map_or(0, |layer| layer.bytes);
        }
        let text = serde_json::to_vec(&record).map_err(io::Error::from).doing("write what is known of an image")?;
        let mut file = self.temporary()?;
        file.write_all(&text).and_then(|()| file.as_file().sync_all()).doing("write what is known of an image")?;
        file.persist(&path).map_err(|error| error.error).doing("write what is known of an image")?;
        self.sync_folder("images")
    }

    /// A record that cannot be read counts as none: the image is pulled again when somebody wants it.
    fn load(path: &std::path::Path) -> Result<Option<ImageRecord>> {
        match fs::read(path) {
            Ok(bytes) => {
                let read = serde_json::from_slice::<ImageRecord>(&bytes).ok();
                Ok(read.filter(|record| record.version == ImageRecord::VERSION))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).doing("read what is known of an image"),
        }
    }

    /// All images, by name. Those with a layer that is gone are not whole, and not listed.
    pub(super) fn stored(&self) -> Result<Vec<Stored>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.dir.join("images")).doing("list the images")? {
            let path = entry.doing("list the images")?.path();
            let Some(record) = Self::load(&path)? else { continue };
            if !record.chains.iter().all(|chain| self.layer(chain).exists()) {
                continue;
            }
            let used = fs::metadata(&path).and_then(|metadata| metadata.modified()).doing("list the images")?;
            found.push(Stored {
                digest: record.digest,
                references: record.references.into_iter().collect(),
                chains: record.chains,
                bytes: record.bytes,
                used,
            });
        }
        found.sort_by(|one, other| (&one.references, one.digest).cmp(&(&other.references, other.digest)));
        Ok(found)
    }

    pub(super) fn forget(&self, digest: &Digest) -> Result<()> {
        match fs::remove_file(self.record_path(digest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).doing("forget an image"),
            _ => Ok(()),
        }
    }
}
