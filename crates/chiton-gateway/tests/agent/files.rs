//! Files.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use bytes::Bytes;
use chiton_gateway::sessions::AgentClient;
use chiton_proto::agent::v1::stat_response::Kind;
use chiton_proto::agent::v1::{
    FileChunk, ReadFileRequest, ReadTarRequest, StatRequest, WriteFileRequest, WriteFileStart, WriteTarRequest,
    WriteTarStart, write_file_request, write_tar_request,
};
use tonic::{Code, Status, Streaming};

use super::sandbox::{ready, soon};

fn text(path: &Path) -> String {
    path.to_str().expect("text").to_owned()
}

async fn write(client: &mut AgentClient, path: &Path, mode: u32, data: &[u8], finish: bool) -> Result<u64, Status> {
    use write_file_request::Input;
    let mut inputs = vec![Input::Start(WriteFileStart { path: text(path), mode })];
    inputs.extend(data.chunks(50_000).map(|part| Input::Data(Bytes::copy_from_slice(part))));
    inputs.extend(finish.then_some(Input::Finish(true)));
    let inputs = inputs.into_iter().map(|input| WriteFileRequest { input: Some(input) });
    soon(client.write_file(tokio_stream::iter(inputs))).await.map(|response| response.into_inner().size)
}

async fn unpack(client: &mut AgentClient, path: &Path, outside_links: bool, tar: &[u8]) -> Result<u64, Status> {
    use write_tar_request::Input;
    let mut inputs = vec![Input::Start(WriteTarStart { path: text(path), outside_links })];
    inputs.extend(tar.chunks(50_000).map(|part| Input::Data(Bytes::copy_from_slice(part))));
    inputs.push(Input::Finish(true));
    let inputs = inputs.into_iter().map(|input| WriteTarRequest { input: Some(input) });
    soon(client.write_tar(tokio_stream::iter(inputs))).await.map(|response| response.into_inner().entries)
}

async fn collect(mut stream: Streaming<FileChunk>) -> Result<(Vec<u8>, FileChunk), Status> {
    let mut first = None;
    let mut bytes = Vec::new();
    while let Some(chunk) = soon(stream.message()).await? {
        bytes.extend_from_slice(&chunk.data);
        first.get_or_insert(chunk);
    }
    Ok((bytes, first.unwrap_or_default()))
}

async fn read(client: &mut AgentClient, path: &Path) -> Result<(Vec<u8>, FileChunk), Status> {
    collect(client.read_file(ReadFileRequest { path: text(path) }).await?.into_inner()).await
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_file_is_written_and_read_back_with_its_mode() {
    let (sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    let file = sandbox.work.path().join("file");
    let data: Vec<u8> = (0..1_000_000_u32).map(|number| u8::try_from(number % 251).expect("small")).collect();
    assert_eq!(write(&mut client, &file, 0o600, &data, true).await.expect("written"), 1_000_000);
    let (bytes, first) = read(&mut client, &file).await.expect("read");
    assert!(bytes == data);
    assert_eq!((first.mode, first.size), (0o600, 1_000_000));
    // No mode given: that of the file being replaced.
    write(&mut client, &file, 0, b"", true).await.expect("written");
    let (bytes, first) = read(&mut client, &file).await.expect("read");
    assert_eq!((bytes.len(), first.mode), (0, 0o600));
    assert_eq!(names(sandbox.work.path()), ["file"]);
}

#[tokio::test]
async fn an_unfinished_write_leaves_the_old_file_and_nothing_else() {
    let (sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    let file = sandbox.work.path().join("file");
    fs::write(&file, "old").expect("written");
    let error = write(&mut client, &file, 0, &vec![1; 200_000], false).await.expect_err("refused");
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    assert_eq!(fs::read(&file).expect("there"), b"old");
    // The file thread removes its temporary file when the stream's end reaches it; a later call is behind it only in time.
    let clean = async {
        while names(sandbox.work.path()) != ["file"] {
            tokio::task::yield_now().await;
        }
    };
    soon(clean).await;
}

#[tokio::test]
async fn a_link_in_the_last_place_is_replaced_and_not_followed() {
    let (sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    let (target, link) = (sandbox.work.path().join("target"), sandbox.work.path().join("link"));
    fs::write(&target, "untouched").expect("written");
    symlink(&target, &link).expect("linked");
    write(&mut client, &link, 0, b"new", true).await.expect("written");
    assert_eq!(fs::read(&target).expect("there"), b"untouched");
    assert!(fs::symlink_metadata(&link).expect("there").is_file());
}

#[tokio::test]
async fn bad_paths_have_telling_codes() {
    let (sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    let work = sandbox.work.path();
    for bad in ["relative", "", "/a/../b", "/a\0b", &format!("/{}", "x".repeat(5000))] {
        let error = read(&mut client, Path::new(bad)).await.expect_err("refused");
        assert_eq!(error.code(), Code::InvalidArgument, "{bad:?}: {error}");
    }
    assert_eq!(read(&mut client, &work.join("none")).await.expect_err("refused").code(), Code::NotFound);
    assert_eq!(read(&mut client, work).await.expect_err("refused").code(), Code::FailedPrecondition);
    assert_eq!(write(&mut client, work, 0, b"x", true).await.expect_err("refused").code(), Code::FailedPrecondition);
    let missing = work.join("none/file");
    assert_eq!(write(&mut client, &missing, 0, b"x", true).await.expect_err("refused").code(), Code::NotFound);
    // Nobody writes to it: a reader that opened it the usual way would wait for ever.
    nix::unistd::mkfifo(&work.join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    assert_eq!(read(&mut client, &work.join("pipe")).await.expect_err("refused").code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn stat_says_what_is_there() {
    let (sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    let file = sandbox.work.path().join("file");
    fs::write(&file, "four").expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("set");
    let found = client.stat(StatRequest { path: text(&file) }).await.expect("found").into_inner();
    assert_eq!((found.kind(), found.size, found.mode), (Kind::File, 4, 0o640));
    let found = client.stat(StatRequest { path: text(sandbox.work.path()) }).await.expect("found").into_inner();
    assert_eq!(found.kind(), Kind::Folder);
}

#[tokio::test]
async fn a_tree_comes_back_as_it_was() {
    let (sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    let tree = sandbox.work.path().join("tree");
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(120));
    fs::create_dir_all(tree.join(&long).parent().expect("a parent")).expect("made");
    fs::write(tree.join(&long), vec![3; 300_000]).expect("written");
    fs::write(tree.join("run"), "#!/bin/sh\n").expect("written");
    fs::set_permissions(tree.join("run"), fs::Permissions::from_mode(0o751)).expect("set");
    fs::create_dir(tree.join("closed")).expect("made");
    fs::write(tree.join("closed/inside"), "x").expect("written");
    fs::set_permissions(tree.join("closed"), fs::Permissions::from_mode(0o555)).expect("set");
    symlink("run", tree.join("link")).expect("linked");
    nix::unistd::mkfifo(&tree.join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let stream = client.read_tar(ReadTarRequest { path: text(&tree) }).await.expect("read").into_inner();
    let (tar, _) = collect(stream).await.expect("whole");
    let copy = sandbox.work.path().join("copy");
    unpack(&mut client, &copy, false, &tar).await.expect("unpacked");
    let copy = copy.join("tree");
    assert_eq!(fs::read(copy.join(&long)).expect("there"), vec![3; 300_000]);
    assert_eq!(fs::metadata(copy.join("run")).expect("there").permissions().mode() & 0o7777, 0o751);
    assert_eq!(fs::metadata(copy.join("closed")).expect("there").permissions().mode() & 0o7777, 0o555);
    assert_eq!(fs::read_link(copy.join("link")).expect("a link"), Path::new("run"));
    assert_eq!(names(&copy.join("closed")), ["inside"]);
    assert!(!copy.join("pipe").exists());
    let times = |path: &Path| fs::metadata(path).expect("there").modified().expect("a time");
    let apart = times(&tree.join("run")).duration_since(times(&copy.join("run"))).expect("cut to seconds");
    assert!(apart.as_secs() == 0);
}

/// An archive with one entry, its name and link written raw: the library refuses to write the bad ones.
fn entry(kind: tar::EntryType, name: &str, link: &str, data: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(data.len() as u64);
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append(&header, data).expect("in memory");
    archive.into_inner().expect("in memory")
}

#[tokio::test]
async fn entries_that_leave_the_folder_are_refused_and_write_nothing() {
    use tar::EntryType as Type;
    let (sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    let (root, outside) = (sandbox.work.path().join("root"), sandbox.work.path().join("outside"));
    fs::create_dir(&root).expect("made");
    fs::create_dir(&outside).expect("made");
    fs::write(outside.join("secret"), "s").expect("written");
    symlink(&outside, root.join("way")).expect("linked");
    symlink("../outside", root.join("back")).expect("linked");
    let absolute = text(&outside.join("evil"));
    let cases = [
        (Type::Regular, absolute.as_str(), ""),
        (Type::Regular, "../outside/evil", ""),
        (Type::Regular, "a/../../outside/evil", ""),
        (Type::Regular, "way/evil", ""),
        (Type::Regular, "back/evil", ""),
        (Type::Directory, "way/evil", ""),
        (Type::Symlink, "link", "/etc/passwd"),
        (Type::Symlink, "sub/link", "../../outside"),
        (Type::Link, "hard", "../outside/secret"),
        (Type::Link, "hard", "way/secret"),
        (Type::Link, "hard", "way"),
        (Type::Char, "device", ""),
        (Type::Block, "device", ""),
        (Type::Fifo, "pipe", ""),
    ];
    for (kind, name, link) in cases {
        let data: &[u8] = if kind == Type::Regular { b"evil" } else { b"" };
        let error = unpack(&mut client, &root, false, &entry(kind, name, link, data)).await.expect_err("refused");
        assert_eq!(error.code(), Code::InvalidArgument, "{kind:?} {name} {link}: {error}");
        assert_eq!(names(&outside), ["secret"], "{kind:?} {name} {link}");
        assert_eq!(names(&root), ["back", "way"], "{kind:?} {name} {link}");
    }
}

#[tokio::test]
async fn outside_links_are_made_on_request_and_never_written_through() {
    use tar::EntryType as Type;
    let (sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    let (root, outside) = (sandbox.work.path().join("root"), sandbox.work.path().join("outside"));
    fs::create_dir(&outside).expect("made");
    let link = entry(Type::Symlink, "link", "../outside", b"");
    assert_eq!(unpack(&mut client, &root, true, &link).await.expect("made"), 1);
    let through = entry(Type::Regular, "link/evil", "", b"evil");
    assert_eq!(unpack(&mut client, &root, true, &through).await.expect_err("refused").code(), Code::InvalidArgument);
    assert_eq!(names(&outside), Vec::<String>::new());
}

#[tokio::test]
async fn a_broken_archive_leaves_no_part_of_a_file() {
    let (sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    let root = sandbox.work.path().join("root");
    let whole = entry(tar::EntryType::Regular, "file", "", &vec![9; 200_000]);
    let error = unpack(&mut client, &root, false, &whole[..100_000]).await.expect_err("refused");
    assert!(!error.message().is_empty());
    assert_eq!(names(&root), Vec::<String>::new());
    let error = unpack(&mut client, &root, false, &[0x55; 2048]).await.expect_err("refused");
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
}
