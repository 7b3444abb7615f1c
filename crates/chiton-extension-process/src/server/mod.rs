//! The extension's side: any extension that could be compiled into a gateway, served over a socket instead.
//!
//! ```no_run
//! # fn extension() -> Result<chiton_lifecycle::extension::ExtensionKind, chiton_model::Error> { unimplemented!() }
//! fn main() -> Result<(), chiton_model::Error> {
//!     chiton_extension_process::server::serve([extension()?], "/run/my-extension/socket".as_ref())
//! }
//! ```

mod ask;
mod attempt;
mod service;
mod steps;
mod world;

use std::collections::BTreeSet;
use std::future::Future;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chiton_lifecycle::extension::{ExtensionKind, Registry};
use chiton_model::Error;
use chiton_socket::{Access, PeerListener, own_and_root};
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::Server;

use crate::proto::extension_server::ExtensionServer;
use service::Service;

/// How often a quiet connection is asked for a sign of life, and how long that may take.
const ALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(20));

/// How long what is left of the runtime may take to end.
const CLOSE: Duration = Duration::from_secs(1);

/// Serves until SIGTERM or SIGINT, then drains: running hooks end, new ones are refused. A second signal ends at once.
///
/// Listens on the socket that systemd handed over, else on `socket`, made with mode 0600; callers are this user and root.
/// Brings a runtime of its own: to be called from `main`.
///
/// # Errors
/// When two extensions have one name, when the socket cannot be used, or when the system gives no threads.
pub fn serve(kinds: impl IntoIterator<Item = ExtensionKind>, socket: &Path) -> Result<(), Error> {
    serve_for(kinds, socket, own_and_root())
}

/// As [`serve`], for callers of these users.
///
/// # Errors
/// As [`serve`].
pub fn serve_for(
    kinds: impl IntoIterator<Item = ExtensionKind>,
    socket: &Path,
    callers: BTreeSet<u32>,
) -> Result<(), Error> {
    let host = Host::new(kinds)?;
    let internal = |error: std::io::Error| Error::internal(format!("the system gives no threads or signals: {error}"));
    // A hook that saves state blocks its thread for a moment; another one must be there to take the answer.
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 8);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().map_err(internal)?;
    let served = runtime.block_on(async {
        // Before anybody hears that it runs, and may end it.
        let (mut terminate, mut interrupt) = (
            signal(SignalKind::terminate()).map_err(internal)?,
            signal(SignalKind::interrupt()).map_err(internal)?,
        );
        let access = Access {
            who: "extension",
            cure: "choose another socket, or end the process that has it",
            allowed: Arc::new(callers),
            private: false,
        };
        let listener = match PeerListener::from_systemd(&access)? {
            Some(listener) => listener,
            None => PeerListener::bind(socket, &access)?,
        };
        // One line that scripts may wait for; a closed standard error keeps nobody from serving.
        drop(writeln!(std::io::stderr(), "listening on {}", socket.display()));
        let mut asked = async move || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let (drain, drained) = tokio::sync::oneshot::channel::<()>();
        let serving = host.run(listener, async { drop(drained.await) });
        let signals = async move {
            asked().await;
            tracing::info!("ending: running hooks end first, new ones are refused");
            // Who drains may have ended already.
            let _ = drain.send(());
            asked().await;
        };
        tokio::select! {
            served = serving => served,
            () = signals => Err(Error::unavailable("extension", "ended by a second signal, before its hooks had ended")),
        }
    });
    // The socket goes with its last task. Blocking work that hangs does not keep a process that was told twice to end.
    runtime.shutdown_timeout(CLOSE);
    served
}

/// Extensions to serve, for who has a runtime already.
#[derive(Debug)]
pub struct Host(Registry);

impl Host {
    /// Takes the extensions.
    ///
    /// # Errors
    /// When two have one name.
    pub fn new(kinds: impl IntoIterator<Item = ExtensionKind>) -> Result<Self, Error> {
        let mut registry = Registry::default();
        kinds.into_iter().try_for_each(|kind| registry.register(kind))?;
        Ok(Self(registry))
    }

    /// Serves until `ending` resolves, then drains: the socket goes on answering until no hook runs any more. Needs a
    /// runtime of several threads.
    ///
    /// # Errors
    /// When the transport fails as a whole.
    pub async fn run(self, listener: PeerListener, ending: impl Future<Output = ()>) -> Result<(), Error> {
        let service = Service::new(self.0);
        let steps = service.steps();
        let drained = async move {
            ending.await;
            steps.drain().await;
        };
        Server::builder()
            .http2_keepalive_interval(Some(ALIVE.0))
            .http2_keepalive_timeout(Some(ALIVE.1))
            .add_service(ExtensionServer::new(service))
            .serve_with_incoming_shutdown(listener.incoming(), drained)
            .await
            .map_err(|error| Error::unavailable("extension", format!("the socket cannot be served: {error}")))
    }
}
