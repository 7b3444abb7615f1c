//! Folders as tar streams. What comes out of a sandbox is hostile: no entry may leave the folder that it is unpacked into.

#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use chiton_client::{Client, from_status};
use chiton_model::Error;
use chiton_proto::agent::headers::{Bounded, Gate};
use chiton_proto::agent::v1 as agent;
use chiton_proto::v1 as wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::answer;
use super::copy::{End, Interrupts, LOCAL_MODE, Remote, io as at, last_name};
use crate::progress::Progress;

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
    progress: Progress,
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
                    self.progress.add(data.len());
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
) -> Result<End, Error> {
    let name = last_name(&remote.path)?;
    let place = match &name {
        Some(name) if into_folder => target.join(name),
        None if into_folder => target.join("root"),
        _ => target.to_owned(),
    };
    if fs::symlink_metadata(&place).is_ok() {
        return Err(Error::already_exists(format!("{} exists already", place.display()))
            .cure("remove it first, or name another target"));
    }
    let mut interrupts = Interrupts::catch()?;
    let beside = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let staging = tempfile::Builder::new().prefix(".chiton-cp-").tempdir_in(beside).map_err(at(beside))?;
    let request = wire::ReadFileRequest { sandbox: Some(remote.sandbox), path: remote.path };
    let mut stream = answer(client.read_tar(request)).await?;
    let (sender, chunks) = mpsc::channel(BUFFER);
    let inside = staging.path().join("tree");
    fs::create_dir(&inside).map_err(at(&inside))?;
    let (root, top) = (inside.clone(), name.clone());
    let work = tokio::task::spawn_blocking(move || {
        let mut receiver = Receiver {
            chunks,
            current: io::Cursor::default(),
            progress: Progress::bytes(None),
            bytes: 0,
            failed: None,
        };
        let unpacked = unpack(&mut receiver, &root, top.as_deref());
        match (unpacked, receiver.failed.take()) {
            (_, Some(error)) | (Err(error), None) => Err(error),
            (Ok(modes), None) => Ok((receiver.bytes, modes)),
        }
    });
    let mut stopped = None;
    loop {
        let chunk = tokio::select! {
            chunk = stream.message() => chunk.map_err(|status| from_status(&status)).transpose(),
            signal = interrupts.next() => {
                stopped = Some(signal);
                break;
            }
        };
        let Some(chunk) = chunk else { break };
        if sender.send(chunk.map(|chunk| chunk.data.into())).await.is_err() {
            break;
        }
    }
    drop(sender);
    // Also when it was stopped: what it has made is removed when it makes no more.
    let unpacked = work.await.map_err(|error| Error::internal(error.to_string()))?;
    if let Some(signal) = stopped {
        return Ok(End::Interrupted(signal));
    }
    let (bytes, modes) = unpacked?;
    // Entries are named relative to the folder's parent: all are below the folder's own name. The root has none.
    let whole = name.as_ref().map_or_else(|| inside.clone(), |name| inside.join(name));
    fs::rename(&whole, &place).map_err(at(&place))?;
    // Only now: a folder without write permission can be neither filled nor moved.
    for (path, mode) in modes.iter().rev() {
        let below = name.as_ref().map_or(Ok(path.as_path()), |name| path.strip_prefix(name));
        let path = place.join(below.map_err(|error| Error::internal(error.to_string()))?);
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).map_err(at(&path))?;
    }
    Ok(End::Whole(bytes))
}

/// Folders of an archive with their permissions, outer ones first.
pub(crate) type FolderModes = Vec<(PathBuf, u32)>;

/// Unpacks an archive below a folder, all of it below `top` there if that is given. An entry that would leave it, a link
/// out of it and a special file are refused before anything of them is written. The permissions of folders are left to
/// the caller.
pub(crate) fn unpack(archive: &mut impl Read, root: &Path, top: Option<&OsStr>) -> Result<FolderModes, Error> {
    let refuse = |path: &Path, why: &str| {
        Error::refused("cp", format!("the archive's entry {path:?} {why}"))
            .cure("copy the files one by one, or look at what the sandbox does")
    };
    let broken = |error: io::Error| Error::invalid("archive", format!("the archive is broken: {error}"));
    let mut modes = FolderModes::new();
    let gate = Gate::default();
    let mut archive = tar::Archive::new(Bounded::new(archive, &gate));
    archive.set_preserve_permissions(false);
    archive.set_mask(!LOCAL_MODE & 0o7777);
    archive.set_overwrite(false);
    let mut entries = archive.entries().map_err(broken)?;
    loop {
        gate.headers();
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.map_err(broken)?;
        gate.contents();
        let named = entry.path().map_err(broken)?.into_owned();
        let path = settle(&named, top).ok_or_else(|| refuse(&named, "leaves the target folder"))?;
        if through_link(root, path.parent().unwrap_or(Path::new(""))).map_err(at(root))? {
            return Err(refuse(&named, "goes through a link"));
        }
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            let mode = entry.header().mode().map_err(broken)? & LOCAL_MODE;
            make_folder(root, &path)?;
            modes.push((path, mode));
            skip(&mut entry).map_err(broken)?;
            continue;
        }
        if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name().map_err(broken)?.unwrap_or_default().into_owned();
            // A symbolic link is relative to its own folder, a hard link to the archive's root.
            let from = if kind.is_symlink() { path.parent().unwrap_or(Path::new("")) } else { Path::new("") };
            let out = || refuse(&named, "is a link that leaves the target folder");
            if target.is_absolute() {
                return Err(out());
            }
            // Up after down: down may be another link, and then up is somewhere else than the words say.
            let mut down = target.components().skip_while(|part| !matches!(part, Component::Normal(_)));
            if down.any(|part| part == Component::ParentDir) {
                return Err(out());
            }
            let to = settle(&from.join(&target), top).ok_or_else(out)?;
            // A second name for a symbolic link would read it from another folder, where it may lead out.
            let plain = || fs::symlink_metadata(root.join(&to)).is_ok_and(|found| found.is_file());
            if kind.is_hard_link() && (through_link(root, &to).map_err(at(root))? || !plain()) {
                return Err(refuse(&named, "is a hard link to something that is no file of the archive"));
            }
        } else if !kind.is_file() {
            return Err(refuse(&named, "is neither file, folder nor link"));
        }
        make_folder(root, path.parent().unwrap_or(Path::new("")))?;
        // The library checks again, in its own way.
        let place = root.join(&path);
        let fault = |error: io::Error| {
            if full(&error) {
                return at(&place)(rustix::io::Errno::NOSPC.into());
            }
            Error::invalid("archive", format!("cannot unpack {}: {error}", place.display()))
        };
        if !entry.unpack_in(root).map_err(fault)? {
            return Err(refuse(&named, "leaves the target folder"));
        }
        skip(&mut entry).map_err(broken)?;
    }
    if let Some(top) = top.filter(|top| fs::symlink_metadata(root.join(top)).is_err()) {
        return Err(Error::invalid("archive", format!("the sandbox sent an archive without the folder {top:?}")));
    }
    Ok(modes)
}

/// Whether a disk without room is at the bottom of it: the library wraps its errors.
fn full(error: &io::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::StorageFull) {
            return true;
        }
        cause = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}

/// Reads what is left of an entry that has contents although its kind has none: between two entries only headers are
/// taken.
fn skip(entry: &mut impl Read) -> io::Result<u64> {
    io::copy(entry, &mut io::sink())
}

/// The path without "." and ".."; none if it leaves where it begins at any step, or ends elsewhere than in or below `top`.
fn settle(path: &Path, top: Option<&OsStr>) -> Option<PathBuf> {
    let mut settled = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => settled.push(name),
            Component::ParentDir => {
                if !settled.pop() {
                    return None;
                }
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    let first = settled.components().next().map(Component::as_os_str);
    (top.is_none() || first == top).then_some(settled)
}

/// Whether a part of the path is a link. Not one that this program makes goes through a link, and "below" means something
/// only where there is none.
fn through_link(root: &Path, path: &Path) -> io::Result<bool> {
    let mut place = root.to_owned();
    for part in path.components() {
        place.push(part);
        match fs::symlink_metadata(&place) {
            Ok(found) if found.is_symlink() => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Makes a folder and those above it, for this user alone until the archive is whole.
fn make_folder(root: &Path, path: &Path) -> Result<(), Error> {
    let place = root.join(path);
    if fs::symlink_metadata(&place).is_ok_and(|found| !found.is_dir()) {
        return Err(Error::refused("cp", format!("the archive has {path:?} as a folder and as something else")));
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&place).map_err(at(&place))
}
