//! A layer of an image, as the store unpacks it on the host, and the documents around it.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use chiton_image::fuzzing::{documents, unpack};
use chiton_image::{ImageError, Limits, Policy, Reference};

use super::{Target, tars};
use crate::behaviour::{note, note_text};
use crate::check::Cage;

pub(super) const TARGET: Target = Target {
    name: "image_layer",
    about: "layers, manifests, configs and names of images",
    run,
    seeds,
    words: &[
        ".wh.",
        ".wh..wh..opq",
        "SCHILY.xattr.user.a",
        "SCHILY.xattr.trusted.overlay.opaque",
        "GNU.sparse.major",
        "GNU.sparse.minor",
        "GNU.sparse.name",
        "GNU.sparse.realsize",
        "path",
        "linkpath",
        "size",
        "uid",
        "mtime",
        "../",
        "registry.example/a:1",
        "@sha256:",
        "schemaVersion",
        "diff_ids",
    ],
    longest: 32 << 10,
    short: 500,
    // The buffers of reader and copy, and a record of at most 1 MiB.
    memory: (8, 3 << 20),
};

/// The most that a layer may have here.
const LIMITS: Limits =
    Limits { layers: 8, entries: 200, layer_bytes: 4 << 20, image_bytes: 4 << 20, ratio: 1000, ratio_from: 1 << 20 };

fn seeds() -> Vec<Vec<u8>> {
    let whiteouts = [".wh.gone", "d/.wh..wh..opq", ".wh.", ".wh...", ".wh.d/x"]
        .map(|name| tars::entry(tar::EntryType::Regular, name.as_bytes(), b"", 0o6755, b""));
    let text = br#"{"schemaVersion":2,"config":{"digest":"sha256:00","size":1},"layers":[]}"#.to_vec();
    let mut seeds: Vec<Vec<u8>> = tars::archives().into_iter().map(|archive| [vec![1], archive].concat()).collect();
    seeds.extend(whiteouts.into_iter().map(|entry| [vec![1], entry, vec![0; 1024]].concat()));
    seeds.push([vec![2], text].concat());
    seeds.push([vec![2], b"registry.example:5000/team/app:1@sha256:00".to_vec()].concat());
    seeds
}

fn run(data: &[u8]) {
    let Some((flags, rest)) = data.split_first() else { return };
    if flags & 2 != 0 {
        note(documents(rest));
        names(rest);
        return;
    }
    let mut archive = rest.to_vec();
    if flags & 1 != 0 {
        tars::repair(&mut archive);
    }
    let cage = Cage::new();
    let result = unpack(&cage.inside(), &archive, &LIMITS);
    cage.closed();
    for path in cage.found() {
        let found = fs::symlink_metadata(&path).expect("it is there");
        let kind = found.file_type();
        let whiteout = kind.is_char_device() && found.rdev() == 0;
        let plain = kind.is_file() || kind.is_dir() || kind.is_symlink() || kind.is_fifo();
        assert!(plain || whiteout, "{} is something else", path.display());
        assert!(!kind.is_file() || found.mode() & 0o6000 == 0, "{} changes who runs it", path.display());
        let name = path.file_name().expect("it has a name").to_string_lossy();
        assert!(!name.starts_with(".wh.") || kind.is_symlink(), "the mark {name:?} is there as a file");
        assert!(!kind.is_file() || found.len() <= LIMITS.layer_bytes, "{} grew", path.display());
    }
    match result {
        Ok((entries, bytes)) => {
            note(("unpacked", entries.min(8)));
            assert!(entries <= LIMITS.entries && bytes <= LIMITS.layer_bytes);
        }
        Err(error) => {
            note_text(error.to_string().rsplit(':').next().unwrap_or_default());
            let ours = matches!(&error, ImageError::Io { source, .. } if source.raw_os_error().is_some());
            assert!(!ours, "the archive made a fault of ours: {error}");
        }
    }
}

/// A name that is taken is written as one that means the same.
fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let policy = Policy { default_registry: Some("registry.example".to_owned()), ..Policy::default() };
    if let Ok(reference) = Reference::parse(text, &policy) {
        note("name");
        let again = Reference::parse(&reference.to_string(), &Policy::default());
        assert_eq!(again.expect("what we wrote can be read"), reference);
    }
}
