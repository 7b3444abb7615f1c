use std::io::Cursor;

use chiton_model::ErrorKind;
use tar::EntryType as T;

use super::*;

/// Name, kind, and content or the target of a link.
type Entry = (&'static str, T, &'static str);

/// An archive with names as they are: the library's own builder refuses to write the hostile ones.
fn archive(entries: &[(&str, T, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.as_gnu_mut().expect("a GNU header").name[..name.len()].copy_from_slice(name.as_bytes());
        let data = if kind.is_symlink() || kind.is_hard_link() {
            header.as_gnu_mut().expect("a GNU header").linkname[..content.len()].copy_from_slice(content.as_bytes());
            ""
        } else {
            content
        };
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data.as_bytes()).expect("appends");
    }
    builder.into_inner().expect("whole")
}

fn unpacked(entries: &[Entry]) -> (tempfile::TempDir, Result<FolderModes, Error>) {
    let around = tempfile::tempdir().expect("a folder");
    let root = around.path().join("root");
    fs::create_dir(&root).expect("a folder");
    fs::write(around.path().join("victim"), "untouched").expect("a file");
    let result = unpack(&mut Cursor::new(archive(entries)), &root, Some(OsStr::new("top")));
    (around, result)
}

#[test]
fn every_way_out_is_refused_and_nothing_gets_out() {
    let top = ("top", T::Directory, "");
    let cases: &[(&str, &[Entry])] = &[
        ("absolute", &[("/top/x", T::Regular, "x")]),
        ("parent", &[top, ("top/../../victim", T::Regular, "x")]),
        ("parent at once", &[("../victim", T::Regular, "x")]),
        ("parent that comes back", &[top, ("top/../top/x", T::Regular, "x")]),
        ("beside the top", &[top, ("other", T::Regular, "x")]),
        ("absolute link", &[top, ("top/l", T::Symlink, "/etc/passwd")]),
        ("link out", &[top, ("top/l", T::Symlink, "../../victim")]),
        ("link to beside the top", &[top, ("top/l", T::Symlink, "../other")]),
        ("link that leaves on its way", &[top, ("top/l", T::Symlink, "../../root/top/x")]),
        ("write through a link", &[top, ("top/l", T::Symlink, "."), ("top/l/x", T::Regular, "x")]),
        (
            "link made deep by links",
            &[top, ("top/s", T::Symlink, "."), ("top/s/s/s/l", T::Symlink, "../../../top/../../victim")],
        ),
        (
            "chain of links",
            &[top, ("top/d", T::Directory, ""), ("top/d/up", T::Symlink, ".."), ("top/l", T::Symlink, "d/up/../x")],
        ),
        ("folder in a link's place", &[top, ("top/l", T::Symlink, "d"), ("top/l", T::Directory, "")]),
        ("hard link out", &[top, ("top/h", T::Link, "../victim")]),
        ("hard link to nothing", &[top, ("top/h", T::Link, "top/none")]),
        (
            "hard link to a link, which leads out from there",
            &[
                top,
                ("top/x", T::Regular, "x"),
                ("top/a", T::Directory, ""),
                ("top/a/l", T::Symlink, "../x"),
                ("top/h", T::Link, "top/a/l"),
            ],
        ),
        (
            "hard link through a link",
            &[top, ("top/x", T::Regular, "x"), ("top/s", T::Symlink, "."), ("top/h", T::Link, "top/s/x")],
        ),
        ("device", &[top, ("top/d", T::Char, "")]),
        ("pipe", &[top, ("top/p", T::Fifo, "")]),
    ];
    for (name, entries) in cases {
        let (around, result) = unpacked(entries);
        let error = result.expect_err(name);
        assert_eq!(error.kind, ErrorKind::Refused { by: "cp".into() }, "{name}: {error}");
        assert_eq!(fs::read(around.path().join("victim")).expect("there"), b"untouched", "{name}");
        assert_eq!(fs::read_dir(around.path()).expect("a folder").count(), 2, "{name}: something is beside the root");
    }
}

#[test]
fn a_file_is_never_written_twice() {
    let (around, result) = unpacked(&[("top/x", T::Regular, "one"), ("top/x", T::Regular, "two")]);
    assert!(result.is_err());
    assert_eq!(fs::read(around.path().join("root/top/x")).expect("there"), b"one");
}

#[test]
fn links_that_stay_inside_are_made() {
    let entries = [
        ("top", T::Directory, ""),
        ("top/a", T::Directory, ""),
        ("top/a/f", T::Regular, "x"),
        ("top/a/up", T::Symlink, "../a/f"),
        ("top/dangling", T::Symlink, "none"),
        ("top/h", T::Link, "top/a/f"),
    ];
    let (around, result) = unpacked(&entries);
    let modes = result.expect("sound");
    assert_eq!(modes.len(), 2);
    let top = around.path().join("root/top");
    assert_eq!(fs::read(top.join("a/up")).expect("there"), b"x");
    assert_eq!(fs::read(top.join("h")).expect("there"), b"x");
    assert!(fs::symlink_metadata(top.join("dangling")).expect("there").is_symlink());
}

#[test]
fn an_archive_without_the_folder_or_cut_off_is_an_error() {
    assert!(unpacked(&[]).1.is_err());
    let around = tempfile::tempdir().expect("a folder");
    let mut cut = archive(&[("top", T::Directory, ""), ("top/x", T::Regular, &"x".repeat(2000))]);
    cut.truncate(2000);
    assert!(unpack(&mut Cursor::new(cut), around.path(), Some(OsStr::new("top"))).is_err());
}

#[test]
fn headers_of_any_size_are_not_held() {
    let root = tempfile::tempdir().expect("a folder");
    let name = "n".repeat(400_000);
    let bytes = archive(&[("long", T::GNULongName, name.as_str()), ("x", T::Regular, "x")]);
    let error = unpack(&mut Cursor::new(bytes), root.path(), None).expect_err("it is refused");
    assert!(error.message.contains("the headers of one entry have more than"), "{error}");
}
