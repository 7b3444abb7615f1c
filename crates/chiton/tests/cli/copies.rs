//! `sandbox cp`, this machine's side.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use chiton_model::Error;
use chiton_proto::agent::v1 as agent;
use chiton_proto::agent::v1::stat_response::Kind;

use crate::scripted::Server;

fn stat(server: &Server, kind: Kind) {
    server.answers("stat", agent::StatResponse { kind: kind.into(), size: 3, mode: 0o644 });
}

fn chunk(data: &[u8], mode: u32) -> agent::FileChunk {
    agent::FileChunk { data: data.to_vec().into(), mode, size: data.len() as u64 }
}

#[test]
fn a_file_arrives_whole_and_gives_nobody_rights() {
    let server = Server::start();
    stat(&server, Kind::File);
    server.streams("read_file", vec![chunk(b"ab", 0o6777), chunk(b"c", 0)]);
    assert_eq!(server.run(&["sandbox", "cp", "box:/etc/x", "here"]).code, Some(0));
    let here = server.folder.path().join("here");
    assert_eq!(fs::read(&here).expect("a file"), b"abc");
    assert_eq!(fs::metadata(&here).expect("a file").permissions().mode() & 0o7777, 0o755);
    // Into a folder under its own name.
    fs::create_dir(server.folder.path().join("into")).expect("a folder");
    assert_eq!(server.run(&["sandbox", "cp", "box:/etc/x", "into"]).code, Some(0));
    assert_eq!(fs::read(server.folder.path().join("into/x")).expect("a file"), b"abc");
}

#[test]
fn a_file_that_breaks_off_leaves_what_was_there() {
    let server = Server::start();
    stat(&server, Kind::File);
    fs::write(server.folder.path().join("here"), "old").expect("a file");
    server.fails::<agent::FileChunk>("read_file", Error::unavailable("agent", "gone"));
    assert_eq!(server.run(&["sandbox", "cp", "box:/etc/x", "here"]).code, Some(1));
    assert_eq!(fs::read(server.folder.path().join("here")).expect("a file"), b"old");
    let names: Vec<_> =
        fs::read_dir(server.folder.path()).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names.len(), 2, "nothing but the socket and the file: {names:?}");
}

#[test]
fn a_link_is_written_through_and_a_special_file_never_replaced() {
    let server = Server::start();
    stat(&server, Kind::File);
    server.streams("read_file", vec![chunk(b"abc", 0o600)]);
    let place = |name: &str| server.folder.path().join(name);
    fs::write(place("real"), "old").expect("a file");
    symlink("real", place("link")).expect("a link");
    assert_eq!(server.run(&["sandbox", "cp", "box:/etc/x", "link"]).code, Some(0));
    assert!(fs::symlink_metadata(place("link")).expect("there").is_symlink());
    assert_eq!(fs::read(place("real")).expect("a file"), b"abc");
    let ran = server.run(&["sandbox", "cp", "box:/etc/x", "s"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("is there and is no regular file"), "{}", ran.err);
    assert!(server.socket().exists() && !fs::metadata(server.socket()).expect("there").is_file());
}

#[test]
fn a_file_goes_up_after_selector_and_start_and_is_finished() {
    let server = Server::start();
    server.fails::<agent::StatResponse>("stat", Error::not_found("nothing there"));
    server.answers("write_file", agent::WriteFileResponse { size: 3 });
    fs::write(server.folder.path().join("mine"), "abc").expect("a file");
    fs::set_permissions(server.folder.path().join("mine"), fs::Permissions::from_mode(0o640)).expect("sets");
    let ran = server.run(&["--json", "sandbox", "cp", "mine", "box:/new"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    let asked = server.asked("write_file");
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert!(asked[0].contains(r#"Name("box")"#));
    assert!(asked[1].contains(r#"path: "/new""#) && asked[1].contains("mode: 416"), "{}", asked[1]);
    assert!(asked[3].contains("Finish(true)"));
    // Into a folder that is there, under its own name.
    stat(&server, Kind::Folder);
    assert_eq!(server.run(&["sandbox", "cp", "mine", "box:/there/"]).code, Some(0));
    assert!(server.asked("write_file")[5].contains(r#"path: "/there/mine""#));
}

fn archive(entries: &[(&str, tar::EntryType, &str, u32)]) -> Vec<agent::FileChunk> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, kind, content, mode) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        let link = kind.is_symlink() || kind.is_hard_link();
        header.set_size(if link { 0 } else { content.len() as u64 });
        if link {
            builder.append_link(&mut header, path, content).expect("appends");
        } else {
            builder.append_data(&mut header, path, content.as_bytes()).expect("appends");
        }
    }
    let whole = builder.into_inner().expect("whole");
    // Cut anywhere: chunks have nothing to do with entries.
    whole.chunks(700).map(|part| chunk(part, 0)).collect()
}

#[test]
fn a_folder_arrives_with_its_links_and_modes() {
    use tar::EntryType as T;
    let server = Server::start();
    stat(&server, Kind::Folder);
    let entries = [
        ("tree", T::Directory, "", 0o2777),
        ("tree/shut", T::Directory, "", 0o555),
        ("tree/shut/file", T::Regular, "abc", 0o4766),
        ("tree/link", T::Symlink, "./shut/file", 0o777),
        ("tree/hard", T::Link, "tree/shut/file", 0o644),
    ];
    server.streams("read_tar", archive(&entries));
    let ran = server.run(&["sandbox", "cp", "box:/srv/tree", "copy"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    let copy = server.folder.path().join("copy");
    let mode = |path: &str| fs::metadata(copy.join(path)).expect("there").permissions().mode() & 0o7777;
    assert_eq!((mode(""), mode("shut"), mode("shut/file")), (0o755, 0o555, 0o744));
    assert_eq!(fs::read(copy.join("link")).expect("a file"), b"abc");
    assert_eq!(fs::read(copy.join("hard")).expect("a file"), b"abc");
    // A second one does not mix with the first.
    let ran = server.run(&["sandbox", "cp", "box:/srv/tree", "copy"]);
    assert_eq!(ran.code, Some(0), "into the folder, under its own name: {}", ran.err);
    assert!(copy.join("tree/shut/file").exists());
    assert_eq!(server.run(&["sandbox", "cp", "box:/srv/tree", "copy"]).code, Some(1));
}

#[test]
fn the_root_arrives_with_all_that_is_in_it() {
    use tar::EntryType as T;
    let server = Server::start();
    stat(&server, Kind::Folder);
    server.streams("read_tar", archive(&[("a", T::Regular, "1", 0o644), ("b", T::Regular, "2", 0o644)]));
    assert_eq!(server.run(&["sandbox", "cp", "box:/", "all"]).code, Some(0));
    assert_eq!(fs::read(server.folder.path().join("all/a")).expect("a file"), b"1");
    assert_eq!(fs::read(server.folder.path().join("all/b")).expect("a file"), b"2");
}

#[test]
fn a_broken_off_archive_leaves_nothing() {
    use tar::EntryType as T;
    let server = Server::start();
    stat(&server, Kind::Folder);
    let mut chunks = archive(&[("tree", T::Directory, "", 0o755), ("tree/x", T::Regular, &"x".repeat(5000), 0o644)]);
    chunks.truncate(3);
    server.streams("read_tar", chunks);
    assert_eq!(server.run(&["sandbox", "cp", "box:/tree", "copy"]).code, Some(1));
    let left: Vec<_> =
        fs::read_dir(server.folder.path()).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["s"], "only the socket is there");
}

#[test]
fn a_missing_path_is_told_from_a_missing_sandbox() {
    let server = Server::start();
    server.fails::<agent::StatResponse>("stat", Error::not_found("x could not be looked at"));
    server.answers("get_sandbox", crate::answers::sandbox());
    let ran = server.run(&["sandbox", "cp", "box:/x", "here"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), "error: there is no \"/x\" in the sandbox [not_found]\n"));
    server.fails::<chiton_proto::v1::Sandbox>("get_sandbox", Error::not_found("no sandbox \"box\""));
    let ran = server.run(&["sandbox", "cp", "box:/x", "here"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), "error: no sandbox \"box\" [not_found]\n"));
}

#[test]
fn both_sides_here_or_there_are_refused() {
    let server = Server::start();
    for (source, target) in [("a", "b"), ("x:/a", "y:/b")] {
        let ran = server.run(&["sandbox", "cp", source, target]);
        assert_eq!(ran.code, Some(1));
        assert!(ran.err.contains("both sides are"), "{}", ran.err);
    }
}
