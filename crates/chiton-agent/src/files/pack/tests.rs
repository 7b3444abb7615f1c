use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// The names of an archive of a folder, and the contents of its files.
fn archived(root: &Path) -> (BTreeSet<String>, Vec<u8>) {
    let (to, mut from) = mpsc::channel::<Result<FileChunk, Status>>(PIECES);
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        while let Some(piece) = from.blocking_recv() {
            bytes.extend_from_slice(&piece.expect("a piece").data);
        }
        bytes
    });
    let mut out = Out { to, buffer: BytesMut::new() };
    pack(root, &mut out).expect("an archive");
    out.flush().expect("its end");
    drop(out);
    let bytes = reading.join().expect("a thread");
    let (mut names, mut contents) = (BTreeSet::new(), Vec::new());
    for entry in tar::Archive::new(bytes.as_slice()).entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        names.insert(entry.path().expect("a name").display().to_string());
        entry.read_to_end(&mut contents).expect("contents");
    }
    (names, contents)
}

#[test]
fn an_archive_has_all_of_a_tree_and_its_links_as_links() {
    let around = tempfile::tempdir().expect("a folder");
    let root = around.path().join("root");
    fs::create_dir_all(root.join("a/b")).expect("folders");
    fs::write(root.join("a/b/file"), "contents").expect("a file");
    std::os::unix::fs::symlink("/etc", root.join("link")).expect("a link");
    let (names, contents) = archived(&root);
    let wanted = ["root", "root/a", "root/a/b", "root/a/b/file", "root/link"];
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), wanted);
    assert_eq!(contents, b"contents");
}

#[test]
fn a_link_that_takes_a_folders_place_while_it_is_read_leads_nowhere() {
    let around = tempfile::tempdir().expect("a folder");
    let (root, secret) = (around.path().join("root"), around.path().join("secret"));
    fs::create_dir_all(root.join("deep/folder")).expect("folders");
    fs::write(root.join("deep/folder/file"), "plain").expect("a file");
    fs::create_dir(&secret).expect("a folder");
    fs::write(secret.join("file"), "SECRET").expect("a file");
    // One exchanges the folder for a link to elsewhere and back, as fast as it can, while the other reads.
    let (place, link) = (root.join("deep/folder"), around.path().join("link"));
    std::os::unix::fs::symlink(&secret, &link).expect("a link");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(rustix::fs::CWD, &place, rustix::fs::CWD, &link, flags).expect("an exchange");
            }
        });
        for _ in 0..2_000 {
            let (_, contents) = archived(&root);
            assert!(!String::from_utf8_lossy(&contents).contains("SECRET"), "it followed a link");
        }
        done.store(true, Ordering::Relaxed);
    });
}
