//! Moving bytes between programs and streams.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use chiton_agent_proto::v1::ExecOutput;
use chiton_agent_proto::v1::exec_output::Output;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::Status;

use crate::spawn::register;

/// One read. A pipe holds 64 KiB.
const CHUNK: usize = 32 * 1024;
/// How long output is waited for after the program's exit, in all, when a descendant keeps the pipe open.
const LINGER: Duration = Duration::from_millis(100);
/// How many bytes of such a descendant are taken.
const LINGER_BYTES: usize = 1024 * 1024;

/// The receiving end of an exec call's output.
pub(crate) type Sink = mpsc::Sender<Result<ExecOutput, Status>>;

/// Our end of a pipe or terminal.
#[derive(Clone, Debug)]
pub(crate) struct End(Arc<AsyncFd<OwnedFd>>);

impl End {
    /// Takes a descriptor and makes it non-blocking.
    pub(crate) fn new(end: OwnedFd, interest: Interest) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&end, true)?;
        Ok(Self(Arc::new(register(end, interest)?)))
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        self.0.get_ref()
    }

    /// Reads what is there; empty at the end. Cancelling loses nothing.
    async fn read(&self) -> io::Result<Bytes> {
        loop {
            let mut ready = self.0.readable().await?;
            // Room is made only now, so that a silent program costs no buffer.
            let mut buffer = vec![0; CHUNK];
            match ready.try_io(|end| Ok(rustix::io::read(end.get_ref(), &mut buffer[..])?)) {
                Ok(Ok(length)) => {
                    buffer.truncate(length);
                    // A short line must not hold a whole buffer while it waits for a slow reader.
                    return Ok(if length < CHUNK / 8 { Bytes::copy_from_slice(&buffer) } else { buffer.into() });
                }
                // How a terminal says that its other side is closed (pty(7)).
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Ok(Bytes::new()),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }

    /// Writes all of it.
    pub(crate) async fn write(&self, mut bytes: Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|end| Ok(rustix::io::write(end.get_ref(), &bytes)?)) {
                Ok(Ok(length)) => bytes.advance(length),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
        Ok(())
    }
}

/// Sends what a program writes until its end: all it wrote before its exit, and for a short while what descendants write
/// that kept the pipe. After that, and when the caller is gone, they may write on, to nobody: closing the pipe would kill them by
/// SIGPIPE in the middle of their own cleaning up.
pub(crate) async fn pump(from: End, to: Sink, wrap: fn(Bytes) -> Output, mut exited: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            read = from.read() => if !deliver(read, &to, wrap).await { return discard(from).await },
            // An error means that the sender is gone, which comes after the exit too.
            () = told(&mut exited) => break,
        }
    }
    // What is in the pipe now was written before the exit was seen: owed, however slowly the caller reads.
    let owed = usize::try_from(rustix::io::ioctl_fionread(from.fd()).unwrap_or(0)).unwrap_or(0);
    let mut allowed = owed + LINGER_BYTES;
    let mut patience = LINGER;
    loop {
        let before = Instant::now();
        let Ok(read) = tokio::time::timeout(patience, from.read()).await else { break };
        // Only waiting for the program counts, not waiting for the caller.
        patience = patience.saturating_sub(before.elapsed());
        allowed = allowed.saturating_sub(read.as_ref().map_or(0, Bytes::len));
        if !deliver(read, &to, wrap).await || allowed == 0 {
            break;
        }
    }
    tokio::spawn(discard(from));
}

/// Reads to the end for nobody.
async fn discard(from: End) {
    while from.read().await.is_ok_and(|bytes| !bytes.is_empty()) {}
}

/// Resolves when the flag is set, or nobody is left to set it.
pub(crate) async fn told(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|set| *set).await;
}

/// Whether there may be more.
async fn deliver(read: io::Result<Bytes>, to: &Sink, wrap: fn(Bytes) -> Output) -> bool {
    match read {
        Ok(bytes) if !bytes.is_empty() => to.send(Ok(ExecOutput { output: Some(wrap(bytes)) })).await.is_ok(),
        _ => false,
    }
}
