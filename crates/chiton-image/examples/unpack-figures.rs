//! How fast a layer of 200 MB is unpacked: `cargo run --release -p chiton-image --example unpack-figures [FOLDER]`.

use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chiton_image::{Cancel, Digest, Images, Owner, Policy};
use serde_json::json;

/// Files of the layer, and the bytes of each: 200 MB, as a distribution's are.
const FILES: usize = 10_000;
const BYTES: usize = 20_000;

fn main() -> Result<(), Box<dyn Error>> {
    let base = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::Builder::new().prefix("unpack-figures-").tempdir_in(base)?;
    let tar = archive()?;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&tar)?;
    for (name, stored) in [("plain", tar.clone()), ("gzip", gzip.finish()?), ("zstd", zstd::encode_all(&tar[..], 3)?)] {
        let layout = folder.path().join(name);
        write(&layout, &tar, &stored)?;
        let owner = if rustix::process::geteuid().is_root() { Owner::Keep } else { Owner::Single };
        let images = Images::open(&folder.path().join(format!("store-{name}")), Policy { owner, ..Policy::default() })?;
        let (image, _) = images.resolve(&format!("oci:{}", layout.display()), Duration::from_secs(10))?;
        let begin = Instant::now();
        images.ensure(&image, &Cancel::default(), &|_| ())?;
        let took = begin.elapsed();
        println!(
            "{}",
            json!({ "form": name, "stored": stored.len(), "unpacked": tar.len(), "files": FILES, "ms": took.as_millis() })
        );
    }
    Ok(())
}

/// Text-like bytes: a third of their size when they are compressed.
fn archive() -> Result<Vec<u8>, Box<dyn Error>> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut state = 1_u64;
    for index in 0..FILES {
        let data: Vec<u8> = (0..BYTES)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                b"etaoin shrdlu\n.,"[usize::try_from(state >> 60).unwrap_or(0)]
            })
            .collect();
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_cksum();
        builder.append_data(&mut header, format!("usr/share/d{}/f{index}", index % 100), &data[..])?;
    }
    Ok(builder.into_inner()?)
}

fn write(layout: &Path, tar: &[u8], stored: &[u8]) -> Result<(), Box<dyn Error>> {
    let architecture = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture, "os": "linux", "rootfs": { "type": "layers", "diff_ids": [Digest::of(tar)] },
    });
    let config = config.to_string();
    let manifest = json!({
        "schemaVersion": 2, "config": { "digest": Digest::of(config.as_bytes()), "size": config.len() },
        "layers": [{ "digest": Digest::of(stored), "size": stored.len() }],
    });
    let manifest = manifest.to_string();
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    for blob in [config.as_bytes(), manifest.as_bytes(), stored] {
        fs::write(blobs.join(Digest::of(blob).hex()), blob)?;
    }
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = json!({ "schemaVersion": 2, "manifests": [{ "digest": Digest::of(manifest.as_bytes()), "size": manifest.len() }] });
    fs::write(layout.join("index.json"), index.to_string())?;
    Ok(())
}
