//! The main process's output, read from the files that the monitor writes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use chiton_driver::{CallError, CallResult, LogChunk, LogOptions, LogStream};
use chiton_model::Error;
use chiton_oci_monitor::exit::ExitRecord;
use chiton_oci_monitor::log::{CURRENT, FOLDER, OLDER, Parsed, parse};
use futures::StreamExt;
use jiff::Timestamp;
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::sys;

/// How much is read at once.
const CHUNK: usize = 256 * 1024;
/// How many pieces wait for a slow reader; then reading waits too.
const QUEUE: usize = 64;

/// Reads records across a rotation.
struct Tail {
    sandbox: PathBuf,
    file: Option<File>,
    /// Whether `file` was [`OLDER`] when it was opened.
    older: bool,
    unread: Vec<u8>,
    since: Option<Timestamp>,
}

impl Tail {
    fn new(sandbox: &Path, since: Option<Timestamp>) -> io::Result<Self> {
        let folder = sandbox.join(FOLDER);
        let mut tail = Self { sandbox: sandbox.to_owned(), file: None, older: true, unread: Vec::new(), since };
        tail.file = open(&folder.join(OLDER))?;
        Ok(tail)
    }

    /// What came since the last call; empty when there is nothing now.
    fn next(&mut self) -> io::Result<Vec<LogChunk>> {
        loop {
            if let Some(file) = &mut self.file {
                let mut buffer = vec![0; CHUNK];
                let count = file.read(&mut buffer)?;
                self.unread.extend_from_slice(&buffer[..count]);
                let chunks = self.take();
                if !chunks.is_empty() {
                    return Ok(chunks);
                }
                if count > 0 {
                    continue;
                }
            }
            if !self.advance()? {
                return Ok(Vec::new());
            }
        }
    }

    /// Goes to the file that is written now; `false` when this is it.
    fn advance(&mut self) -> io::Result<bool> {
        let Some(current) = open(&self.sandbox.join(FOLDER).join(CURRENT))? else { return Ok(false) };
        if let Some(file) = &mut self.file
            && !self.older
        {
            let (known, now) = (file.metadata()?, current.metadata()?);
            if known.ino() == now.ino() {
                return Ok(false);
            }
            // It was renamed after our last read: what was written in between is still in it.
            let mut rest = Vec::new();
            file.read_to_end(&mut rest)?;
            if !rest.is_empty() {
                self.unread.extend_from_slice(&rest);
                self.older = true;
                return Ok(true);
            }
        }
        self.file = Some(current);
        self.older = false;
        Ok(true)
    }

    fn take(&mut self) -> Vec<LogChunk> {
        let mut taken = 0;
        let mut chunks = Vec::new();
        loop {
            match parse(&self.unread[taken..]) {
                Parsed::Record(record, length) => {
                    taken += length;
                    let at = Timestamp::from_nanosecond(i128::from(record.nanos)).unwrap_or(Timestamp::UNIX_EPOCH);
                    if self.since.is_some_and(|since| at < since) {
                        continue;
                    }
                    let mut data = record.data.to_vec();
                    if record.full {
                        data.push(b'\n');
                    }
                    chunks.push(LogChunk { at, stderr: record.stderr, data: Bytes::from(data) });
                }
                Parsed::Incomplete => break,
                // A write that was cut off by a full disk: the next record begins after the next newline.
                Parsed::Corrupt => match self.unread[taken..].iter().position(|byte| *byte == b'\n') {
                    Some(newline) => taken += newline + 1,
                    None => break,
                },
            }
        }
        self.unread.drain(..taken);
        chunks
    }

    /// Whether nothing will be added until the sandbox is started again.
    fn finished(&self) -> bool {
        self.sandbox.join(ExitRecord::FILE).exists() || !self.sandbox.exists()
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Changes below a sandbox's folder.
fn notifier(sandbox: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    use inotify::{CreateFlags, WatchFlags};
    let notifier = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE_SELF;
    inotify::add_watch(&notifier, sandbox, flags)?;
    inotify::add_watch(&notifier, sandbox.join(FOLDER), flags)?;
    sys::register(notifier)
}

async fn changed(notifier: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut ready = notifier.readable().await?;
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(notifier.get_ref(), &mut buffer);
    loop {
        match reader.next() {
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN) => break,
            Err(error) => return Err(error.into()),
        }
    }
    ready.clear_ready();
    Ok(())
}

/// Streams a sandbox's log.
pub(crate) fn stream(sandbox: PathBuf, options: LogOptions) -> LogStream {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        if let Err(error) = pump(&sandbox, &options, &sender).await {
            let text = format!("the sandbox's log cannot be read: {error}");
            let _ = sender.send(Err(CallError::Failed(Error::internal(text)))).await;
        }
    });
    ReceiverStream::new(receiver).boxed()
}

async fn pump(sandbox: &Path, options: &LogOptions, sender: &mpsc::Sender<CallResult<LogChunk>>) -> io::Result<()> {
    let notifier = if options.follow { Some(notifier(sandbox)?) } else { None };
    let mut tail = Tail::new(sandbox, options.since)?;
    let mut held = options.tail.map(|count| (usize::try_from(count).unwrap_or(usize::MAX), VecDeque::new()));
    loop {
        // Looked at before reading: what came before the end is then surely read after it.
        let finished = tail.finished();
        let (moved, chunks) = tokio::task::spawn_blocking(move || {
            let chunks = tail.next();
            (tail, chunks)
        })
        .await
        .map_err(io::Error::other)?;
        tail = moved;
        let chunks = chunks?;
        let dry = chunks.is_empty();
        for chunk in chunks {
            match &mut held {
                Some((count, last)) => {
                    last.push_back(chunk);
                    if last.len() > *count {
                        last.pop_front();
                    }
                }
                None => {
                    if sender.send(Ok(chunk)).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
        if !dry {
            continue;
        }
        for chunk in held.take().map(|(_, last)| last).into_iter().flatten() {
            if sender.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
        }
        match &notifier {
            Some(notifier) if !finished => {
                tokio::select! {
                    changed = changed(notifier) => changed?,
                    () = sender.closed() => return Ok(()),
                }
            }
            _ => return Ok(()),
        }
    }
}
