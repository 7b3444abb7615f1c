//! Answers that are lies, as a well-behaved HTTP/2 server gives them.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use chiton_proto::agent::v1::exec_output::Output;
use chiton_proto::agent::v1::{ExecExit, ExecOutput, FileChunk, StatResponse};
use futures::stream::{self, Stream, StreamExt as _};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;

use super::Door;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Serves lies of one kind over one session after the other, until killed.
pub(super) async fn serve(door: &Door, kind: &str) -> io::Result<String> {
    let mut first = true;
    loop {
        let stream = door.enter().await?;
        if std::mem::take(&mut first) {
            println!("accepted");
        }
        // Silent until spoken to, as the protocol wants it.
        stream.readable().await?;
        let kind = kind.to_owned();
        let service = service_fn(move |request: Request<Incoming>| answer(kind.clone(), request));
        // How it ended makes no difference to a liar.
        drop(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
    }
}

/// A message with gRPC's five bytes before it: not compressed, and its length.
fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(message.len() + 5);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    bytes.put_slice(message);
    bytes.freeze()
}

fn status(code: &'static str) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    Frame::trailers(trailers)
}

/// These pieces, and then an end that says that all is well.
fn well(pieces: Vec<Bytes>) -> Body {
    let frames = pieces.into_iter().map(Frame::data).chain([status("0")]);
    body(stream::iter(frames))
}

fn body(frames: impl Stream<Item = Frame<Bytes>> + Send + 'static) -> Body {
    StreamBody::new(frames.map(Ok)).boxed_unsync()
}

fn output(output: Output) -> Bytes {
    framed(&ExecOutput { output: Some(output) }.encode_to_vec())
}

fn exit(code: i32) -> Bytes {
    output(Output::Exit(ExecExit { code, ..ExecExit::default() }))
}

fn chunk(data: Vec<u8>, size: u64) -> Bytes {
    framed(&FileChunk { data: data.into(), mode: 0o7777, size }.encode_to_vec())
}

async fn answer(kind: String, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let call = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    // Nobody reads what the gateway sends, but it may send.
    tokio::spawn(async move {
        let mut incoming = request.into_body();
        while let Some(Ok(_)) = incoming.frame().await {}
    });
    let body = match kind.as_str() {
        "never" => {
            std::future::pending::<()>().await;
            well(Vec::new())
        }
        // Headers, and then nothing.
        "half" => body(stream::pending()),
        // As fast as it is taken.
        "endless" => {
            let piece = output(Output::Stdout(vec![b'x'; 64 * 1024].into()));
            body(stream::repeat_with(move || Frame::data(piece.clone())))
        }
        "endless-chunks" if call == "Stat" => well(vec![stat(2)]),
        "endless-chunks" => {
            let piece = chunk(vec![0; 64 * 1024], 1);
            body(stream::repeat_with(move || Frame::data(piece.clone())))
        }
        // A message that is longer than its length says anybody takes: 200 MiB announced, and sent.
        "huge" => {
            let head = Bytes::from_static(&[0, 0x0c, 0x80, 0, 0]);
            let piece = Bytes::from(vec![0x0a; 64 * 1024]);
            body(
                stream::once(async { Frame::data(head) })
                    .chain(stream::repeat_with(move || Frame::data(piece.clone()))),
            )
        }
        // Bytes that are no message.
        "malformed" => well(vec![framed(&[0xff; 64]), framed(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")]),
        // What only looks compressed.
        "compressed" => well(vec![Bytes::from_static(&[1, 0, 0, 0, 4, 1, 2, 3, 4])]),
        // No message, no end, twice an end, an exit before its output.
        "empty" => well(Vec::new()),
        "no-exit" => well(vec![output(Output::Started(1)), output(Output::Stdout("said".into()))]),
        "odd-exit" => {
            well(vec![exit(i32::MIN), exit(0), output(Output::Stdout("late".into())), output(Output::Started(-1))])
        }
        "trickle" => {
            let piece = output(Output::Stderr("x".into()));
            body(stream::unfold(piece, |piece| async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Some((Frame::data(piece.clone()), piece))
            }))
        }
        // Says that a file is short and sends much, or long and sends nothing.
        "sizes" if call == "Stat" => well(vec![stat(1)]),
        "sizes" => well(vec![chunk(b"short".to_vec(), u64::MAX)]),
        "status" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("999999999999"));
            let long = HeaderValue::from_bytes(&[b'%'; 4000]).unwrap_or(HeaderValue::from_static("%"));
            trailers.insert("grpc-message", long);
            body(stream::iter([Frame::trailers(trailers)]))
        }
        "escapes" => well(vec![
            output(Output::Stdout("\x1b]0;title\x07plain".into())),
            output(Output::Exit(ExecExit {
                code: 126,
                message: "\x1b[2J\x1b]52;c;YXR0YWNr\x07words".to_owned(),
                ..ExecExit::default()
            })),
        ]),
        // A folder whose archive is `tar-KIND`.
        other => match (call.as_str(), other.strip_prefix("tar-")) {
            ("Stat", Some(_)) => well(vec![stat(2)]),
            ("ReadTar", Some(kind)) => match archive(kind) {
                Ok(bytes) => well(vec![chunk(bytes, 0)]),
                Err(error) => {
                    eprintln!("{error}");
                    well(Vec::new())
                }
            },
            _ => body(stream::iter([status("12")])),
        },
    };
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}

fn stat(kind: i32) -> Bytes {
    framed(&StatResponse { kind, size: 1, mode: 0o755 }.encode_to_vec())
}

/// An entry whose name is written as it is: the library would refuse it.
fn entry(
    builder: &mut tar::Builder<Vec<u8>>,
    name: &str,
    kind: tar::EntryType,
    link: &str,
    data: &[u8],
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(data.len() as u64);
    header.set_mode(0o6777);
    header.set_entry_type(kind);
    let fields = header.as_old_mut();
    for (field, text) in [(&mut fields.name, name), (&mut fields.linkname, link)] {
        let bytes = text.as_bytes();
        let length = bytes.len().min(field.len());
        field[..length].copy_from_slice(&bytes[..length]);
    }
    header.set_cksum();
    builder.append(&header, data)
}

/// An archive of a folder `tree`, with something hostile in it that writes `victim` beside or above it.
fn archive(kind: &str) -> io::Result<Vec<u8>> {
    use tar::EntryType as E;
    let mut builder = tar::Builder::new(Vec::new());
    let all = &mut builder;
    entry(all, "tree/", E::Directory, "", b"")?;
    let hostile: &[(&str, E, &str)] = match kind {
        "parent" => &[("../victim", E::Regular, "")],
        "below-parent" => &[("tree/../../victim", E::Regular, "")],
        "far-parent" => &[("tree/../../../../../../../../tmp/victim", E::Regular, "")],
        "absolute" => &[("/tmp/victim", E::Regular, "")],
        "beside" => &[("victim", E::Regular, "")],
        "link-parent" => &[("tree/link", E::Symlink, "../.."), ("tree/link/victim", E::Regular, "")],
        "link-absolute" => &[("tree/link", E::Symlink, "/tmp"), ("tree/link/victim", E::Regular, "")],
        "link-chain" => &[
            ("tree/a/", E::Directory, ""),
            ("tree/a/b", E::Symlink, "."),
            ("tree/c", E::Symlink, "a/b/../.."),
            ("tree/c/victim", E::Regular, ""),
        ],
        "link-itself" => &[("tree", E::Symlink, "/tmp"), ("tree/victim", E::Regular, "")],
        "link-file" => &[("tree/file", E::Symlink, "../victim"), ("tree/file", E::Regular, "")],
        "hard-absolute" => &[("tree/hard", E::Link, "/etc/hostname"), ("tree/hard", E::Regular, "")],
        "hard-parent" => &[("tree/hard", E::Link, "../victim"), ("tree/hard", E::Regular, "")],
        "hard-of-link" => &[
            ("tree/soft", E::Symlink, "x"),
            ("tree/deep/", E::Directory, ""),
            ("tree/deep/hard", E::Link, "tree/soft"),
        ],
        "device" => &[("tree/device", E::Char, "")],
        "block" => &[("tree/device", E::Block, "")],
        "pipe" => &[("tree/pipe", E::Fifo, "")],
        "other-top" => &[("other/victim", E::Regular, "")],
        "empty-name" => &[("", E::Regular, "")],
        other => return Err(io::Error::other(format!("there is no archive {other}"))),
    };
    for (name, kind, link) in hostile {
        let data: &[u8] = if *kind == E::Regular { b"hostile" } else { b"" };
        entry(all, name, *kind, link, data)?;
    }
    builder.into_inner()
}
