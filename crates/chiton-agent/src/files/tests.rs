//! Uploads that were made to do harm.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tar::{EntryType as T, Header};
use tonic::{Code, Status};

use super::fuzzing::{unpack, write_file};

fn header(kind: T, name: &str, link: &str, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(size);
    header.set_path(name).expect("it is short");
    if !link.is_empty() {
        header.set_link_name(link).expect("it is short");
    }
    header.set_cksum();
    header
}

fn entry(kind: T, name: &str, link: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = header(kind, name, link, data.len() as u64).as_bytes().to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// A sparse file of this size that ends with one byte.
fn sparse(size: u64) -> Vec<u8> {
    let mut bytes = entry(T::GNUSparse, "sparse", "", b"x");
    let mut header = header(T::GNUSparse, "sparse", "", 1);
    let gnu = header.as_gnu_mut().expect("it is one");
    for (field, number) in
        [(&mut gnu.sparse[0].offset, size - 1), (&mut gnu.sparse[0].numbytes, 1), (&mut gnu.realsize, size)]
    {
        field[..11].copy_from_slice(format!("{number:011o}").as_bytes());
    }
    header.set_cksum();
    bytes[..512].copy_from_slice(header.as_bytes());
    bytes
}

fn unpacked(entries: &[Vec<u8>]) -> (tempfile::TempDir, PathBuf, Result<u64, Status>) {
    let around = tempfile::tempdir().expect("a folder");
    let root = around.path().join("root");
    let pieces = vec![Bytes::from(entries.concat())];
    let result = unpack(&root, false, pieces, true, 64 << 20);
    (around, root, result)
}

fn refused(entries: &[Vec<u8>]) -> (tempfile::TempDir, PathBuf, String) {
    let (around, root, result) = unpacked(entries);
    let status = result.expect_err("it is refused");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    (around, root, status.message().to_owned())
}

fn folders(path: &str) -> Vec<Vec<u8>> {
    Path::new(path)
        .ancestors()
        .filter(|path| !path.as_os_str().is_empty())
        .map(|path| entry(T::Directory, path.to_str().expect("text"), "", b""))
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect()
}

#[test]
fn a_chain_of_links_that_leads_out_is_not_made() {
    let mut entries = folders("d/e");
    entries.push(entry(T::Symlink, "d/e/up", "../..", b""));
    entries.push(entry(T::Symlink, "out", "d/e/up/..", b""));
    let (_around, root, why) = refused(&entries);
    assert!(why.contains("\"out\"") || why.contains("entry out"), "{why}");
    assert!(root.join("d/e/up").is_symlink() && !root.join("out").is_symlink());
}

#[test]
fn a_link_is_judged_by_where_it_is_and_not_by_how_its_place_is_called() {
    let mut entries = folders("a/b");
    entries.push(entry(T::Symlink, "a/b/top", "../..", b""));
    entries.push(entry(T::Symlink, "a/b/top/out", "../..", b""));
    let (_around, root, _) = refused(&entries);
    assert!(!root.join("out").is_symlink());
}

#[test]
fn links_that_stay_inside_are_made() {
    let mut entries = folders("a/b");
    for (name, link) in [("a/up", "../a/b"), ("a/b/up", "../../x"), ("down", "a/b"), ("down/here", "x"), ("here", ".")]
    {
        entries.push(entry(T::Symlink, name, link, b""));
    }
    let (_around, root, result) = unpacked(&entries);
    assert_eq!(result.expect("it is taken"), 7);
    assert_eq!(fs::read_link(root.join("a/b/here")).expect("a link"), Path::new("x"));
}

#[test]
fn headers_of_any_size_are_not_held() {
    let (_around, _, why) =
        refused(&[entry(T::GNULongName, "long", "", &vec![b'x'; 400_000]), entry(T::Regular, "x", "", b"")]);
    assert!(why.contains("the headers of one entry have more than"), "{why}");
    let name = "n/".repeat(1000) + "x";
    let (_around, root, result) =
        unpacked(&[entry(T::GNULongName, "long", "", name.as_bytes()), entry(T::Regular, "x", "", b"text")]);
    assert_eq!(result.expect("a long name is no harm"), 1);
    assert!(root.join(name).exists());
}

#[test]
fn contents_that_an_entry_should_not_have_are_skipped_whatever_their_size() {
    let (_around, root, result) =
        unpacked(&[entry(T::Directory, "d", "", &vec![0; 1_000_000]), entry(T::Regular, "x", "", b"text")]);
    assert_eq!(result.expect("it is taken"), 2);
    assert_eq!(fs::read(root.join("x")).expect("a file"), b"text");
}

#[test]
fn a_sparse_file_stays_sparse_and_one_of_absurd_size_is_refused() {
    let (_around, root, result) = unpacked(&[sparse(64 << 20)]);
    assert_eq!(result.expect("it is taken"), 1);
    let found = fs::metadata(root.join("sparse")).expect("a file");
    assert_eq!(found.len(), 64 << 20);
    assert!(found.blocks() * 512 < 1 << 20, "its zeros take {} bytes", found.blocks() * 512);
    let (_around, root, why) = refused(&[sparse((64 << 20) + 1)]);
    assert!(why.contains("sparse file of 67108865 bytes"), "{why}");
    assert_eq!(fs::read_dir(root).expect("a folder").count(), 0);
}

#[test]
fn a_files_path_ends_with_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink("elsewhere", folder.path().join("link")).expect("a link");
    for end in ["link/", "link/.", "new/"] {
        let path = format!("{}/{end}", folder.path().display());
        let status = write_file(&path, 0, vec![Bytes::from_static(b"x")], true).expect_err("it names a folder");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    assert!(folder.path().join("link").is_symlink() && !folder.path().join("new").exists());
}
