//! What an extension does behind a socket, for tests and measurements: in one process with its gateway, or in its own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use chiton_lifecycle::extension::{Descriptor, ExtensionKind};
use chiton_model::{Error, ExtensionName};
use chiton_socket::{Access, PeerListener, own_and_root};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::client::{Options, Process};
use crate::server::Host;

/// How long a process may take until it says what it is, and how often it is asked.
const BEGIN: Duration = Duration::from_mins(1);
const AGAIN: Duration = Duration::from_millis(50);

/// Never ended: kinds and their instances may be used until the process ends.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

fn runtime() -> &'static Runtime {
    RUNTIME.get_or_init(|| {
        let built = Builder::new_multi_thread().worker_threads(4).thread_name("beyond").enable_all().build();
        built.unwrap_or_else(|error| panic!("the system gives no threads: {error}"))
    })
}

/// A folder for a socket, this user's alone.
fn folder() -> Result<TempDir, Error> {
    let folder = tempfile::Builder::new().prefix("chiton-extension-").tempdir();
    folder.map_err(|error| Error::unavailable("extension", format!("no folder for its socket: {error}")))
}

/// Serves an extension on a socket of its own and gives it back as a gateway sees it there. To be called outside of any
/// runtime. The socket is served as long as the kind is kept.
///
/// # Errors
/// When the socket cannot be made or the extension not be reached there.
///
/// # Panics
/// When the system gives no threads.
pub fn over_a_socket(kind: Result<ExtensionKind, Error>) -> Result<ExtensionKind, Error> {
    let kind = kind?;
    let name = kind.descriptor().name.clone();
    let folder = folder()?;
    let socket = folder.path().join("socket");
    let (end, ended) = oneshot::channel::<()>();
    let kept = runtime().block_on(async {
        let access = Access { who: "extension", cure: "", allowed: Arc::new(own_and_root()), private: true };
        let listener = PeerListener::bind(&socket, &access)?;
        let host = Host::new([kind])?;
        tokio::spawn(async move {
            let served = host.run(listener, async { drop(ended.await) }).await;
            if let Err(error) = served {
                tracing::error!(%error, "an extension beside its gateway");
            }
        });
        let process = Process::start(Options { name, socket, peers: own_and_root() });
        let deadline = Instant::now() + BEGIN;
        loop {
            match process.describe().await {
                Ok(descriptor) => return Ok(process.kind(descriptor)),
                Err(error) if Instant::now() >= deadline => return Err(error),
                // One look may take too long on a busy machine; it looks again by itself.
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    })?;
    let alive = Arc::new((end, folder));
    Ok(kept.wrapped(
        |_| (),
        move |extension| {
            // Captured, so that the socket is served as long as the kind is there.
            let _ = &alive;
            extension
        },
    ))
}

/// Killed and waited for when it is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// An extension's process of any make, for tests: started here, and killed when nobody uses it any more.
pub struct Beside {
    process: Process,
    descriptor: Descriptor,
    child: Killed,
    /// With its socket.
    folder: TempDir,
}

impl Beside {
    /// Starts a program that serves the extension of this name, with the path of the socket to listen on as its last
    /// argument, and waits until it says what it is. To be called outside of any runtime.
    ///
    /// # Errors
    /// When it cannot be started, ends, or says nothing within a minute.
    ///
    /// # Panics
    /// When the system gives no threads.
    pub fn start(name: &str, mut command: Command) -> Result<Arc<Self>, Error> {
        let unusable = |why: String| Error::unavailable("extension", format!("the process of {name:?}: {why}"));
        let folder = folder()?;
        let socket = folder.path().join("socket");
        let child = command.arg(&socket).stdin(Stdio::null()).spawn();
        let child = child.map_err(|error| unusable(format!("{command:?} cannot be started: {error}")))?;
        let mut child = Killed(child);
        let options = Options { name: ExtensionName::new(name)?, socket, peers: own_and_root() };
        let (process, descriptor) = runtime().block_on(async {
            let process = Process::start(options);
            let deadline = Instant::now() + BEGIN;
            loop {
                match process.describe().await {
                    Ok(descriptor) => return Ok((process, descriptor)),
                    Err(error) if Instant::now() >= deadline => return Err(error),
                    Err(_) => {}
                }
                if let Ok(Some(status)) = child.0.try_wait() {
                    return Err(unusable(format!("it ended before it said what it is: {status}")));
                }
                tokio::time::sleep(AGAIN).await;
            }
        })?;
        Ok(Arc::new(Self { process, descriptor, child, folder }))
    }

    /// The extension as a gateway sees it. Keeps the process.
    pub fn kind(self: &Arc<Self>) -> ExtensionKind {
        let alive = Arc::clone(self);
        self.process.kind(self.descriptor.clone()).wrapped(
            |_| (),
            move |extension| {
                // Captured, so that the process is there as long as the kind is.
                let _ = &alive;
                extension
            },
        )
    }

    /// The process's id, for signals.
    pub fn id(&self) -> u32 {
        self.child.0.id()
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }
}
