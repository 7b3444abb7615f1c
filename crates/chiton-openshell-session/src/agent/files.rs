//! Single files, by small scripts in the sandbox. They need a shell and the usual tools (`cat`, `stat`, `mktemp`, `mv`)
//! there, and have the rights of the sandbox's programs.

use bytes::{Bytes, BytesMut};
use chiton_proto::agent::v1::exec_input::Input;
use chiton_proto::agent::v1::exec_output::Output;
use chiton_proto::agent::v1::stat_response::Kind;
use chiton_proto::agent::v1::write_file_request::Input as WriteInput;
use chiton_proto::agent::v1::{
    ExecInput, ExecStart, FileChunk, StatResponse, WriteFileRequest, WriteFileResponse, WriteFileStart,
};
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::exec::{self, Outputs};
use super::{Bridge, Stream};

/// Longest path, in bytes (the kernel's `PATH_MAX`).
const PATH_BYTES: usize = 4096;
/// What of a script's output is kept, in bytes.
const KEPT: usize = 64 * 1024;
/// Pieces that wait for a slow side.
pub(super) const PIECES: usize = 4;

/// What a script's exit code says; other codes are those of the tool that failed.
const MISSING: i32 = 103;
const KIND: i32 = 104;
const DENIED: i32 = 105;
const CHANGED: i32 = 106;

const STAT: &str = r#"[ -e "$1" ] || exit 103; exec stat -L -c '%f %s' -- "$1""#;
const READ: &str = r#"[ -e "$1" ] || exit 103; [ -f "$1" ] || exit 104; [ -r "$1" ] || exit 105
stat -L -c '%f %s' -- "$1" && exec cat -- "$1""#;
const WRITE: &str = r#"folder=${1%/*}; folder=${folder:-/}
[ -d "$folder" ] || exit 103; [ ! -d "$1" ] || exit 104; [ -w "$folder" ] || exit 105
umask 077; name=$(mktemp "$folder/.chiton.XXXXXX") || exit
printf '%s\n' "$name"; cat >"$name" || { code=$?; rm -f -- "$name"; exit "$code"; }"#;
const FINISH: &str = r#"[ "$(stat -c %s -- "$2")" = "$4" ] || { rm -f -- "$2"; exit 106; }
mode=$3; [ "$mode" != 0 ] || mode=$(stat -L -c %a -- "$1" 2>/dev/null) || mode=644
chmod "$mode" "$2" && mv -f -- "$2" "$1" || { code=$?; rm -f -- "$2"; exit "$code"; }"#;
const FORGET: &str = r#"rm -f -- "$1""#;

/// What is at a path.
pub(super) async fn stat(bridge: &Bridge, path: &str) -> Result<StatResponse, Status> {
    check(path)?;
    let output = tool(bridge, STAT, &[path], path).await?;
    let (mode, size) = header(&output).ok_or_else(strange)?;
    // inode(7): the type is in the upper bits.
    let kind = match mode & 0o170_000 {
        0o100_000 => Kind::File,
        0o040_000 => Kind::Folder,
        _ => Kind::Other,
    };
    Ok(StatResponse { kind: kind.into(), size, mode: mode & 0o7777 })
}

/// Reads one regular file; links are followed.
pub(super) async fn read_file(bridge: &Bridge, path: &str) -> Result<Stream<FileChunk>, Status> {
    check(path)?;
    let mut output = script(bridge, READ, &[path], ReceiverStream::new(mpsc::channel(1).1)).await?;
    let (to, chunks) = mpsc::channel(PIECES);
    let path = path.to_owned();
    tokio::spawn(async move {
        let mut head = Some(BytesMut::new());
        let mut stderr = BytesMut::new();
        while let Some(message) = output.next().await {
            let data = match message.map(|message| message.output) {
                Ok(Some(Output::Stdout(data))) => data,
                Ok(Some(Output::Stderr(data))) => {
                    keep(&mut stderr, &data);
                    continue;
                }
                Ok(Some(Output::Exit(exit))) => {
                    if exit.code != 0 {
                        drop(to.send(Err(failure(exit.code, &stderr, &path))).await);
                    } else if head.is_some() {
                        drop(to.send(Err(strange())).await);
                    }
                    return;
                }
                Ok(_) => continue,
                Err(status) => return drop(to.send(Err(status)).await),
            };
            let chunk = match &mut head {
                None => FileChunk { data, ..FileChunk::default() },
                Some(begin) => {
                    begin.extend_from_slice(&data);
                    let Some(end) = begin.iter().position(|byte| *byte == b'\n') else {
                        if begin.len() > KEPT {
                            return drop(to.send(Err(strange())).await);
                        }
                        continue;
                    };
                    let line = begin.split_to(end + 1);
                    let Some((mode, size)) = header(&line) else { return drop(to.send(Err(strange())).await) };
                    let data = std::mem::take(begin).freeze();
                    head = None;
                    FileChunk { data, mode: mode & 0o7777, size }
                }
            };
            // A caller that went away needs no more; the program ends with its output.
            if to.send(Ok(chunk)).await.is_err() {
                return;
            }
        }
    });
    Ok(ReceiverStream::new(chunks))
}

/// Writes one file: under a temporary name, then a rename.
pub(super) async fn write_file(
    bridge: &Bridge,
    mut input: Streaming<WriteFileRequest>,
) -> Result<WriteFileResponse, Status> {
    let Some(WriteFileRequest { input: Some(WriteInput::Start(WriteFileStart { path, mode })) }) =
        input.message().await?
    else {
        return Err(Status::invalid_argument("the first message of a file write must be its start"));
    };
    check(&path)?;
    if path.ends_with('/') || path.ends_with("/.") {
        return Err(Status::invalid_argument(format!("{path:?} names a folder; name a file")));
    }
    if mode & !0o7777 != 0 {
        return Err(Status::invalid_argument(format!("{mode:o} are no permission bits; use 0 to 7777, octal")));
    }
    let (to, from) = mpsc::channel(PIECES);
    let mut output = script(bridge, WRITE, &[&path], ReceiverStream::new(from)).await?;
    let sent = upload(&mut input, to).await;
    let (code, stdout, stderr) = finish(&mut output).await?;
    let temporary = String::from_utf8_lossy(&stdout).trim_end_matches('\n').to_owned();
    if code != 0 {
        return Err(failure(code, &stderr, &path));
    }
    if !temporary.starts_with('/') {
        return Err(strange());
    }
    let size = match sent {
        Ok(size) => size,
        Err(status) => {
            // Nobody is waiting for this file any more.
            drop(tool(bridge, FORGET, &[&temporary], &path).await);
            return Err(status);
        }
    };
    tool(bridge, FINISH, &[&path, &temporary, &format!("{mode:o}"), &size.to_string()], &path).await?;
    Ok(WriteFileResponse { size })
}

/// Hands an upload to a script's standard input; gives its size when it was finished.
async fn upload(
    input: &mut Streaming<WriteFileRequest>,
    to: mpsc::Sender<Result<ExecInput, Status>>,
) -> Result<u64, Status> {
    let mut size = 0;
    loop {
        match input.message().await?.map(|message| message.input) {
            Some(Some(WriteInput::Data(data))) => {
                size += data.len() as u64;
                // A script that failed takes no more; it says why.
                if !data.is_empty() && to.send(Ok(ExecInput { input: Some(Input::Stdin(data)) })).await.is_err() {
                    return Ok(size);
                }
            }
            Some(Some(WriteInput::Finish(true))) => return Ok(size),
            None => return Err(Status::cancelled("the upload broke off before its end; nothing was kept")),
            Some(_) => return Err(Status::invalid_argument("an upload is its start, data, and a finish that is true")),
        }
    }
}

/// Starts a script of ours with its arguments.
pub(super) async fn script(
    bridge: &Bridge,
    script: &str,
    arguments: &[&str],
    input: ReceiverStream<Result<ExecInput, Status>>,
) -> Result<Outputs, Status> {
    let argv = ["/bin/sh", "-c", script, "sh"].iter().chain(arguments).map(|&text| text.to_owned()).collect();
    let start = ExecStart { argv, env: [("LC_ALL".to_owned(), "C".to_owned())].into(), ..ExecStart::default() };
    let first = ExecInput { input: Some(Input::Start(start)) };
    exec::exec(bridge, futures::stream::iter([Ok(first)]).chain(input)).await
}

/// A script's exit code and what it wrote, of which the end may be missing.
pub(super) async fn finish(output: &mut Outputs) -> Result<(i32, BytesMut, BytesMut), Status> {
    let (mut stdout, mut stderr) = (BytesMut::new(), BytesMut::new());
    while let Some(message) = output.next().await {
        match message?.output {
            Some(Output::Stdout(data)) => keep(&mut stdout, &data),
            Some(Output::Stderr(data)) => keep(&mut stderr, &data),
            Some(Output::Exit(exit)) => return Ok((exit.code, stdout, stderr)),
            _ => {}
        }
    }
    Err(Status::unavailable("the stream into the sandbox broke before the end of what was asked for was told"))
}

/// Runs a script that only says something.
async fn tool(bridge: &Bridge, text: &str, arguments: &[&str], path: &str) -> Result<BytesMut, Status> {
    let mut output = script(bridge, text, arguments, ReceiverStream::new(mpsc::channel(1).1)).await?;
    let (code, stdout, stderr) = finish(&mut output).await?;
    if code == 0 { Ok(stdout) } else { Err(failure(code, &stderr, path)) }
}

pub(super) fn keep(kept: &mut BytesMut, data: &Bytes) {
    let room = KEPT.saturating_sub(kept.len()).min(data.len());
    kept.extend_from_slice(&data[..room]);
}

/// What a script's failure means.
pub(super) fn failure(code: i32, stderr: &[u8], path: &str) -> Status {
    match code {
        MISSING => Status::not_found(format!("{path} is not there, or the folder that it would be in is not")),
        KIND => Status::failed_precondition(format!("{path} is not of the kind that was asked for: file or folder")),
        DENIED => Status::permission_denied(format!("the sandbox's user has no right to {path}")),
        CHANGED => Status::internal(format!("{path} did not arrive whole; nothing was kept")),
        127 => Status::unimplemented(format!(
            "a tool that this takes is missing in the sandbox ({}); use an image with a shell, coreutils and tar",
            text(stderr)
        )),
        _ => Status::internal(format!("{path}: code {code}: {}", text(stderr))),
    }
}

fn text(stderr: &[u8]) -> String {
    String::from_utf8_lossy(stderr).trim().chars().take(500).collect()
}

fn strange() -> Status {
    Status::unavailable("the sandbox's tools answered in a way that is not theirs; look at its shell profile and PATH")
}

/// `stat`'s mode in hexadecimal, and size.
fn header(line: &[u8]) -> Option<(u32, u64)> {
    let (mode, size) = std::str::from_utf8(line).ok()?.trim().split_once(' ')?;
    Some((u32::from_str_radix(mode, 16).ok()?, size.parse().ok()?))
}

/// A path as our agent takes it: absolute, without `..`, of bearable length.
pub(super) fn check(path: &str) -> Result<(), Status> {
    let problem = if path.len() > PATH_BYTES {
        "is longer than 4096 bytes"
    } else if path.contains('\0') {
        "holds a zero byte"
    } else if !path.starts_with('/') {
        "is not absolute"
    } else if path.split('/').any(|part| part == "..") {
        "holds \"..\""
    } else {
        return Ok(());
    };
    let shown: String = path.chars().take(100).collect();
    Err(Status::invalid_argument(format!("the path {shown:?} {problem}; give an absolute path inside the sandbox")))
}
