//! A tar file that holds images: as `docker save` writes it, or an OCI layout in an archive.
//!
//! The file is scanned once for where each member is; nothing of it is unpacked.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Take};
use std::path::Path;

use serde::Deserialize;
use tar::EntryType;

use super::{Described, checked, describe, open_plain, read_document, verify};
use crate::error::{Doing, ImageError, Result};
use crate::manifest::Config;
use crate::source::layout::{check_layout, named};
use crate::unpack::frame::Frames;
use crate::{Digest, Layer, Limits};

/// The most members; images have a few for each layer.
const MEMBERS: usize = 10_000;

/// The most bytes of a member's name, as for names of files (`PATH_MAX`): all of them are kept.
const NAME: usize = 4096;

/// Where a member's bytes are.
#[derive(Clone, Debug)]
enum Member {
    Data {
        offset: u64,
        length: u64,
    },
    /// Old writers store a layer that occurs twice as a link.
    Link(String),
}

pub(crate) struct Archive {
    file: File,
    members: BTreeMap<String, Member>,
    reference: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Archive {
    pub(crate) fn open(path: &Path, reference: &str) -> Result<Self> {
        let file = open_plain(path)?;
        let mut frames = Frames::new(&file);
        let mut members = BTreeMap::new();
        while let Some(entry) = frames.next()? {
            if members.len() > MEMBERS {
                return Err(ImageError::TooLarge { what: "members in an archive", limit: MEMBERS as u64 });
            }
            if entry.path.len().max(entry.link.len()) > NAME {
                return Err(ImageError::TooLarge {
                    what: "bytes in the name of an archive's member",
                    limit: NAME as u64,
                });
            }
            let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_start_matches("./").to_owned();
            let member = match entry.kind {
                EntryType::Regular if entry.parts.is_none() => {
                    Member::Data { offset: frames.offset()?, length: entry.length }
                }
                EntryType::Symlink => {
                    let base = name(&entry.path);
                    let folder = base.rsplit_once('/').map_or("", |(folder, _)| folder);
                    Member::Link(join(folder, &name(&entry.link)))
                }
                EntryType::Link => Member::Link(name(&entry.link)),
                _ => continue,
            };
            members.insert(name(&entry.path), member);
            frames.jump()?;
        }
        Ok(Self { file, members, reference: reference.to_owned() })
    }

    pub(crate) fn describe(&self, tag: Option<&str>, limits: &Limits) -> Result<Described> {
        if self.members.contains_key("oci-layout") && self.members.contains_key("index.json") {
            check_layout(&self.document("oci-layout")?)?;
            let chosen = named(&self.document("index.json")?, tag, &self.reference)?;
            let manifest = self.document(&blob(&chosen.digest))?;
            verify(&manifest, &chosen.digest, "the image's manifest")?;
            return describe(chosen.digest, &manifest, limits, |wanted, _| self.document(&blob(&wanted.digest)));
        }
        let saved = self.saved(tag)?;
        let bytes = self.document(&saved.config)?;
        let config = Config::parse(&bytes)?;
        if saved.layers.len() != config.diff_ids.len() {
            let why = format!("it names {} layers and its config {}", saved.layers.len(), config.diff_ids.len());
            return Err(ImageError::Form { what: "manifest.json".to_owned(), why });
        }
        let layers = saved.layers.iter().zip(&config.diff_ids).map(|(name, diff_id)| {
            let (_, size) = self.find(name)?;
            // This form names no digest of the layer as it is stored; the one of its contents says as much.
            Ok(Layer { digest: *diff_id, size, diff_id: *diff_id })
        });
        let layers = layers.collect::<Result<_>>()?;
        checked(Described { digest: Digest::of(&bytes), layers, config: config.run, document: bytes }, limits)
    }

    /// The bytes of a layer as they are stored.
    pub(crate) fn layer(&self, tag: Option<&str>, index: usize, layer: &Layer) -> Result<Take<File>> {
        if self.members.contains_key("oci-layout") {
            return self.read(&blob(&layer.digest));
        }
        let saved = self.saved(tag)?;
        let name = saved.layers.get(index).ok_or_else(|| self.missing("a layer"))?;
        self.read(name)
    }

    fn saved(&self, tag: Option<&str>) -> Result<Saved> {
        let bytes = self.document("manifest.json")?;
        let all: Vec<Saved> = serde_json::from_slice(&bytes).map_err(|error| ImageError::Form {
            what: "manifest.json".to_owned(),
            why: chiton_model::printable(&error.to_string()),
        })?;
        let tags: Vec<String> = all.iter().flat_map(|saved| saved.repo_tags.iter().flatten().cloned()).collect();
        let several = all.len() > 1;
        let is = |saved: &Saved| match tag {
            None => true,
            Some(tag) => {
                saved.repo_tags.iter().flatten().any(|name| name.rsplit_once(':').is_some_and(|(_, last)| last == tag))
            }
        };
        let mut fitting = all.into_iter().filter(is);
        match (fitting.next(), fitting.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => Err(self.missing(&format!("an image with this tag (there are: {})", tags.join(", ")))),
            (Some(_), Some(_)) => Err(ImageError::Reference {
                reference: self.reference.clone(),
                why: format!("it holds {} images: {}", if several { "several" } else { "no such" }, tags.join(", ")),
                cure: "name the tag of one of them after a colon".to_owned(),
            }),
        }
    }

    fn missing(&self, what: &str) -> ImageError {
        ImageError::Missing {
            reference: self.reference.clone(),
            why: chiton_model::printable(&format!("the archive has no {what}")),
        }
    }

    fn find(&self, name: &str) -> Result<(u64, u64)> {
        let mut name = name.to_owned();
        for _ in 0..4 {
            match self.members.get(name.trim_start_matches("./")) {
                Some(Member::Data { offset, length }) => return Ok((*offset, *length)),
                Some(Member::Link(target)) => name.clone_from(target),
                None => break,
            }
        }
        Err(self.missing(&name))
    }

    fn read(&self, name: &str) -> Result<Take<File>> {
        let (offset, length) = self.find(name)?;
        // A description of its own: several layers may be read at once.
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.file));
        let mut file = File::open(path).doing("open the archive anew")?;
        file.seek(SeekFrom::Start(offset)).doing("find a member of the archive")?;
        Ok(file.take(length))
    }

    fn document(&self, name: &str) -> Result<Vec<u8>> {
        read_document(self.read(name)?, name)
    }
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A relative link of a member, resolved in the archive's own name space.
fn join(folder: &str, link: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
