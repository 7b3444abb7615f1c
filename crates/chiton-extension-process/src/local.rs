//! Both sides in one process: what an extension does behind a socket, for tests and measurements.

use std::sync::{Arc, OnceLock};

use chiton_lifecycle::extension::ExtensionKind;
use chiton_model::Error;
use chiton_socket::{Access, PeerListener, own_and_root};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::client::{Options, Process};
use crate::server::Host;

/// Never ended: kinds and their instances may be used until the process ends.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

fn runtime() -> &'static Runtime {
    RUNTIME.get_or_init(|| {
        let built = Builder::new_multi_thread().worker_threads(4).thread_name("beyond").enable_all().build();
        built.unwrap_or_else(|error| panic!("the system gives no threads: {error}"))
    })
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
    let folder = tempfile::Builder::new().prefix("chiton-extension-").tempdir();
    let folder =
        folder.map_err(|error| Error::unavailable("extension", format!("no folder for its socket: {error}")))?;
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
        let descriptor = process.describe().await?;
        Ok(process.kind(descriptor))
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
