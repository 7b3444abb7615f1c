//! Files, by the sandbox's own tools.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use bytes::Bytes;
use chiton_gateway::sessions::AgentClient;
use chiton_proto::agent::v1::stat_response::Kind;
use chiton_proto::agent::v1::write_file_request::Input as FileInput;
use chiton_proto::agent::v1::write_tar_request::Input as TarInput;
use chiton_proto::agent::v1::{
    ReadFileRequest, ReadTarRequest, StatRequest, WriteFileRequest, WriteFileStart, WriteTarRequest, WriteTarStart,
};
use tonic::{Code, Status};

use crate::rig::{Rig, soon};

async fn read(client: &mut AgentClient, path: &str) -> Result<(Vec<u8>, u32, u64), Status> {
    let mut chunks = soon(client.read_file(ReadFileRequest { path: path.to_owned() })).await?.into_inner();
    let mut whole = (Vec::new(), 0, 0);
    let mut first = true;
    while let Some(chunk) = soon(chunks.message()).await? {
        if first {
            (whole.1, whole.2) = (chunk.mode, chunk.size);
        }
        first = false;
        whole.0.extend_from_slice(&chunk.data);
    }
    Ok(whole)
}

async fn write(client: &mut AgentClient, path: &str, mode: u32, data: &[u8], finish: bool) -> Result<u64, Status> {
    let message = |input| WriteFileRequest { input: Some(input) };
    let start = message(FileInput::Start(WriteFileStart { path: path.to_owned(), mode }));
    let mut messages = vec![start];
    messages.extend(data.chunks(50_000).map(|piece| message(FileInput::Data(Bytes::copy_from_slice(piece)))));
    messages.extend(finish.then(|| message(FileInput::Finish(true))));
    Ok(soon(client.write_file(tokio_stream::iter(messages))).await?.into_inner().size)
}

async fn unpack(client: &mut AgentClient, path: &str, archive: Vec<u8>) -> Result<u64, Status> {
    let message = |input| WriteTarRequest { input: Some(input) };
    let start = message(TarInput::Start(WriteTarStart { path: path.to_owned(), outside_links: false }));
    let mut messages = vec![start];
    messages.extend(archive.chunks(50_000).map(|piece| message(TarInput::Data(Bytes::copy_from_slice(piece)))));
    messages.push(message(TarInput::Finish(true)));
    Ok(soon(client.write_tar(tokio_stream::iter(messages))).await?.into_inner().entries)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_goes_in_and_comes_back_with_its_mode() {
    let (rig, _supervisor) = Rig::ready().await;
    let mut client = rig.agent();
    let path = rig.home().join("it's a \"file\"\n");
    let name = path.to_str().expect("text").to_owned();
    let data: Vec<u8> = (0..700_000_u32).map(|number| (number % 251) as u8).collect();
    assert_eq!(write(&mut client, &name, 0o640, &data, true).await.expect("written"), 700_000);
    assert!(fs::read(&path).expect("read") == data);
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o640);
    let (back, mode, size) = read(&mut client, &name).await.expect("read");
    assert!(back == data);
    assert_eq!((mode, size), (0o640, 700_000));
    // Written again without a mode it keeps its own; a new one gets the usual.
    write(&mut client, &name, 0, b"", true).await.expect("written");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o640);
    assert_eq!(read(&mut client, &name).await.expect("read"), (Vec::new(), 0o640, 0));
    let fresh = rig.home().join("fresh");
    write(&mut client, fresh.to_str().expect("text"), 0, b"x", true).await.expect("written");
    assert_eq!(fs::metadata(&fresh).expect("there").permissions().mode() & 0o7777, 0o644);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_breaks_off_leaves_what_was_there() {
    let (rig, _supervisor) = Rig::ready().await;
    let path = rig.home().join("kept");
    fs::write(&path, "before").expect("written");
    let status =
        write(&mut rig.agent(), path.to_str().expect("text"), 0, b"half", false).await.expect_err("broken off");
    assert_eq!(status.code(), Code::Cancelled);
    assert_eq!(fs::read(&path).expect("read"), b"before");
    let left: Vec<_> =
        fs::read_dir(rig.home()).expect("listed").map(|entry| entry.expect("an entry").file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".chiton")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_or_of_another_kind_is_said() {
    let (rig, _supervisor) = Rig::ready().await;
    let mut client = rig.agent();
    let home = rig.home().to_str().expect("text").to_owned();
    let missing = format!("{home}/missing");
    assert_eq!(read(&mut client, &missing).await.expect_err("refused").code(), Code::NotFound);
    assert_eq!(read(&mut client, &home).await.expect_err("refused").code(), Code::FailedPrecondition);
    assert_eq!(read(&mut client, "relative").await.expect_err("refused").code(), Code::InvalidArgument);
    assert_eq!(
        write(&mut client, &format!("{missing}/file"), 0, b"", true).await.expect_err("refused").code(),
        Code::NotFound
    );
    assert_eq!(write(&mut client, &home, 0, b"", true).await.expect_err("refused").code(), Code::FailedPrecondition);
    let stat = |path: &str| StatRequest { path: path.to_owned() };
    let found = soon(client.stat(stat(&home))).await.expect("there").into_inner();
    let mode = fs::metadata(rig.home()).expect("there").permissions().mode() & 0o7777;
    assert_eq!((found.kind(), found.mode), (Kind::Folder, mode));
    let found = soon(client.stat(stat("/dev/null"))).await.expect("there").into_inner();
    assert_eq!(found.kind(), Kind::Other);
    assert_eq!(soon(client.stat(stat(&missing))).await.expect_err("refused").code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folders_go_out_and_in_as_archives() {
    let (rig, _supervisor) = Rig::ready().await;
    let mut client = rig.agent();
    let from = rig.home().join("from");
    fs::create_dir_all(from.join("deep")).expect("made");
    let data: Vec<u8> = (0..300_000_u32).map(|number| (number % 253) as u8).collect();
    fs::write(from.join("deep/file"), &data).expect("written");
    std::os::unix::fs::symlink("deep/file", from.join("link")).expect("linked");
    let request = ReadTarRequest { path: from.to_str().expect("text").to_owned() };
    let mut chunks = soon(client.read_tar(request)).await.expect("read").into_inner();
    let mut archive = Vec::new();
    while let Some(chunk) = soon(chunks.message()).await.expect("whole") {
        archive.extend_from_slice(&chunk.data);
    }
    let to = rig.home().join("to");
    let entries = unpack(&mut client, to.to_str().expect("text"), archive).await.expect("unpacked");
    assert_eq!(entries, 4);
    assert!(fs::read(to.join("from/deep/file")).expect("read") == data);
    assert_eq!(fs::read_link(to.join("from/link")).expect("a link"), std::path::Path::new("deep/file"));
    let request = ReadTarRequest { path: rig.home().join("missing").to_str().expect("text").to_owned() };
    let mut chunks = soon(client.read_tar(request)).await.expect("begun").into_inner();
    assert_eq!(soon(chunks.message()).await.expect_err("refused").code(), Code::NotFound);
}

fn archive(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    fill(&mut builder);
    builder.into_inner().expect("an archive")
}

/// A header whose name is written as it is: the library refuses such names.
fn header(name: &str, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(0);
    header.set_cksum();
    header
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_would_leave_its_folder_is_refused_before_it_does() {
    let (rig, _supervisor) = Rig::ready().await;
    let mut client = rig.agent();
    let to = rig.home().join("to");
    let to = to.to_str().expect("text");
    let link = |name: &str, target: &str| {
        let (name, target) = (name.to_owned(), target.to_owned());
        move |builder: &mut tar::Builder<Vec<u8>>| {
            let mut header = header("", tar::EntryType::Symlink);
            builder.append_link(&mut header, name, target).expect("written");
        }
    };
    let plain = |name: &'static str, kind| {
        archive(move |builder| builder.append(&header(name, kind), std::io::empty()).expect("written"))
    };
    let through = archive(|builder| {
        link("door", "inner")(builder);
        builder.append(&header("door/file", tar::EntryType::Regular), std::io::empty()).expect("written");
    });
    let cases = [
        (plain("../out", tar::EntryType::Regular), "would leave"),
        (plain("/etc/out", tar::EntryType::Regular), "would leave"),
        (plain("device", tar::EntryType::Char), "device"),
        (plain("pipe", tar::EntryType::Fifo), "pipe"),
        (archive(link("door", "/etc")), "could lead out"),
        (archive(link("deep/door", "../../x")), "could lead out"),
        (through, "through a symbolic link"),
        (b"no archive at all".repeat(100), "broken"),
    ];
    for (archive, reason) in cases {
        let status = unpack(&mut client, to, archive).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(reason), "{status}");
    }
    assert!(!rig.home().join("out").exists());
}
