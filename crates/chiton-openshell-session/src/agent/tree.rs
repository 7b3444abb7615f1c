//! Folders as tar streams, by the sandbox's own `tar`.
//!
//! On the way in each entry is looked at here before the sandbox sees it: names and links that would lead out of the folder
//! are refused, and so is what is written through a link of the same archive. What lies in the folder already is resolved
//! by the sandbox's `tar` with the rights of the sandbox's user.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use bytes::{Bytes, BytesMut};
use chiton_proto::agent::headers::{Bounded, Gate};
use chiton_proto::agent::v1::exec_input::Input;
use chiton_proto::agent::v1::exec_output::Output;
use chiton_proto::agent::v1::write_tar_request::Input as TarInput;
use chiton_proto::agent::v1::{ExecInput, FileChunk, WriteTarRequest, WriteTarResponse, WriteTarStart};
use futures::StreamExt as _;
use tar::{Archive, Builder, Entry, EntryType};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::files::{PIECES, check, failure, finish, keep, script};
use super::{Bridge, Stream};

const PACK: &str = r#"[ -e "$1" ] || [ -L "$1" ] || exit 103
folder=${1%/*}; cd -- "${folder:-/}" || exit 105
name=${1##*/}; exec tar -cf - -- "${name:-.}""#;
const UNPACK: &str = r#"[ -d "$1" ] || mkdir -- "$1" 2>/dev/null || { [ -e "$1" ] && exit 104; exit 103; }
cd -- "$1" || exit 105; exec tar -xpof -"#;

/// Bytes of one piece for the sandbox.
const PIECE: usize = 64 * 1024;

/// Reads a file or folder as a tar stream, names relative to its parent.
pub(super) async fn read_tar(bridge: &Bridge, path: &str) -> Result<Stream<FileChunk>, Status> {
    check(path)?;
    let path = path.trim_end_matches('/').to_owned();
    let shown = if path.is_empty() { "/" } else { path.as_str() };
    let mut output = script(bridge, PACK, &[shown], ReceiverStream::new(mpsc::channel(1).1)).await?;
    let (to, chunks) = mpsc::channel(PIECES);
    tokio::spawn(async move {
        let mut stderr = BytesMut::new();
        while let Some(message) = output.next().await {
            let chunk = match message.map(|message| message.output) {
                Ok(Some(Output::Stdout(data))) => Ok(FileChunk { data, ..FileChunk::default() }),
                Ok(Some(Output::Stderr(data))) => {
                    keep(&mut stderr, &data);
                    continue;
                }
                Ok(Some(Output::Exit(exit))) if exit.code != 0 => Err(failure(exit.code, &stderr, &path)),
                Ok(Some(Output::Exit(_))) => return,
                Ok(_) => continue,
                Err(status) => Err(status),
            };
            let last = chunk.is_err();
            if to.send(chunk).await.is_err() || last {
                return;
            }
        }
    });
    Ok(ReceiverStream::new(chunks))
}

/// Unpacks a tar stream below a folder.
pub(super) async fn write_tar(
    bridge: &Bridge,
    mut input: Streaming<WriteTarRequest>,
) -> Result<WriteTarResponse, Status> {
    let Some(WriteTarRequest { input: Some(TarInput::Start(WriteTarStart { path, outside_links })) }) =
        input.message().await?
    else {
        return Err(Status::invalid_argument("the first message of a tar write must be its start"));
    };
    check(&path)?;
    let path = if path == "/" { path } else { path.trim_end_matches('/').to_owned() };
    let (to_sandbox, from_here) = mpsc::channel(PIECES);
    let mut output = script(bridge, UNPACK, &[&path], ReceiverStream::new(from_here)).await?;
    let (to_sieve, pieces) = mpsc::channel(PIECES);
    let root = PathBuf::from(&path);
    let sieve = tokio::task::spawn_blocking(move || {
        let mut sieve = Sieve { root, outside_links, links: HashSet::new(), entries: 0 };
        sieve.pass(Upload { from: pieces, rest: Bytes::new() }, Download { to: to_sandbox, kept: BytesMut::new() })
    });
    let sent = upload(&mut input, to_sieve).await;
    let sieved = sieve.await.map_err(|_| Status::internal("the look at the archive ended early"))?;
    let (code, _, stderr) = finish(&mut output).await?;
    // The sandbox's own word comes first: when it failed, the archive could not be handed on either.
    if code != 0 && !matches!(&sieved, Err(status) if status.code() == tonic::Code::InvalidArgument) {
        sent?;
        return Err(failure(code, &stderr, &path));
    }
    sent?;
    Ok(WriteTarResponse { entries: sieved? })
}

async fn upload(input: &mut Streaming<WriteTarRequest>, to: mpsc::Sender<Bytes>) -> Result<(), Status> {
    let mut taken = true;
    loop {
        match input.message().await?.map(|message| message.input) {
            Some(Some(TarInput::Data(data))) => {
                // What follows the archive's end, or an entry that was refused, is taken and dropped.
                taken = taken && to.send(data).await.is_ok();
            }
            Some(Some(TarInput::Finish(true))) => return Ok(()),
            None => return Err(Status::cancelled("the upload broke off before its end; entries before that stay")),
            Some(_) => return Err(Status::invalid_argument("an upload is its start, data, and a finish that is true")),
        }
    }
}

/// The upload as something that can be read, on a thread that may wait.
struct Upload {
    from: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Read for Upload {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.from.blocking_recv() {
                Some(piece) => self.rest = piece,
                None => return Ok(0),
            }
        }
        let length = self.rest.len().min(into.len());
        into[..length].copy_from_slice(&self.rest.split_to(length));
        Ok(length)
    }
}

/// The sandbox's standard input as something that can be written to.
struct Download {
    to: mpsc::Sender<Result<ExecInput, Status>>,
    kept: BytesMut,
}

impl Write for Download {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.kept.extend_from_slice(bytes);
        if self.kept.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let data = self.kept.split().freeze();
        if data.is_empty() {
            return Ok(());
        }
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the sandbox takes no more");
        self.to.blocking_send(Ok(ExecInput { input: Some(Input::Stdin(data)) })).map_err(gone)
    }
}

/// Looks at each entry of an archive and hands on those that stay in the folder.
struct Sieve {
    root: PathBuf,
    outside_links: bool,
    /// Symbolic links of this archive.
    links: HashSet<PathBuf>,
    entries: u64,
}

impl Sieve {
    fn pass(&mut self, from: impl Read, to: Download) -> Result<u64, Status> {
        let gate = Gate::default();
        let mut archive = Archive::new(Bounded::new(from, &gate));
        let mut builder = Builder::new(to);
        let mut entries = archive.entries().map_err(malformed)?;
        loop {
            gate.headers();
            let Some(entry) = entries.next() else { break };
            let mut entry = entry.map_err(malformed)?;
            gate.contents();
            self.entry(&mut entry, &mut builder)?;
            io::copy(&mut entry, &mut io::sink()).map_err(malformed)?;
            self.entries += 1;
        }
        let mut to = builder.into_inner().map_err(lost)?;
        to.flush().map_err(lost)?;
        Ok(self.entries)
    }

    fn entry(&mut self, entry: &mut Entry<'_, impl Read>, to: &mut Builder<Download>) -> Result<(), Status> {
        let name = self.inside(&entry.path().map_err(malformed)?)?;
        let kind = entry.header().entry_type();
        let refused = |why: &str| Err(Status::invalid_argument(format!("the tar entry {} {why}", name.display())));
        let mut header = entry.header().clone();
        let target = entry.link_name().map_err(malformed)?.map(PathBuf::from).unwrap_or_default();
        if name.as_os_str().is_empty() {
            // The folder itself.
            return if kind == EntryType::Directory { Ok(()) } else { refused("has no name") };
        }
        match kind {
            EntryType::Regular | EntryType::Continuous => {
                header.set_size(entry.size());
                to.append_data(&mut header, &name, entry).map_err(lost)
            }
            EntryType::Directory => to.append_data(&mut header, &name, io::empty()).map_err(lost),
            EntryType::Symlink if target.as_os_str().is_empty() => refused("is a symbolic link to nothing"),
            EntryType::Symlink if !self.outside_links && !self.stays(&name, &target) => refused(&format!(
                "is a symbolic link to {}, which leads or could lead out of {}; leave it out or allow outside links",
                target.display(),
                self.root.display()
            )),
            EntryType::Symlink => {
                to.append_link(&mut header, &name, &target).map_err(lost)?;
                self.links.insert(name);
                Ok(())
            }
            EntryType::Link => {
                let target = self.inside(&target)?;
                if target.as_os_str().is_empty() || self.links.contains(&target) {
                    return refused("is a hard link to something that is not a regular file of this folder");
                }
                to.append_link(&mut header, &name, &target).map_err(lost)
            }
            EntryType::XGlobalHeader => Ok(()),
            EntryType::GNUSparse => refused("is a sparse file; send it whole"),
            EntryType::Block | EntryType::Char => refused("is a device; devices are not unpacked"),
            EntryType::Fifo => refused("is a pipe; pipes are not unpacked"),
            _ => refused("is of an unknown kind"),
        }
    }

    /// A name without detours, if it stays in the folder and leads through no link of the archive.
    fn inside(&self, name: &Path) -> Result<PathBuf, Status> {
        let refused = |why: &str| Err(Status::invalid_argument(format!("the tar entry {} {why}", name.display())));
        let mut plain = PathBuf::new();
        for part in name.components() {
            match part {
                Component::Normal(part) => plain.push(part),
                Component::CurDir => {}
                _ => return refused("would leave the folder; names must be relative and without \"..\""),
            }
        }
        if plain.ancestors().skip(1).any(|folder| self.links.contains(folder)) {
            return refused("would be written through a symbolic link of the same archive");
        }
        Ok(plain)
    }

    /// Whether a link's target stays in the folder as far as words tell: it may go up only at its begin.
    fn stays(&self, name: &Path, target: &Path) -> bool {
        let climbs = |path: &Path| path.components().any(|part| part == Component::ParentDir);
        if target.is_absolute() {
            return target.strip_prefix(&self.root).is_ok_and(|rest| !climbs(rest));
        }
        let up = target.components().take_while(|part| *part == Component::ParentDir).count();
        let depth = name.parent().map_or(0, |parent| parent.components().count());
        up <= depth && !climbs(&target.components().skip(up).collect::<PathBuf>())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn malformed(error: io::Error) -> Status {
    Status::invalid_argument(format!("the tar stream is broken: {error}"))
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn lost(error: io::Error) -> Status {
    Status::unavailable(format!("the archive could not be handed to the sandbox: {error}"))
}
