//! Archives that want out, want too much, or mean two things. Each is refused with a reason, and nothing of it stays.

use chiton_image::{ImageError, Limits};
use tar::{EntryType, Header};

use crate::build::{Layer, Meta};
use crate::common::{World, unpack};

fn kind(kind: EntryType, name: &[u8], link: &[u8]) -> Layer {
    Layer::default().entry(kind, name, link, b"", &Meta::default())
}

fn regular(name: &[u8]) -> Layer {
    kind(EntryType::Regular, name, b"")
}

fn with_size(size: u64) -> Layer {
    let mut header = Header::new_gnu();
    header.set_path("a").unwrap();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    Layer::default().raw(&header, b"")
}

fn long_record(size: u64) -> Layer {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(size);
    header.set_cksum();
    Layer::default().raw(&header, b"")
}

/// Each record is small enough, all together are not.
fn many_records() -> Layer {
    let value = vec![b'v'; 8 << 10];
    let record: &[(&[u8], &[u8])] = &[(b"comment", &value)];
    (0..200).fold(Layer::default(), |layer, _| layer.pax(record)).file("a", b"")
}

/// The same folder again and again by a name that is nearly as long as a name can be.
fn many_long_folders() -> Layer {
    let name = "deep/".repeat(800);
    (0..8_500).fold(Layer::default(), |layer, _| layer.folder(&name, 0o755))
}

fn bad_sum() -> Layer {
    let mut header = Header::new_gnu();
    header.set_path("a").unwrap();
    header.set_size(0);
    header.set_cksum();
    header.as_mut_bytes()[0] = b'b';
    Layer::default().raw(&header, b"")
}

#[expect(clippy::too_many_lines, reason = "a table, which is read top to bottom")]
fn table() -> Vec<(&'static str, Layer, &'static str)> {
    let deep = vec![b'a'; 256];
    let long = "d/".repeat(2100);
    vec![
        ("absolute name", regular(b"/etc/passwd"), "absolute"),
        ("parent", regular(b"../out"), "contains \"..\""),
        ("parent inside", regular(b"a/../../out"), "contains \"..\""),
        ("parent as a folder", kind(EntryType::Directory, b"a/..", b""), "contains \"..\""),
        ("absolute by pax", Layer::default().pax(&[(b"path", b"/out")]).file("a", b""), "absolute"),
        ("NUL by pax", Layer::default().pax(&[(b"path", b"a\0b")]).file("a", b""), "NUL"),
        (
            "NUL in a long name",
            Layer::default().entry(
                EntryType::Regular,
                &[&[b'a'; 120][..], b"\0x"].concat(),
                b"",
                b"",
                &Meta::default(),
            ),
            "NUL",
        ),
        ("overlong part", regular(&deep), "longer than 255"),
        ("overlong name", Layer::default().file(&long, b""), "longer than 4095"),
        ("through an absolute link", Layer::default().link("e", "/etc").file("e/x", b""), "leads out of the image"),
        (
            "through a link up",
            Layer::default().folder("d", 0o755).link("d/e", "../../..").file("d/e/x", b""),
            "leads out of the image",
        ),
        (
            "through a chain of links",
            Layer::default().link("a", "b").link("b", "/").file("a/x", b""),
            "leads out of the image",
        ),
        ("through links in a circle", Layer::default().link("a", "b").link("b", "a").file("a/x", b""), "circle"),
        ("through a link to nothing", Layer::default().link("a", "nowhere").file("a/x", b""), "no folder"),
        ("through a file", Layer::default().file("a", b"").file("a/x", b""), "no folder"),
        (
            "through a magic link",
            Layer::default().link("p", "/proc/self/root").file("p/x", b""),
            "leads out of the image",
        ),
        (
            "whiteout through a link",
            Layer::default().link("e", "/etc").file("e/.wh.passwd", b""),
            "leads out of the image",
        ),
        (
            "opaque through a link",
            Layer::default().link("e", "/etc").file("e/.wh..wh..opq", b""),
            "leads out of the image",
        ),
        ("hard link to an absolute name", Layer::default().hard("h", "/etc/shadow"), "absolute"),
        ("hard link up", Layer::default().hard("h", "../../etc/shadow"), "contains \"..\""),
        (
            "hard link through a link",
            Layer::default().link("e", "/etc").hard("h", "e/shadow"),
            "leads out of the image",
        ),
        ("hard link to nothing", Layer::default().hard("h", "nothing"), "does not have before it"),
        ("hard link to itself", Layer::default().hard("h", "h"), "does not have before it"),
        ("hard link to a folder", Layer::default().folder("d", 0o755).hard("h", "d"), "to a folder"),
        ("hard link to a whiteout", Layer::default().file(".wh.a", b"").hard("h", "a"), "removed name"),
        ("hard link to the root", Layer::default().hard("h", "."), "does not have before it"),
        ("character device", Layer::default().special(EntryType::Char, "null", true), "device node"),
        ("block device", Layer::default().special(EntryType::Block, "sda", true), "device node"),
        ("block device 0/0", Layer::default().special(EntryType::Block, "sda", false), "device node"),
        ("unknown type", kind(EntryType::new(b'Z'), b"a", b""), "type"),
        ("a file twice", Layer::default().file("a", b"1").file("a", b"2"), "twice"),
        ("a file twice by another spelling", Layer::default().file("d/a", b"1").file("d//./a", b"2"), "twice"),
        ("a folder, then a file", Layer::default().folder("a", 0o755).file("a", b""), "twice"),
        ("a file, then a folder", Layer::default().file("a", b"").folder("a", 0o755), "twice"),
        ("a link, then a folder", Layer::default().link("a", "b").folder("a", 0o755), "twice"),
        ("a file, then a hard link", Layer::default().file("a", b"").file("b", b"").hard("a", "b"), "twice"),
        ("the root as a file", regular(b"."), "root"),
        ("the root as a link", kind(EntryType::Symlink, b"./", b"/"), ""),
        ("empty link", kind(EntryType::Symlink, b"a", b""), "empty"),
        ("whiteout of nothing", Layer::default().file(".wh.", b""), "marks no name"),
        ("whiteout of the parent", Layer::default().file("d/.wh...", b""), "marks no name"),
        ("whiteout of the folder", Layer::default().file("d/.wh..", b""), "marks no name"),
        ("in a whiteout", Layer::default().file(".wh.d/x", b""), "mark of a removed name"),
        (
            "overlay attribute",
            Layer::default().pax(&[(b"SCHILY.xattr.trusted.overlay.redirect", b"/etc")]).folder("d", 0o755),
            "overlay's own",
        ),
        (
            "user overlay attribute",
            Layer::default().pax(&[(b"SCHILY.xattr.user.overlay.opaque", b"y")]).folder("d", 0o755),
            "overlay's own",
        ),
        ("owner too large", Layer::default().pax(&[(b"uid", b"4294967296")]).file("a", b""), "owner"),
        (
            "owner that the kernel reads as none",
            Layer::default().pax(&[(b"uid", b"4294967295")]).file("a", b""),
            "owner",
        ),
        ("negative group", Layer::default().pax(&[(b"gid", b"-1")]).file("a", b""), "group"),
        (
            "sparse beyond its end",
            Layer::default()
                .pax(&[
                    (b"GNU.sparse.major", b"1"),
                    (b"GNU.sparse.minor", b"0"),
                    (b"GNU.sparse.name", b"s"),
                    (b"GNU.sparse.realsize", b"4"),
                ])
                .file("x", &[b"1\n2\n8\n", &[0; 506][..], b"12345678"].concat()),
            "overlap",
        ),
        ("old sparse form", Layer::default().pax(&[(b"GNU.sparse.size", b"8")]).file("x", b""), "not 1.0"),
        ("wrong checksum", bad_sum(), "checksum"),
        ("short file", with_size(1 << 20), "middle of a file"),
        ("endless name record", long_record(1 << 40), "bytes"),
        ("records about one entry without end", many_records(), "about one entry"),
        ("folders of long names without end", many_long_folders(), "names of a layer's folders"),
        ("pax lengths that lie", Layer::default().raw(&pax_header(9), b"99 a=b\n\0\0"), "do not fit"),
        ("a record about nothing", Layer::default().pax(&[(b"path", b"a")]), "about a next entry"),
        ("larger than the limit", with_size(1 << 33), "bytes in a layer"),
    ]
}

fn pax_header(size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.set_size(size);
    header.set_cksum();
    header
}

#[test]
fn every_hostile_entry_is_refused_with_its_reason_and_nothing_stays() {
    let world = World::new();
    let images = world.with(Limits { layer_bytes: 1 << 32, ..Limits::default() });
    let outside = world.path("outside");
    std::fs::write(&outside, "untouched").unwrap();
    for (name, layer, reason) in table() {
        let layer = Layer::default().file("first", b"x").append(&layer);
        let refused = unpack(&world, &images, &[layer]);
        let error = refused.err().unwrap_or_else(|| panic!("{name}: it was taken"));
        assert!(
            matches!(error, ImageError::Entry { .. } | ImageError::Form { .. } | ImageError::TooLarge { .. }),
            "{name}: {error:?}"
        );
        assert!(error.to_string().contains(reason), "{name}: {error} does not say {reason:?}");
        assert_eq!(world.layers(), Vec::<std::path::PathBuf>::new(), "{name}: a layer is visible");
        assert_eq!(world.leftovers(), Vec::<std::path::PathBuf>::new(), "{name}: something stayed");
    }
    assert_eq!(std::fs::read_to_string(outside).unwrap(), "untouched");
}

#[test]
fn a_layer_of_too_many_files_is_refused() {
    let world = World::new();
    let images = world.with(Limits { entries: 10, ..Limits::default() });
    let ten = (0..10).fold(Layer::default(), |layer, index| layer.file(&format!("f{index}"), b""));
    unpack(&world, &images, std::slice::from_ref(&ten)).unwrap();
    let error = unpack(&world, &images, &[ten.clone().file("one-more", b"")]).unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { limit: 10, .. }), "{error}");
    // Folders that the archive only implies count too.
    let error = unpack(&world, &images, &[Layer::default().file("a/b/c/d/e/f/g/h/i/j/k", b"")]).unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { limit: 10, .. }), "{error}");
}

#[test]
fn a_layer_that_grows_beyond_bytes_or_ratio_is_refused_before_it_fills_the_disk() {
    use crate::build::{Packing, image};
    let world = World::new();
    let zeroes = vec![0; 4 << 20];
    let bomb = Layer::default().file("zeroes", &zeroes);
    for (packing, limits, what) in [
        (Packing::Gzip, Limits { ratio: 100, ratio_from: 1 << 20, ..Limits::default() }, "times its stored size"),
        (Packing::Zstd, Limits { ratio: 100, ratio_from: 1 << 20, ..Limits::default() }, "times its stored size"),
        (Packing::Gzip, Limits { layer_bytes: 1 << 20, ..Limits::default() }, "bytes in a layer"),
    ] {
        let images = world.with(limits);
        let made = image(&[(bomb.clone(), packing)], &serde_json::json!({}));
        let layout = made.layout(&world.path("bomb"), "1");
        let error = crate::common::pull(&images, &format!("oci:{}", layout.display())).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(world.leftovers(), Vec::<std::path::PathBuf>::new());
    }
}
