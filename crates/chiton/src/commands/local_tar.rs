//! Folders as tar streams. What comes out of a sandbox is hostile: no entry may leave the folder that it is unpacked into.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use chiton_client::{Client, from_status};
use chiton_model::Error;
use chiton_proto::agent::v1 as agent;
use chiton_proto::v1 as wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::answer;
use super::copy::{Remote, bar, io as at};

/// Messages that wait for a slow other side.
const BUFFER: usize = 8;
/// Bytes of a message.
const CHUNK: usize = 256 * 1024;

/// Sends a folder. Into an existing folder it goes under its own name, as cp(1) does; else it takes the target's name.
pub(super) async fn upload(client: &mut Client, source: &Path, remote: Remote, exists: bool) -> Result<u64, Error> {
    use agent::write_tar_request::Input;
    let name = source.canonicalize().map_err(at(source))?.file_name().map(PathBuf::from).unwrap_or_default();
    let inside = if exists { name } else { PathBuf::new() };
    let message = |input| wire::WriteTarRequest {
        input: Some(wire::write_tar_request::Input::Tar(agent::WriteTarRequest { input: Some(input) })),
    };
    let (sender, stream) = mpsc::channel(BUFFER);
    let packing = sender.clone();
    let folder = source.to_owned();
    let work = tokio::task::spawn_blocking(move || {
        let first = [
            wire::WriteTarRequest { input: Some(wire::write_tar_request::Input::Sandbox(remote.sandbox)) },
            message(Input::Start(agent::WriteTarStart { path: remote.path, outside_links: false })),
        ];
        for request in first {
            if packing.blocking_send(request).is_err() {
                return Ok(0);
            }
        }
        let mut out = Sender {
            packing,
            buffer: Vec::with_capacity(CHUNK),
            bytes: 0,
            message: |data: Vec<u8>| message(Input::Data(data.into())),
        };
        let packed = pack(&folder, &inside, &mut out);
        match packed.and_then(|()| out.flush()) {
            Ok(()) => {
                drop(out.packing.blocking_send(message(Input::Finish(true))));
                Ok(out.bytes)
            }
            // The other side ended the call; it says why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
            Err(error) => Err(at(&folder)(error)),
        }
    });
    drop(sender);
    let sent = client.write_tar(ReceiverStream::new(stream)).await.map_err(|status| from_status(&status));
    let bytes = work.await.map_err(|error| Error::internal(error.to_string()))??;
    sent?;
    Ok(bytes)
}

fn pack(folder: &Path, inside: &Path, out: &mut impl Write) -> io::Result<()> {
    let mut builder = tar::Builder::new(out);
    builder.follow_symlinks(false);
    let root = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
    builder.append_dir_all(root, folder)?;
    builder.finish()
}

/// A writer into a stream of messages.
struct Sender<F> {
    packing: mpsc::Sender<wire::WriteTarRequest>,
    buffer: Vec<u8>,
    bytes: u64,
    message: F,
}

impl<F: Fn(Vec<u8>) -> wire::WriteTarRequest> Write for Sender<F> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.bytes += self.buffer.len() as u64;
        let data = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.packing.blocking_send((self.message)(data)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A reader of a stream of messages.
struct Receiver {
    chunks: mpsc::Receiver<Result<Vec<u8>, Error>>,
    current: io::Cursor<Vec<u8>>,
    progress: indicatif::ProgressBar,
    bytes: u64,
    failed: Option<Error>,
}

impl Read for Receiver {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.current.read(out)?;
            if length > 0 || out.is_empty() {
                return Ok(length);
            }
            match self.chunks.blocking_recv() {
                None => return Ok(0),
                Some(Ok(data)) => {
                    self.progress.inc(data.len() as u64);
                    self.bytes += data.len() as u64;
                    self.current = io::Cursor::new(data);
                }
                Some(Err(error)) => {
                    let text = error.to_string();
                    self.failed = Some(error);
                    return Err(io::Error::other(text));
                }
            }
        }
    }
}

/// Receives a folder. Unpacked beside its place under a temporary name, and renamed when it is whole.
pub(super) async fn download(
    client: &mut Client,
    remote: Remote,
    target: &Path,
    into_folder: bool,
) -> Result<u64, Error> {
    let name = remote
        .path
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .filter(|name| !name.is_empty())
        .unwrap_or("root")
        .to_owned();
    let place = if into_folder { target.join(&name) } else { target.to_owned() };
    if place.exists() {
        return Err(Error::already_exists(format!("{} exists already", place.display()))
            .cure("remove it first, or name another target"));
    }
    let beside = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let staging = tempfile::Builder::new().prefix(".chiton-cp-").tempdir_in(beside).map_err(at(beside))?;
    let request = wire::ReadFileRequest { sandbox: Some(remote.sandbox), path: remote.path };
    let mut stream = answer(client.read_tar(request)).await?;
    let (sender, chunks) = mpsc::channel(BUFFER);
    let root = staging.path().to_owned();
    let work = tokio::task::spawn_blocking(move || {
        let mut receiver =
            Receiver { chunks, current: io::Cursor::default(), progress: bar(None), bytes: 0, failed: None };
        let unpacked = unpack(&mut receiver, &root);
        receiver.progress.finish_and_clear();
        match (unpacked, receiver.failed.take()) {
            (_, Some(error)) | (Err(error), None) => Err(error),
            (Ok(()), None) => Ok(receiver.bytes),
        }
    });
    loop {
        let chunk = stream.message().await.map_err(|status| from_status(&status)).transpose();
        let Some(chunk) = chunk else { break };
        if sender.send(chunk.map(|chunk| chunk.data.into())).await.is_err() {
            break;
        }
    }
    drop(sender);
    let bytes = work.await.map_err(|error| Error::internal(error.to_string()))??;
    // The agent names entries relative to the folder's parent: one top folder, whose name is the folder's.
    let mut entries = fs::read_dir(staging.path()).map_err(at(staging.path()))?;
    let top = entries
        .next()
        .transpose()
        .map_err(at(staging.path()))?
        .ok_or_else(|| Error::internal("the sandbox sent an empty archive"))?;
    fs::rename(top.path(), &place).map_err(at(&place))?;
    Ok(bytes)
}

/// Unpacks an archive below a folder. An entry that would leave it, a link out of it and a special file are refused before
/// anything of them is written.
pub(super) fn unpack(archive: &mut impl Read, root: &Path) -> Result<(), Error> {
    let refuse = |path: &Path, why: &str| {
        Error::refused("cp", format!("the archive's entry {path:?} {why}"))
            .cure("copy the files one by one, or look at what the sandbox does")
    };
    let broken = |error: io::Error| Error::invalid("archive", format!("the archive is broken: {error}"));
    let mut archive = tar::Archive::new(archive);
    archive.set_preserve_permissions(false);
    archive.set_overwrite(false);
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = entry.path().map_err(broken)?.into_owned();
        if !inside(&path) {
            return Err(refuse(&path, "leaves the target folder"));
        }
        let kind = entry.header().entry_type();
        if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name().map_err(broken)?.unwrap_or_default().into_owned();
            // A symbolic link is relative to its own folder, a hard link to the archive's root.
            let from =
                if kind.is_symlink() { path.parent().unwrap_or(Path::new("")).to_owned() } else { PathBuf::new() };
            if target.is_absolute() || !inside(&from.join(&target)) {
                return Err(refuse(&path, "is a link that leaves the target folder"));
            }
        } else if !(kind.is_file() || kind.is_dir()) {
            return Err(refuse(&path, "is neither file, folder nor link"));
        }
        // The library checks again, against links that earlier entries made.
        if !entry.unpack_in(root).map_err(broken)? {
            return Err(refuse(&path, "leaves the target folder"));
        }
    }
    Ok(())
}

/// Whether a relative path stays below where it begins, at every step.
fn inside(path: &Path) -> bool {
    let mut depth = 0_i32;
    path.components().all(|part| {
        match part {
            Component::Normal(_) => depth += 1,
            Component::ParentDir => depth -= 1,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return false,
        }
        depth >= 0
    })
}
