//! Connecting to the gateway, for as long as the sandbox lives.
//!
//! A gateway may start after its agents, end before them and come back; none of that ends a sandbox. So the agent dials
//! until it is accepted, serves that connection to its end and dials again. Between attempts it waits ever longer, but a
//! new socket in the gateway's folder wakes it at once.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use chiton_agent_proto::frame;
use chiton_agent_proto::v1::{Hello, Welcome};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustix::fs::{CWD, Mode, OFlags, inotify, openat};
use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::output::told;
use crate::service::Service;
use crate::spawn::register;

/// How long the gateway may take to answer the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The first wait between two attempts, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// A connection that lasted so long was a good one: the next attempt comes at once.
const GOOD: Duration = Duration::from_secs(1);
/// Longest path of a socket address, with its closing zero (unix(7)).
const ADDRESS: usize = 108;
/// How many calls one connection carries at a time.
const STREAMS: u32 = 256;
/// What may be under way to us: per call, and in all. The second is the first times all calls: less, and one program that
/// does not read its input would stop every other call.
const WINDOWS: (u32, u32) = (512 * 1024, STREAMS * 512 * 1024);
/// Pieces of data on the wire: one read of a pipe or file should not be cut in four.
const FRAME: u32 = 64 * 1024;

/// Where to dial and what to say there.
pub struct Door {
    /// The gateway's socket.
    pub socket: PathBuf,
    /// Who we are.
    pub hello: Hello,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody answers there.
    #[error("the gateway at {0} could not be reached: {1}")]
    Unreachable(PathBuf, io::Error),
    /// The handshake broke off or took too long.
    #[error("the handshake with the gateway failed: {0}")]
    Handshake(io::Error),
    /// The gateway does not want this agent.
    #[error("the gateway refused the agent: {0}")]
    Refused(String),
}

/// Dials and serves until told to stop; then lets the calls under way end and closes.
pub async fn keep(door: Door, service: Service, accepted: watch::Sender<bool>, mut stop: watch::Receiver<bool>) {
    let mut wait = WAITS.0;
    let mut folder = None;
    loop {
        let connected = tokio::select! {
            connected = connect(&door) => connected,
            () = told(&mut stop) => return,
        };
        if let Ok(stream) = connected {
            accepted.send_replace(true);
            folder = None;
            let since = Instant::now();
            serve(stream, &service, &mut stop).await;
            if since.elapsed() >= GOOD {
                wait = WAITS.0;
                continue;
            }
        } else if folder.is_none() {
            folder = Folder::watch(&door.socket).ok();
            if folder.is_some() {
                // The socket may have come before the watch.
                continue;
            }
        }
        let come = async {
            match &folder {
                Some(folder) => folder.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep(jittered(wait)) => {}
            () = come => {}
            () = told(&mut stop) => return,
        }
        wait = (wait * 2).min(WAITS.1);
    }
}

/// Between half of the time and all of it, so that the agents of a restarted gateway do not come in step.
fn jittered(wait: Duration) -> Duration {
    // The standard library's seeds come from the kernel; nothing here needs more than "not in step".
    let random = RandomState::new().hash_one(0_u8) % 1024;
    wait / 2 + wait / 2 * u32::try_from(random).unwrap_or_default() / 1024
}

/// One attempt: connect and handshake.
///
/// # Errors
/// As [`DialError`] says.
pub async fn connect(door: &Door) -> Result<UnixStream, DialError> {
    let mut stream = dial(&door.socket).await.map_err(|error| DialError::Unreachable(door.socket.clone(), error))?;
    let handshake = async {
        frame::write(&mut stream, &door.hello).await?;
        frame::read::<Welcome>(&mut stream).await
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
    let welcome = timeout(HANDSHAKE, handshake).await.map_err(late).flatten().map_err(DialError::Handshake)?;
    if welcome.error.is_empty() { Ok(stream) } else { Err(DialError::Refused(welcome.error)) }
}

async fn dial(socket: &Path) -> io::Result<UnixStream> {
    if socket.as_os_str().len() < ADDRESS {
        return UnixStream::connect(socket).await;
    }
    // Too long for an address; through its folder's descriptor it is short.
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket has no name"));
    };
    let folder: OwnedFd = openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    UnixStream::connect(Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name)).await
}

async fn serve(stream: UnixStream, service: &Service, stop: &mut watch::Receiver<bool>) {
    // HTTP/2 and its buffers begin with the gateway's first byte: most sandboxes wait long for their first call.
    tokio::select! {
        () = spoken_to(&stream) => {}
        () = told(stop) => return,
    }
    let connection = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(STREAMS)
        .max_frame_size(FRAME)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service.server()));
    let mut connection = pin!(connection);
    // How a connection ends makes no difference: the next is dialled.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = told(stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// Resolves at the gateway's first byte or the connection's end, and takes nothing of it.
async fn spoken_to(stream: &UnixStream) {
    loop {
        // "Readable" may be a memory of the handshake; only a look tells.
        let ready = stream.readable().await;
        let look = || Ok(recv(stream, &mut [0_u8][..], RecvFlags::PEEK)?);
        match stream.try_io(Interest::READABLE, look) {
            Err(error) if ready.is_ok() && error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}

/// Tells when something appears in a folder. Held only while there is no connection: the kernel allows a user few of them.
struct Folder(AsyncFd<OwnedFd>);

impl Folder {
    fn watch(socket: &Path) -> io::Result<Self> {
        let folder = socket.parent().unwrap_or(Path::new("/"));
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&watch, folder, inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO)?;
        Ok(Self(register(watch, Interest::READABLE)?))
    }

    async fn changed(&self) {
        let mut events = [0_u8; 1024];
        while let Ok(mut ready) = self.0.readable().await {
            match ready.try_io(|watch| Ok(rustix::io::read(watch.get_ref(), &mut events[..])?)) {
                Ok(Ok(_)) => return,
                Ok(Err(_)) => break,
                Err(_would_block) => {}
            }
        }
        // Broken: the wait's clock decides.
        std::future::pending::<()>().await;
    }
}
