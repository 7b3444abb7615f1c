//! What engines are handed: an archive that is the same image, under one name, or none.

use std::fs;
use std::io;
use std::path::Path;

use chiton_image::{Cancel, Digest, ImageError, Images, Limits, Pinned, Progress};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::build::{Image, Layer, Packing, image};
use crate::common::{PATIENCE, World};

const NAME: &str = "engine.test/image:1";

fn export(images: &Images, pinned: &Pinned) -> Result<(Digest, Vec<u8>), ImageError> {
    let mut out = Vec::new();
    let config = images.export(pinned, NAME, &mut out, &Cancel::default(), &|_| ())?;
    Ok((config, out))
}

fn resolve(images: &Images, kind: &str, path: &Path) -> Pinned {
    images.resolve(&format!("{kind}:{}", path.display()), PATIENCE).unwrap().0
}

/// The members of an archive by name, read by another reader than ours.
fn members(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(bytes);
    let read = |mut entry: tar::Entry<'_, &[u8]>| {
        let name = entry.path().unwrap().display().to_string();
        let mut data = Vec::new();
        io::Read::read_to_end(&mut entry, &mut data).unwrap();
        (name, data)
    };
    archive.entries().unwrap().map(|entry| read(entry.unwrap())).collect()
}

fn three() -> Image {
    let layers = [
        (Layer::default().file("one", &[7; 9_000]), Packing::Gzip),
        (Layer::default().file("two", b"2"), Packing::Zstd),
        (Layer::default().file("three", b"3"), Packing::Plain),
    ];
    image(&layers, &json!({ "User": "7", "Env": ["A=b"] }))
}

#[test]
fn an_export_is_the_same_image_under_one_name_and_holds_no_zstd() {
    let world = World::new();
    let images = world.images();
    let made = three();
    let pinned = resolve(&images, "oci", &made.layout(&world.path("layout"), "1"));
    let told = std::sync::Mutex::new(Vec::new());
    let mut out = Vec::new();
    let tell = |progress| told.lock().unwrap().push(progress);
    let config = images.export(&pinned, NAME, &mut out, &Cancel::default(), &tell).unwrap();
    assert_eq!(config, Digest::of(&made.config));
    let of: u64 = made.blobs.iter().map(|blob| blob.len() as u64).sum();
    assert_eq!(told.into_inner().unwrap().last(), Some(&Progress::Fetched { bytes: of, of }));

    let found = members(&out);
    let last = found.last().unwrap();
    assert_eq!(last.0, "manifest.json", "nothing is an image before its end");
    let manifest: Value = serde_json::from_slice(&last.1).unwrap();
    assert_eq!(manifest[0]["RepoTags"], json!([NAME]));
    assert_eq!(manifest.as_array().unwrap().len(), 1);
    let data = |name: &str| found.iter().find(|(found, _)| found == name).unwrap().1.clone();
    assert_eq!(data(manifest[0]["Config"].as_str().unwrap()), made.config);
    let layers: Vec<Vec<u8>> =
        manifest[0]["Layers"].as_array().unwrap().iter().map(|name| data(name.as_str().unwrap())).collect();
    assert_eq!(layers[0], made.blobs[0], "a gzip layer goes out as it is stored");
    assert_eq!(layers[1], zstd::decode_all(made.blobs[1].as_slice()).unwrap());
    assert_eq!(layers[2], made.blobs[2]);
}

#[test]
fn names_of_the_file_go_nowhere_and_a_layer_that_occurs_twice_goes_once() {
    let world = World::new();
    let images = world.images();
    let same = Layer::default().file("same", &[1; 4_000]);
    let base = (Layer::default().file("base", b"b"), Packing::Plain);
    let made = image(&[base, (same.clone(), Packing::Plain), (same, Packing::Plain)], &json!({}));
    let file = world.path("saved.tar");
    made.saved(&file, "somebody.example/elses:latest");
    let pinned = resolve(&images, "tar", &file);
    let (config, bytes) = export(&images, &pinned).unwrap();
    assert_eq!(config, pinned.digest);
    assert!(!String::from_utf8_lossy(&bytes).contains("somebody.example"));
    assert_eq!(members(&bytes).len(), 4, "config, two layers, manifest");
}

#[test]
fn what_is_wrong_in_the_file_ends_the_export_before_its_manifest() {
    let world = World::new();
    let images = world.images();
    for (index, what) in ["gzip", "zstd", "plain"].into_iter().enumerate() {
        let made = three();
        let layout = made.layout(&world.path(what), "1");
        let pinned = resolve(&images, "oci", &layout);
        // As long as it was, and of another form than its digest says.
        let blob = layout.join("blobs/sha256").join(Digest::of(&made.blobs[index]).hex());
        let mut bytes = fs::read(&blob).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x55;
        fs::write(&blob, &bytes).unwrap();
        let mut out = Vec::new();
        let error = images.export(&pinned, NAME, &mut out, &Cancel::default(), &|_| ()).unwrap_err();
        assert!(matches!(error, ImageError::Digest { .. } | ImageError::Form { .. }), "{what}: {error:?}");
        assert!(!String::from_utf8_lossy(&out).contains("manifest.json"), "{what}");
        // Cut short, or with something behind its end.
        for length in [bytes.len() - 3, bytes.len() + 3] {
            let mut other = made.blobs[index].clone();
            other.resize(length, 0);
            fs::write(&blob, other).unwrap();
            let error = export(&images, &pinned).unwrap_err();
            assert!(matches!(error, ImageError::Digest { .. } | ImageError::Form { .. }), "{what}: {error:?}");
        }
    }
}

#[test]
fn a_file_that_holds_another_image_by_now_is_not_exported() {
    let world = World::new();
    let images = world.images();
    let file = world.path("saved.tar");
    three().saved(&file, "a:1");
    let pinned = resolve(&images, "tar", &file);
    image(&[(Layer::default().file("other", b""), Packing::Plain)], &json!({})).saved(&file, "a:1");
    let error = export(&images, &pinned).unwrap_err();
    assert!(matches!(error, ImageError::Digest { wanted, .. } if wanted == pinned.digest), "{error:?}");
    let error = chiton_model::Error::from(error);
    assert!(error.message.contains("changed since"), "{error:?}");
}

#[test]
fn a_layer_larger_than_the_operator_allows_ends_the_export() {
    let world = World::new();
    let made = image(&[(Layer::default().file("zeroes", &vec![0; 300_000]), Packing::Zstd)], &json!({}));
    let layout = made.layout(&world.path("layout"), "1");
    let images = world.with(Limits { layer_bytes: 100_000, ..Limits::default() });
    let error = export(&images, &resolve(&images, "oci", &layout)).unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { limit: 100_000, .. }), "{error:?}");
}

/// Somebody who stops listening.
struct Deaf(usize);

impl io::Write for Deaf {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_export_ends_with_its_reader_and_when_it_is_told_to() {
    let world = World::new();
    let images = world.images();
    let pinned = resolve(&images, "oci", &three().layout(&world.path("layout"), "1"));
    for room in [0, 600, 1_300] {
        let error = images.export(&pinned, NAME, &mut Deaf(room), &Cancel::default(), &|_| ()).unwrap_err();
        let broken = matches!(&error, ImageError::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe);
        assert!(broken, "{room}: {error:?}");
    }
    let cancel = Cancel::default();
    cancel.cancel();
    let error = images.export(&pinned, NAME, &mut Vec::new(), &cancel, &|_| ()).unwrap_err();
    assert!(matches!(error, ImageError::Cancelled), "{error:?}");
}

fn layers() -> impl Strategy<Value = Vec<(Layer, Packing)>> {
    let packing = prop_oneof![Just(Packing::Plain), Just(Packing::Gzip), Just(Packing::Zstd)];
    // Few names and few bytes, so that layers are alike now and then.
    let file = ("[a-c]{1,2}", prop::collection::vec(any::<u8>(), 0..3), 0..3_000_usize);
    let layer = prop::collection::vec(file, 0..3).prop_map(|files| {
        let mut names = std::collections::BTreeSet::new();
        files.into_iter().filter(|(name, ..)| names.insert(name.clone())).fold(Layer::default(), |layer, found| {
            let (name, piece, times) = found;
            layer.file(&name, &piece.repeat(times))
        })
    });
    prop::collection::vec((layer, packing), 0..5)
}

#[test]
fn whatever_the_layers_an_export_resolves_to_the_same_contents() {
    let world = World::new();
    let images = world.images();
    let counted = std::cell::Cell::new(0_u32);
    let mut runner = TestRunner::new(Config { cases: 48, failure_persistence: None, ..Config::default() });
    let tried = runner.run(&layers(), |layers| {
        let number = counted.replace(counted.get() + 1);
        let made = image(&layers, &json!({ "Cmd": ["a", number.to_string()] }));
        let layout = made.layout(&world.path(&format!("layout-{number}")), "1");
        let pinned = resolve(&images, "oci", &layout);
        let (config, bytes) = export(&images, &pinned).unwrap();
        let file = world.path("exported.tar");
        fs::write(&file, &bytes).unwrap();
        let (again, run) = images.resolve(&format!("tar:{}:1", file.display()), PATIENCE).unwrap();
        assert_eq!((again.digest, config), (Digest::of(&made.config), Digest::of(&made.config)));
        let contents = |pinned: &Pinned| pinned.layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>();
        assert_eq!(contents(&again), contents(&pinned));
        assert_eq!(again.chains(), pinned.chains());
        assert_eq!(run.command, ["a".to_owned(), number.to_string()]);
        // And that exports to itself, but for how its layers are compressed, which is decided once.
        let (_, twice) = export(&images, &again).unwrap();
        assert!(twice == bytes, "an export of an export differs");
        Ok(())
    });
    tried.unwrap();
}
