//! Images from layouts and archives.

use std::fs;

use chiton_image::{ImageError, Images, Policy};
use serde_json::json;

use crate::build::{Layer, Packing, architecture, image};
use crate::common::{PATIENCE, World, policy, pull};

#[test]
fn an_archive_of_docker_save_is_an_image_and_a_layer_that_occurs_twice_is_a_link() {
    let world = World::new();
    let images = world.images();
    let same = Layer::default().file("same", b"1");
    let layers =
        [(Layer::default().file("base", b"b"), Packing::Plain), (same.clone(), Packing::Plain), (same, Packing::Plain)];
    let made = image(&layers, &json!({ "User": "5" }));
    let file = world.path("saved.tar");
    made.saved(&file, "registry.example/app:1");
    for tag in ["", ":1"] {
        let (pinned, config) = images.resolve(&format!("tar:{}{tag}", file.display()), PATIENCE).unwrap();
        assert_eq!(pinned.digest, chiton_image::Digest::of(&made.config));
        assert_eq!(config.user, "5");
    }
    let pinned = pull(&images, &format!("tar:{}", file.display())).unwrap();
    let folders = images.layers(&pinned.chains()).unwrap();
    assert_eq!(folders.len(), 3);
    assert_eq!(fs::read(folders[2].join("same")).unwrap(), b"1");
    let error = images.resolve(&format!("tar:{}:2", file.display()), PATIENCE).unwrap_err();
    assert!(error.to_string().contains("registry.example/app:1"), "{error}");
}

#[test]
fn an_archive_of_a_layout_is_an_image() {
    let world = World::new();
    let images = world.images();
    let made = image(&[(Layer::default().file("f", b"1"), Packing::Zstd)], &json!({}));
    let layout = made.layout(&world.path("layout"), "v1");
    let mut archive = Layer::default();
    for name in ["oci-layout", "index.json"] {
        archive = archive.file(&format!("./{name}"), &fs::read(layout.join(name)).unwrap());
    }
    for blob in fs::read_dir(layout.join("blobs/sha256")).unwrap().flatten() {
        let name = format!("./blobs/sha256/{}", blob.file_name().to_str().unwrap());
        archive = archive.file(&name, &fs::read(blob.path()).unwrap());
    }
    let file = world.path("layout.tar");
    fs::write(&file, archive.tar()).unwrap();
    let pinned = pull(&images, &format!("tar:{}:v1", file.display())).unwrap();
    assert_eq!(pinned.digest, made.digest());
}

#[test]
fn a_layout_whose_bytes_are_not_those_of_its_digests_is_refused() {
    let world = World::new();
    let images = world.images();
    for (index, what) in ["manifest", "config", "layer"].into_iter().enumerate() {
        let made = image(&[(Layer::default().file(&format!("f{index}"), b"1"), Packing::Plain)], &json!({}));
        let layout = made.layout(&world.path(what), "1");
        let blob = [&made.manifest, &made.config, &made.blobs[0]][index];
        let mut wrong = blob.clone();
        *wrong.last_mut().unwrap() ^= 1;
        fs::write(layout.join("blobs/sha256").join(chiton_image::Digest::of(blob).hex()), wrong).unwrap();
        let error = pull(&images, &format!("oci:{}", layout.display())).unwrap_err();
        assert!(matches!(error, ImageError::Digest { .. }), "{what}: {error:?}");
    }
    assert_eq!(world.layers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn an_index_gives_the_image_for_this_machine() {
    let world = World::new();
    let images = world.images();
    let made = image(&[(Layer::default().file("f", b"1"), Packing::Plain)], &json!({}));
    let layout = made.layout(&world.path("layout"), "1");
    let platform = |architecture: &str, digest: String| {
        json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1,
                "platform": { "architecture": architecture, "os": "linux" } })
    };
    let other = format!("sha256:{}", "0".repeat(64));
    let of = |manifests: serde_json::Value| {
        fs::write(layout.join("index.json"), json!({ "schemaVersion": 2, "manifests": manifests }).to_string())
            .unwrap();
        images.resolve(&format!("oci:{}", layout.display()), PATIENCE)
    };
    let both = json!([platform("riscv64", other.clone()), platform(architecture(), made.digest().to_string())]);
    assert_eq!(of(both).unwrap().0.digest, made.digest());
    let error = of(json!([platform("riscv64", other.clone()), platform("s390x", other)])).unwrap_err();
    assert!(error.to_string().contains("linux/riscv64, linux/s390x"), "{error}");
}

#[test]
fn documents_that_mean_two_things_or_nothing_are_refused() {
    let world = World::new();
    let images = world.images();
    let made = image(&[(Layer::default().file("f", b"1"), Packing::Plain)], &json!({}));
    let good: serde_json::Value = serde_json::from_slice(&made.manifest).unwrap();
    let with = |key: &str, value: serde_json::Value| {
        let mut changed = good.clone();
        changed[key] = value;
        changed
    };
    let mut foreign = good.clone();
    foreign["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    for (name, manifest) in [
        ("both", with("manifests", json!([]))),
        ("version", with("schemaVersion", json!(1))),
        ("old", with("fsLayers", json!([]))),
        ("no layers for its config", with("layers", json!([]))),
        ("foreign", foreign),
        ("too large", with("layers", json!([{ "digest": made.digest(), "size": u64::MAX }]))),
    ] {
        let bytes = manifest.to_string().into_bytes();
        let changed = crate::build::Image { manifest: bytes, config: made.config.clone(), blobs: made.blobs.clone() };
        let layout = changed.layout(&world.path(name), "1");
        let error = images.resolve(&format!("oci:{}", layout.display()), PATIENCE).unwrap_err();
        assert!(matches!(error, ImageError::Form { .. } | ImageError::TooLarge { .. }), "{name}: {error:?}");
    }
}

#[test]
fn layouts_and_archives_are_taken_only_from_where_the_operator_says() {
    let world = World::new();
    let made = image(&[(Layer::default().file("f", b"1"), Packing::Plain)], &json!({}));
    let layout = made.layout(&world.path("outside"), "1");
    fs::create_dir(world.path("allowed")).unwrap();
    std::os::unix::fs::symlink(&layout, world.path("allowed/link")).unwrap();
    let images = Images::open(&world.store(), Policy { roots: Some(vec![world.path("allowed")]), ..policy() }).unwrap();
    for path in [layout, world.path("allowed/link"), world.path("allowed/../outside")] {
        let error = images.resolve(&format!("oci:{}", path.display()), PATIENCE).unwrap_err();
        assert!(matches!(error, ImageError::Refused { .. }), "{error:?}");
    }
    made.layout(&world.path("allowed/inside"), "1");
    pull(&images, &format!("oci:{}", world.path("allowed/inside").display())).unwrap();
    // What is no plain file is not waited for.
    let pipe = world.path("allowed/pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0)
        .unwrap();
    let error = images.resolve(&format!("tar:{}", pipe.display()), PATIENCE).unwrap_err();
    assert!(error.to_string().contains("not a file"), "{error}");
}

#[test]
fn an_archive_with_members_of_endless_names_is_refused() {
    let world = World::new();
    let images = world.images();
    let file = world.path("names.tar");
    fs::write(&file, Layer::default().file(&"n".repeat(5000), b"").tar()).unwrap();
    let error = images.resolve(&format!("tar:{}", file.display()), PATIENCE).unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { limit: 4096, .. }), "{error}");
}
