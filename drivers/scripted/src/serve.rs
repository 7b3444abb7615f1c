//! The server's life.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use chiton_compute_wire::names::SERVICE;
use chiton_compute_wire::v1::compute_driver_server::ComputeDriverServer;
use chiton_model::Error;
use chiton_socket::{Access, PeerListener, own_and_root};
use tokio::sync::{Notify, oneshot};
use tonic::transport::server::Server as Grpc;
use tonic_health::ServingStatus;

use crate::fault::{Fault, Faults};
use crate::inspect::Inspect;
use crate::platform::Platform;
use crate::service::Service;

/// How the driver is to behave.
#[derive(Clone, Debug)]
pub struct Script {
    /// The rules that it breaks.
    pub faults: Faults,
    /// How late late answers are.
    pub late: Duration,
    /// Whether it is one of those that know only the public contract: nothing of the additions is said or heard, the calls
    /// for workspaces are UNIMPLEMENTED, and it serves no health.
    pub stock: bool,
    /// Addresses at which its sandboxes want to call the gateway. A stock driver without any does not know the question.
    pub listeners: Vec<String>,
    /// Whether it comes back by itself after a crash that a fault has made. Else its thread ends.
    pub revive: bool,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            faults: Faults::default(),
            late: Duration::from_secs(61),
            stock: false,
            listeners: Vec::new(),
            revive: true,
        }
    }
}

/// Ends the server as a crash would: every connection breaks.
#[derive(Clone, Default)]
pub(crate) struct Crash(Arc<Notify>);

impl Crash {
    /// Crashes; never comes back.
    pub(crate) async fn now(&self) {
        self.0.notify_one();
        std::future::pending::<()>().await;
    }
}

/// Serves a platform on a socket, on a thread of its own, until it is dropped. Dropping it breaks every connection.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    ended: Option<oneshot::Receiver<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Begins to serve; the socket can be called when this returns. The faults that are about restarts do their part here,
    /// at every start but a platform's first.
    ///
    /// # Errors
    /// The socket cannot be bound, with the reason and a cure.
    pub fn start(socket: &Path, platform: &Arc<Platform>, script: Script) -> Result<Self, Error> {
        platform.served(&script.faults);
        let (stop, stopped) = oneshot::channel();
        let (alive, ended) = oneshot::channel::<()>();
        let (bound, outcome) = mpsc::channel();
        let (socket, platform) = (socket.to_owned(), Arc::clone(platform));
        let thread = std::thread::spawn(move || {
            let _alive = alive;
            live(&socket, &platform, &script, stopped, &bound);
        });
        match outcome.recv() {
            Ok(Ok(())) => Ok(Self { stop: Some(stop), ended: Some(ended), thread: Some(thread) }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::internal("the server's thread ended before it served")),
        }
    }

    /// Waits until it ends by itself: after a crash, when it is not to come back.
    pub async fn ended(&mut self) {
        if let Some(ended) = self.ended.take() {
            // Its thread drops the other end.
            drop(ended.await);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn live(
    socket: &Path,
    platform: &Arc<Platform>,
    script: &Script,
    mut stopped: oneshot::Receiver<()>,
    bound: &mpsc::Sender<Result<(), Error>>,
) {
    loop {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                drop(bound.send(Err(Error::internal(format!("the server has no runtime: {error}")))));
                return;
            }
        };
        let crash = Crash::default();
        let crashed = runtime.block_on(async {
            tokio::select! {
                // The sender that is dropped stops, too.
                _ = &mut stopped => false,
                () = crash.0.notified() => true,
                served = serve(socket, platform, script, &crash, bound) => {
                    if let Err(error) = served {
                        drop(bound.send(Err(error)));
                    }
                    false
                }
            }
        });
        // Every connection is a task of this runtime and ends with it.
        drop(runtime);
        if !crashed || !script.revive {
            return;
        }
    }
}

async fn serve(
    socket: &Path,
    platform: &Arc<Platform>,
    script: &Script,
    crash: &Crash,
    bound: &mpsc::Sender<Result<(), Error>>,
) -> Result<(), Error> {
    let access = Access {
        who: "driver",
        cure: "choose another --socket, or stop who has it",
        allowed: Arc::new(own_and_root()),
        private: true,
    };
    let listener = PeerListener::bind(socket, &access)?;
    let faults = Arc::new(script.faults.clone());
    let (reporter, health) = tonic_health::server::health_reporter();
    let status = if faults.has(Fault::Unhealthy) { ServingStatus::NotServing } else { ServingStatus::Serving };
    for name in ["", SERVICE] {
        reporter.set_service_status(name, status).await;
    }
    let service = Service {
        platform: Arc::clone(platform),
        faults: Arc::clone(&faults),
        late: script.late,
        stock: script.stock,
        listeners: script.listeners.clone(),
        crash: crash.clone(),
        memory: Arc::default(),
    };
    // A server that is started again tells nobody anew.
    drop(bound.send(Ok(())));
    Grpc::builder()
        .layer(Inspect { faults, crash: crash.clone() })
        .add_optional_service((!script.stock).then_some(health))
        .add_service(ComputeDriverServer::new(service))
        .serve_with_incoming(listener.incoming())
        .await
        .map_err(|error| Error::internal(format!("the server ended: {error}")))
}
