//! Layers and images made byte by byte, so that the hostile ones can be made too.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use chiton_image::Digest;
use serde_json::{Value, json};
use tar::{EntryType, Header};

pub(crate) fn architecture() -> &'static str {
    if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" }
}

/// One layer in the making. Names are written as they are, whatever they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layer {
    bytes: Vec<u8>,
}

pub(crate) struct Meta {
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: u64,
}

impl Default for Meta {
    fn default() -> Self {
        Self { mode: 0o644, uid: 0, gid: 0, mtime: 1_000_000_000 }
    }
}

impl Layer {
    pub(crate) fn raw(mut self, header: &Header, data: &[u8]) -> Self {
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn entry(self, kind: EntryType, name: &[u8], link: &[u8], data: &[u8], meta: &Meta) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(meta.mode);
        header.set_uid(meta.uid);
        header.set_gid(meta.gid);
        header.set_mtime(meta.mtime);
        header.set_size(data.len() as u64);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            let (major, minor) = if data.is_empty() { (0, 0) } else { (1, 5) };
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
            header.set_size(0);
        }
        let mut layer = self;
        for (kind, text, field) in [(b'L', name, 0_usize), (b'K', link, 157)] {
            if text.len() > 100 {
                let mut long = Header::new_gnu();
                long.set_entry_type(EntryType::new(kind));
                long.set_size(text.len() as u64 + 1);
                long.set_mode(0);
                long.set_cksum();
                layer = layer.raw(&long, &[text, b"\0"].concat());
            }
            let short = &text[..text.len().min(100)];
            header.as_mut_bytes()[field..field + short.len()].copy_from_slice(short);
        }
        header.set_cksum();
        let data = if matches!(kind, EntryType::Char | EntryType::Block) { &[] } else { data };
        layer.raw(&header, data)
    }

    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        self.entry(EntryType::Regular, name.as_bytes(), b"", data, &Meta::default())
    }

    pub(crate) fn owned(self, name: &str, data: &[u8], meta: &Meta) -> Self {
        self.entry(EntryType::Regular, name.as_bytes(), b"", data, meta)
    }

    pub(crate) fn folder(self, name: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, name.as_bytes(), b"", b"", &Meta { mode, ..Meta::default() })
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name.as_bytes(), target.as_bytes(), b"", &Meta::default())
    }

    pub(crate) fn hard(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name.as_bytes(), target.as_bytes(), b"", &Meta::default())
    }

    pub(crate) fn special(self, kind: EntryType, name: &str, device: bool) -> Self {
        self.entry(kind, name.as_bytes(), b"", if device { b"x" } else { b"" }, &Meta::default())
    }

    /// An extended header about the next entry.
    pub(crate) fn pax(self, records: &[(&[u8], &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length.to_string().len() + rest != length {
                length = length.to_string().len() + rest;
            }
            data.extend([format!("{length} ").as_bytes(), key, b"=", value, b"\n"].concat());
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.raw(&header, &data)
    }

    /// The archive with its end mark.
    pub(crate) fn tar(&self) -> Vec<u8> {
        [self.bytes.as_slice(), &[0; 1024]].concat()
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

pub(crate) fn pack(tar: &[u8], packing: Packing) -> Vec<u8> {
    match packing {
        Packing::Plain => tar.to_vec(),
        Packing::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(tar).unwrap();
            encoder.finish().unwrap()
        }
        Packing::Zstd => zstd::encode_all(tar, 1).unwrap(),
    }
}

fn media_type(packing: Packing) -> &'static str {
    match packing {
        Packing::Plain => "application/vnd.oci.image.layer.v1.tar",
        Packing::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Packing::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    }
}

/// All documents and blobs of one image.
pub(crate) struct Image {
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) blobs: Vec<Vec<u8>>,
}

pub(crate) fn image(layers: &[(Layer, Packing)], run: &Value) -> Image {
    let tars: Vec<Vec<u8>> = layers.iter().map(|(layer, _)| layer.tar()).collect();
    let diff_ids: Vec<String> = tars.iter().map(|tar| Digest::of(tar).to_string()).collect();
    let config = json!({
        "architecture": architecture(), "os": "linux", "config": run,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = config.to_string().into_bytes();
    let blobs: Vec<Vec<u8>> = tars.iter().zip(layers).map(|(tar, (_, packing))| pack(tar, *packing)).collect();
    let described: Vec<Value> = blobs
        .iter()
        .zip(layers)
        .map(|(blob, (_, packing))| json!({ "mediaType": media_type(*packing), "digest": Digest::of(blob), "size": blob.len() }))
        .collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(&config), "size": config.len() },
        "layers": described,
    });
    Image { manifest: manifest.to_string().into_bytes(), config, blobs }
}

impl Image {
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// Writes it as a layout with one tag.
    pub(crate) fn layout(&self, folder: &Path, tag: &str) -> PathBuf {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        for blob in self.blobs.iter().chain([&self.manifest, &self.config]) {
            fs::write(blobs.join(Digest::of(blob).hex()), blob).unwrap();
        }
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let index = json!({ "schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": self.digest(), "size": self.manifest.len(),
            "annotations": { "org.opencontainers.image.ref.name": tag },
        }] });
        fs::write(folder.join("index.json"), index.to_string()).unwrap();
        folder.to_owned()
    }

    /// Writes it as `docker save` does; a layer that occurs twice becomes a link, as old versions had it.
    pub(crate) fn saved(&self, file: &Path, name: &str) {
        let mut archive = Layer::default();
        let config = format!("{}.json", Digest::of(&self.config).hex());
        archive = archive.file(&config, &self.config);
        let mut names = Vec::new();
        for (index, blob) in self.blobs.iter().enumerate() {
            let folder = format!("{index:064}");
            let path = format!("{folder}/layer.tar");
            archive = archive.folder(&folder, 0o755);
            archive = match self.blobs[..index].iter().position(|earlier| earlier == blob) {
                Some(earlier) => archive.link(&path, &format!("../{earlier:064}/layer.tar")),
                None => archive.file(&path, blob),
            };
            names.push(path);
        }
        let manifest = json!([{ "Config": config, "RepoTags": [name], "Layers": names }]);
        archive = archive.file("manifest.json", manifest.to_string().as_bytes());
        fs::write(file, archive.tar()).unwrap();
    }
}

impl Layer {
    /// The entries of another layer after these.
    pub(crate) fn append(mut self, other: &Self) -> Self {
        self.bytes.extend_from_slice(&other.bytes);
        self
    }
}
