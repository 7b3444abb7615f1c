//! What is unpacked is what the archive says.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use chiton_image::Owner;
use tar::EntryType;

use crate::build::{Layer, Meta, Packing, image};
use crate::common::{World, policy, pull, root, unpack};

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

fn opaque(path: &Path) -> bool {
    let name = if policy().owner == Owner::Keep { "trusted.overlay.opaque" } else { "user.overlay.opaque" };
    xattr(path, name).as_deref() == Some(b"y")
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_char_device() && found.rdev() == 0)
}

#[test]
fn owners_modes_times_links_and_attributes_are_kept() {
    if !root("owners_modes_times_links_and_attributes_are_kept") {
        return;
    }
    let world = World::new();
    let meta = |mode| Meta { mode, uid: 1000, gid: 2000, mtime: 1_234_567 };
    let layer = Layer::default()
        .entry(EntryType::Directory, b"d/", b"", b"", &meta(0o2750))
        .owned("d/file", b"hello", &meta(0o640))
        .owned("d/setuid", b"x", &meta(0o6755))
        .hard("d/second", "d/file")
        .link("d/link", "/anywhere/at/all")
        .special(EntryType::Fifo, "d/pipe", false)
        .pax(&[
            (b"SCHILY.xattr.user.mine", b"a\nb\0c"),
            (b"SCHILY.xattr.security.capability", b"\x01\0\0\x02"),
            (b"SCHILY.xattr.trusted.other", b"x"),
            (b"mtime", b"1234567.250000000"),
        ])
        .file("attributes", b"")
        .entry(EntryType::Regular, b"not-\xff-text", b"", b"bytes", &Meta::default());
    let folders = unpack(&world, &world.images(), &[layer]).unwrap();
    let at = |name: &str| folders[0].join(name);
    let stat = |name: &str| fs::symlink_metadata(at(name)).unwrap();
    let folder = stat("d");
    assert_eq!((folder.mode() & 0o7777, folder.uid(), folder.gid(), folder.mtime()), (0o2750, 1000, 2000, 1_234_567));
    let file = stat("d/file");
    assert_eq!((file.mode() & 0o7777, file.uid(), file.gid(), file.mtime()), (0o640, 1000, 2000, 1_234_567));
    assert_eq!(fs::read(at("d/file")).unwrap(), b"hello");
    assert_eq!(stat("d/setuid").mode() & 0o7777, 0o755, "set-id bits are dropped");
    assert_eq!(stat("d/second").ino(), file.ino());
    assert_eq!(fs::read_link(at("d/link")).unwrap(), Path::new("/anywhere/at/all"));
    assert!(stat("d/pipe").file_type().is_fifo());
    assert_eq!(xattr(&at("attributes"), "user.mine").as_deref(), Some(&b"a\nb\0c"[..]));
    assert_eq!(xattr(&at("attributes"), "security.capability"), None);
    assert_eq!(xattr(&at("attributes"), "trusted.other"), None);
    assert_eq!((stat("attributes").mtime(), stat("attributes").mtime_nsec()), (1_234_567, 250_000_000));
    let odd = folders[0].join(std::ffi::OsStr::from_bytes(b"not-\xff-text"));
    assert_eq!(fs::read(odd).unwrap(), b"bytes");
}

#[test]
fn an_ordinary_users_store_keeps_everything_but_owners() {
    let world = World::new();
    let images =
        chiton_image::Images::open(&world.store(), chiton_image::Policy { owner: Owner::Single, ..policy() }).unwrap();
    let layer = Layer::default()
        .entry(EntryType::Directory, b"closed", b"", b"", &Meta { mode: 0, uid: 7, gid: 8, mtime: 5 })
        .owned("closed/file", b"x", &Meta { mode: 0o400, uid: 7, gid: 8, mtime: 5 })
        .file("closed/.wh.gone", b"")
        .file("closed/.wh..wh..opq", b"");
    let folders = unpack(&world, &images, &[layer]).unwrap();
    let own = rustix::process::geteuid().as_raw();
    let closed = fs::metadata(folders[0].join("closed")).unwrap();
    assert_eq!((closed.uid(), closed.mode() & 0o7777), (own, 0o700));
    assert_eq!(fs::metadata(folders[0].join("closed/file")).unwrap().uid(), own);
    assert!(is_whiteout(&folders[0].join("closed/gone")));
    assert_eq!(xattr(&folders[0].join("closed"), "user.overlay.opaque").as_deref(), Some(&b"y"[..]));
}

#[test]
fn long_names_of_both_kinds_are_whole() {
    let world = World::new();
    let folder = "f".repeat(120);
    let name = format!("{folder}/{}", "n".repeat(200));
    let other = format!("{folder}/{}", "p".repeat(180));
    let target = "t".repeat(300);
    let layer = Layer::default()
        .file(&name, b"gnu")
        .pax(&[(b"path", other.as_bytes())])
        .file("short", b"pax")
        .link("link", &target);
    let folders = unpack(&world, &world.images(), &[layer]).unwrap();
    assert_eq!(fs::read(folders[0].join(name)).unwrap(), b"gnu");
    assert_eq!(fs::read(folders[0].join(other)).unwrap(), b"pax");
    assert_eq!(fs::read_link(folders[0].join("link")).unwrap(), Path::new(&target));
    assert!(!folders[0].join("short").exists());
}

#[test]
fn holes_of_sparse_files_stay_holes() {
    let world = World::new();
    let records: [(&[u8], &[u8]); 4] = [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"pax-sparse"),
        (b"GNU.sparse.realsize", b"67108864"),
    ];
    let table = b"2\n1048576\n4\n67108860\n4\n";
    let data = [&table[..], &vec![0; 512 - table.len()], b"midd", b"last"].concat();
    let mut header = tar::Header::new_gnu();
    header.set_path("gnu-sparse").unwrap();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(4);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.sparse[0].offset.copy_from_slice(b"00040000000\0");
    gnu.sparse[0].numbytes.copy_from_slice(b"00000000004\0");
    gnu.realsize.copy_from_slice(b"00040000004\0");
    header.set_cksum();
    let layer =
        Layer::default().pax(&records).file("GNUSparseFile.0/x", &data).raw(&header, b"gnu!").file("after", b"1");
    let folders = unpack(&world, &world.images(), &[layer]).unwrap();
    for (name, length, parts) in [
        ("pax-sparse", 64 << 20, BTreeMap::from([(1 << 20, b"midd"), ((64 << 20) - 4, b"last")])),
        ("gnu-sparse", (8 << 20) + 4, BTreeMap::from([(8 << 20, b"gnu!")])),
    ] {
        let bytes = fs::read(folders[0].join(name)).unwrap();
        assert_eq!(bytes.len(), length, "{name}");
        let blocks = fs::metadata(folders[0].join(name)).unwrap().blocks();
        assert!(blocks * 512 < 1 << 20, "{name} takes {blocks} blocks");
        for (offset, data) in &parts {
            assert_eq!(&bytes[*offset..offset + 4], *data, "{name}");
        }
        assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), parts.len() * 4, "{name}");
    }
    assert_eq!(fs::read(folders[0].join("after")).unwrap(), b"1");
}

#[test]
fn whiteouts_become_the_overlays_own_marks() {
    let world = World::new();
    let layer = Layer::default()
        .file("d/.wh.gone", b"")
        .file("hides/.wh..wh..opq", b"")
        .file("hides/new", b"")
        // In either order, a name that the layer has itself stays, and hides what is below.
        .file(".wh.replaced-by-folder", b"")
        .folder("replaced-by-folder", 0o755)
        .folder("folder-first", 0o755)
        .file(".wh.folder-first", b"")
        .file(".wh.replaced-by-file", b"")
        .file("replaced-by-file", b"new")
        .file("file-first", b"new")
        .file(".wh.file-first", b"")
        .special(EntryType::Char, "already-a-mark", false)
        .file(".wh..wh.plnk", b"")
        .file(".wh.again", b"")
        .file(".wh.again", b"");
    let folders = unpack(&world, &world.images(), &[layer]).unwrap();
    let at = |name: &str| folders[0].join(name);
    assert!(is_whiteout(&at("d/gone")) && is_whiteout(&at("already-a-mark")) && is_whiteout(&at("again")));
    assert!(opaque(&at("hides")) && opaque(&at("replaced-by-folder")) && opaque(&at("folder-first")));
    assert!(!opaque(&at("d")));
    assert_eq!(fs::read(at("replaced-by-file")).unwrap(), b"new");
    assert_eq!(fs::read(at("file-first")).unwrap(), b"new");
    let names: Vec<_> = fs::read_dir(&folders[0]).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.as_bytes().starts_with(b".wh.")), "{names:?}");
}

#[test]
fn a_folder_that_a_layer_only_passes_through_stays_as_it_is_below() {
    if !root("a_folder_that_a_layer_only_passes_through_stays_as_it_is_below") {
        return;
    }
    let world = World::new();
    let meta = |mode, mtime| Meta { mode, uid: 5, gid: 6, mtime };
    let bottom = Layer::default()
        .entry(EntryType::Directory, b"var", b"", b"", &meta(0o710, 111))
        .entry(EntryType::Directory, b"var/closed", b"", b"", &meta(0o700, 222))
        .entry(EntryType::Directory, b"gone", b"", b"", &meta(0o700, 333));
    let middle = Layer::default().file("unrelated", b"").file(".wh.gone", b"");
    let top = Layer::default().file("var/closed/new", b"").file("gone/new", b"").file("fresh/new", b"");
    let folders = unpack(&world, &world.images(), &[bottom, middle, top]).unwrap();
    let stat = |name: &str| {
        let found = fs::metadata(folders[2].join(name)).unwrap();
        (found.mode() & 0o7777, found.uid(), found.mtime())
    };
    assert_eq!(stat("var"), (0o710, 5, 111));
    assert_eq!(stat("var/closed"), (0o700, 5, 222));
    assert_eq!(stat("gone"), (0o755, 0, 0), "what a layer between removed is not taken up again");
    assert_eq!(stat("fresh"), (0o755, 0, 0));
}

#[test]
fn layers_are_unpacked_once_and_shared_by_images_that_begin_alike() {
    let world = World::new();
    let images = world.images();
    let base = Layer::default().file("base", b"shared");
    let one = unpack(&world, &images, &[base.clone(), Layer::default().file("one", b"1")]).unwrap();
    let two = unpack(&world, &images, &[base, Layer::default().file("two", b"2")]).unwrap();
    assert_eq!(one[0], two[0]);
    assert_ne!(one[1], two[1]);
    assert_eq!(world.layers().len(), 3);
}

#[test]
fn every_packing_gives_the_same_files() {
    let world = World::new();
    let images = world.images();
    let layer = Layer::default().folder("d", 0o755).file("d/f", &vec![7; 300_000]);
    let mut folders = Vec::new();
    for (index, packing) in [Packing::Plain, Packing::Gzip, Packing::Zstd].into_iter().enumerate() {
        let made = image(&[(layer.clone(), packing)], &serde_json::json!({}));
        let layout = made.layout(&world.path(&format!("l{index}")), "1");
        let pinned = pull(&images, &format!("oci:{}:1", layout.display())).unwrap();
        folders.push(images.layers(&pinned.chains()).unwrap());
    }
    assert_eq!(folders[0], folders[1], "the chain id is of the contents");
    assert_eq!(folders[0], folders[2]);
    assert_eq!(fs::read(folders[0][0].join("d/f")).unwrap(), vec![7; 300_000]);
}
