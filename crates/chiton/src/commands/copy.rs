//! `sandbox cp`: files and folders, into or out of a sandbox. What is not whole is never seen under its name.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use chiton_client::{Client, from_status};
use chiton_model::{Error, ErrorKind};
use chiton_proto::agent::v1 as agent;
use chiton_proto::v1 as wire;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Context, answer, local_tar, selector};
use crate::cli::CopyArgs;
use crate::output;
use crate::parse::Side;
use crate::progress::Progress;

/// Bytes of a message.
const CHUNK: usize = 256 * 1024;
/// Messages that wait for a slow other side.
const BUFFER: usize = 8;

/// Permissions that a sandbox may give to a file here: none that make it privileged or let others write to it.
pub(super) const LOCAL_MODE: u32 = 0o755;

/// A copy's remote side.
pub(super) struct Remote {
    pub(super) sandbox: wire::SandboxSelector,
    pub(super) path: String,
}

pub(super) async fn run(cx: &Context, args: CopyArgs) -> Result<ExitCode, Error> {
    let remote =
        |name: &str, path: &str| Remote { sandbox: selector(name, &args.workspace, args.id), path: path.to_owned() };
    let end = match (&args.source, &args.target) {
        (Side::Local(source), Side::Remote { name, path }) => {
            let mut client = cx.connect().await?;
            unless_interrupted(upload(&mut client, source, remote(name, path))).await?
        }
        (Side::Remote { name, path }, Side::Local(target)) => {
            download(&mut cx.connect().await?, remote(name, path), target).await?
        }
        (Side::Local(_), Side::Local(_)) => {
            return Err(Error::invalid("source", "both sides are paths on this machine")
                .cure("write one of them as NAME:/path"));
        }
        (Side::Remote { .. }, Side::Remote { .. }) => {
            return Err(Error::invalid("source", "both sides are in sandboxes").cure("copy to this machine first"));
        }
    };
    match end {
        End::Whole(bytes) if cx.json => output::document(&json!({ "bytes": bytes })),
        End::Whole(_) => {}
        End::Interrupted(signal) => return Ok(ExitCode::from(u8::try_from(128 + signal).unwrap_or(1))),
    }
    Ok(ExitCode::SUCCESS)
}

/// How a copy ended, when it did not fail.
pub(super) enum End {
    /// So many bytes were copied.
    Whole(u64),
    /// A signal asked for its end; nothing of it is left.
    Interrupted(i32),
}

/// Copies until it is done or a signal asks for the end. What is dropped takes its temporary files with it.
async fn unless_interrupted(copy: impl Future<Output = Result<u64, Error>>) -> Result<End, Error> {
    let mut interrupts = Interrupts::catch()?;
    tokio::select! {
        copied = copy => copied.map(End::Whole),
        signal = interrupts.next() => Ok(End::Interrupted(signal)),
    }
}

/// Signals that ask this process to end, caught from the moment that this is made: before there is a temporary file.
pub(super) struct Interrupts([(SignalKind, Signal); 4]);

impl Interrupts {
    pub(super) fn catch() -> Result<Self, Error> {
        let catch = |kind| match signal(kind) {
            Ok(caught) => Ok((kind, caught)),
            Err(error) => Err(Error::internal(format!("signals cannot be caught: {error}"))),
        };
        Ok(Self([
            catch(SignalKind::hangup())?,
            catch(SignalKind::interrupt())?,
            catch(SignalKind::quit())?,
            catch(SignalKind::terminate())?,
        ]))
    }

    /// The next one's number.
    pub(super) async fn next(&mut self) -> i32 {
        let mut any: futures::stream::FuturesUnordered<_> = self
            .0
            .iter_mut()
            .map(|(kind, caught)| async {
                caught.recv().await;
                kind.as_raw_value()
            })
            .collect();
        match futures::StreamExt::next(&mut any).await {
            Some(number) => number,
            None => std::future::pending().await,
        }
    }
}

pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |error| match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge => {
            Error::exhausted("disk", format!("{}: {error}; nothing of it was kept", path.display()))
                .cure("make room on this machine, or name another target")
        }
        _ => Error::invalid("path", format!("{}: {error}", path.display())),
    }
}

/// What is at a path in a sandbox.
async fn stat(client: &mut Client, remote: &Remote) -> Result<agent::StatResponse, Error> {
    let request = wire::ReadFileRequest { sandbox: Some(remote.sandbox.clone()), path: remote.path.clone() };
    answer(client.stat(request)).await
}

/// What is not there: the sandbox, or the path in it.
async fn absent(client: &mut Client, remote: Remote) -> Error {
    let request = wire::GetSandboxRequest { sandbox: Some(remote.sandbox), all: false };
    match answer(client.get_sandbox(request)).await {
        Ok(_) => Error::not_found(format!("there is no {:?} in the sandbox", remote.path)),
        Err(error) => error,
    }
}

/// Whether it is a folder. Nothing there is none; if it is the sandbox that is not there, the copy itself says so.
async fn has_folder(client: &mut Client, remote: &Remote) -> Result<bool, Error> {
    match stat(client, remote).await {
        Ok(found) => Ok(found.kind() == agent::stat_response::Kind::Folder),
        Err(Error { kind: ErrorKind::NotFound, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The name that a path in a sandbox ends in; none for the root.
pub(super) fn last_name(path: &str) -> Result<Option<OsString>, Error> {
    let normal = Path::new(path);
    match normal.file_name() {
        Some(name) => Ok(Some(name.to_owned())),
        None if normal.components().all(|part| part == Component::RootDir) => Ok(None),
        None => Err(Error::invalid("source", format!("{path:?} does not end in a name")).cure("resolve the \"..\"")),
    }
}

/// Where a file is to be written, with links followed. What is there and is no file is not replaced: a rename would put
/// a file in the place of /dev/null.
fn writable(target: PathBuf) -> Result<PathBuf, Error> {
    match fs::metadata(&target) {
        Ok(found) if found.is_file() => target.canonicalize().map_err(io(&target)),
        Ok(_) => Err(Error::invalid("target", format!("{} is there and is no regular file", target.display()))
            .cure("name a file, or a folder that exists")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(target),
        Err(error) => Err(io(&target)(error)),
    }
}

async fn upload(client: &mut Client, source: &Path, mut remote: Remote) -> Result<u64, Error> {
    let metadata = fs::metadata(source).map_err(io(source))?;
    let into_folder = has_folder(client, &remote).await?;
    if metadata.is_dir() {
        return local_tar::upload(client, source, remote, into_folder).await;
    }
    if !metadata.is_file() {
        return Err(Error::invalid("source", format!("{} is neither a file nor a folder", source.display())));
    }
    if into_folder {
        let name = source
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| Error::invalid("source", "the file's name is not UTF-8"))?;
        remote.path = format!("{}/{name}", remote.path.trim_end_matches('/'));
    }
    let (sender, stream) = mpsc::channel(BUFFER);
    let mode = metadata.permissions().mode() & 0o7777;
    let (source, progress) = (source.to_owned(), Progress::bytes(Some(metadata.len())));
    let reading = tokio::spawn(read_into(source, sender, remote, mode, progress));
    let sent = client.write_file(ReceiverStream::new(stream)).await.map_err(|status| from_status(&status));
    // Why the reading ended tells more than what the other side made of it.
    reading.await.map_err(|error| Error::internal(error.to_string()))??;
    Ok(sent?.into_inner().size)
}

async fn read_into(
    source: PathBuf,
    sender: mpsc::Sender<wire::WriteFileRequest>,
    remote: Remote,
    mode: u32,
    mut progress: Progress,
) -> Result<(), Error> {
    use agent::write_file_request::Input;
    let message = |input| wire::WriteFileRequest {
        input: Some(wire::write_file_request::Input::File(agent::WriteFileRequest { input: Some(input) })),
    };
    let mut file = tokio::fs::File::open(&source).await.map_err(io(&source))?;
    let first = [
        wire::WriteFileRequest { input: Some(wire::write_file_request::Input::Sandbox(remote.sandbox)) },
        message(Input::Start(agent::WriteFileStart { path: remote.path, mode })),
    ];
    for request in first {
        if sender.send(request).await.is_err() {
            return Ok(());
        }
    }
    loop {
        let mut chunk = vec![0; CHUNK];
        let length = file.read(&mut chunk).await.map_err(io(&source))?;
        if length == 0 {
            break;
        }
        chunk.truncate(length);
        progress.add(length);
        if sender.send(message(Input::Data(chunk.into()))).await.is_err() {
            // The other side ended the call; it says why.
            return Ok(());
        }
    }
    drop(sender.send(message(Input::Finish(true))).await);
    Ok(())
}

async fn download(client: &mut Client, remote: Remote, target: &Path) -> Result<End, Error> {
    last_name(&remote.path)?;
    let found = match stat(client, &remote).await {
        Err(Error { kind: ErrorKind::NotFound, .. }) => return Err(absent(client, remote).await),
        found => found?,
    };
    let into_folder = target.is_dir();
    if found.kind() == agent::stat_response::Kind::Folder {
        return local_tar::download(client, remote, target, into_folder).await;
    }
    unless_interrupted(download_file(client, remote, target, into_folder, found.size)).await
}

async fn download_file(
    client: &mut Client,
    remote: Remote,
    target: &Path,
    into_folder: bool,
    size: u64,
) -> Result<u64, Error> {
    let name = last_name(&remote.path)?;
    let target = writable(if into_folder { target.join(name.unwrap_or_default()) } else { target.to_owned() })?;
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".chiton-cp-").tempfile_in(folder).map_err(io(folder))?;
    let request = wire::ReadFileRequest { sandbox: Some(remote.sandbox), path: remote.path };
    let mut chunks = answer(client.read_file(request)).await?;
    let (mut progress, mut bytes, mut mode) = (Progress::bytes(Some(size)), 0, None);
    while let Some(chunk) = chunks.message().await.map_err(|status| from_status(&status))? {
        mode.get_or_insert(chunk.mode);
        file.write_all(&chunk.data).map_err(io(&target))?;
        bytes += chunk.data.len() as u64;
        progress.add(chunk.data.len());
    }
    let mode = mode.filter(|mode| *mode != 0).unwrap_or(0o644) & LOCAL_MODE;
    fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).map_err(io(&target))?;
    file.persist(&target).map_err(|error| io(&target)(error.error))?;
    Ok(bytes)
}
