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
    /// Whether `file` is no longer written to: one more read takes its rest.
    replaced: bool,
    unread: Vec<u8>,
    since: Option<Timestamp>,
    /// How many bytes of output were read or known to be missing.
    position: u64,
}

impl Tail {
    fn new(sandbox: &Path, since: Option<Timestamp>) -> Self {
        Self { sandbox: sandbox.to_owned(), file: None, replaced: false, unread: Vec::new(), since, position: 0 }
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

    /// Goes to the file after this one once this one is read to its end; `false` when this is the last.
    fn advance(&mut self) -> io::Result<bool> {
        let folder = self.sandbox.join(FOLDER);
        let Some(file) = &self.file else {
            self.file = match open(&folder.join(OLDER))? {
                Some(older) => Some(older),
                None => open(&folder.join(CURRENT))?,
            };
            return Ok(self.file.is_some());
        };
        // While it is open no other file gets its number.
        let known = file.metadata()?.ino();
        let is_other = |file: &File| Ok::<_, io::Error>(file.metadata()?.ino() != known);
        let Some(current) = open(&folder.join(CURRENT))? else { return Ok(false) };
        if !is_other(&current)? {
            return Ok(false);
        }
        if !self.replaced {
            // What was written before it was replaced is still in it.
            self.replaced = true;
            return Ok(true);
        }
        // An older file that is not this one came after it: files were replaced faster than they were read.
        let older = match open(&folder.join(OLDER))? {
            Some(older) if is_other(&older)? => Some(older),
            _ => None,
        };
        self.file = Some(older.unwrap_or(current));
        self.replaced = false;
        self.unread.clear();
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
                    let dropped = record.position.map_or(0, |position| position.saturating_sub(self.position));
                    self.position = record.after(self.position);
                    if record.position.is_some() && dropped == 0 {
                        continue;
                    }
                    if self.since.is_some_and(|since| at < since) {
                        continue;
                    }
                    if dropped > 0 {
                        chunks.push(LogChunk { at, stderr: true, data: Bytes::new(), dropped });
                        continue;
                    }
                    let mut data = record.data.to_vec();
                    if record.full {
                        data.push(b'\n');
                    }
                    chunks.push(LogChunk { at, stderr: record.stderr, data: Bytes::from(data), dropped });
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
    let mut tail = Tail::new(sandbox, options.since);
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
