//! A proxy in front of an engine's Unix socket that loses, delays, cuts and holds up what it is told to.
//!
//! A client's deadline says nothing about what the engine does: a request may be carried out after its client gave up, and
//! an answer may be lost although everything was done. No engine does this on demand. So tests put this proxy between
//! driver and engine and inject faults by method, path and the n-th match; what is held up is let go by the test, at the
//! moment it chooses. Everything else passes as it is: answers that are streams (events, logs) frame by frame, connections
//! that change their protocol (attach, exec) byte by byte, with each side's end.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use chiton_driver_suite::proxy::{Fault, Proxy, Rule};
//! use http::Method;
//!
//! let proxy = Proxy::start("/tmp/faulty.sock".as_ref(), "/run/docker.sock".as_ref())?;
//! let late = proxy.inject(Rule::new(Method::POST, "*/containers/create*", Fault::Late));
//! // … the driver creates through /tmp/faulty.sock, and its deadline passes …
//! late.met().await;
//! late.release();
//! late.carried_out().await;
//! # Ok(())
//! # }
//! ```

mod body;
mod forward;
mod record;
mod rule;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

pub use record::{Fate, Passed};
pub use rule::{Fault, Injected, Rule};

/// A running proxy. Cheap to clone; when the last clone is gone, it is down.
#[derive(Clone)]
pub struct Proxy(Arc<Owned>);

/// Ends the proxy with its last owner: the tasks hold only what is inside.
struct Owned(Arc<Inner>);

struct Inner {
    socket: PathBuf,
    engine: PathBuf,
    rules: Mutex<Vec<rule::Standing>>,
    record: record::Record,
    /// Cancelled when it goes down, with every connection.
    life: Mutex<CancellationToken>,
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.down();
    }
}

impl Proxy {
    /// Listens at `socket` for what is meant for `engine`. To be called on a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn start(socket: &Path, engine: &Path) -> io::Result<Self> {
        let inner = Inner {
            socket: socket.to_owned(),
            engine: engine.to_owned(),
            rules: Mutex::default(),
            record: record::Record::default(),
            life: Mutex::default(),
        };
        let proxy = Self(Arc::new(Owned(Arc::new(inner))));
        proxy.up()?;
        Ok(proxy)
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.0.0.socket
    }

    /// From now on a request that fits meets this fault. Of several rules that fit, the first that still has a turn.
    pub fn inject(&self, rule: Rule) -> Injected {
        let (standing, injected) = rule.stand();
        self.0.0.rules.lock().push(standing);
        injected
    }

    /// Takes all rules back; what is held up stays so until it is released.
    pub fn calm(&self) {
        self.0.0.rules.lock().clear();
    }

    /// Everything that came, in order.
    pub fn log(&self) -> Vec<Passed> {
        self.0.0.record.all()
    }

    /// Resolves with the first request of this method and path pattern that is past the first `after`, when it is decided
    /// what became of it.
    pub async fn passed(&self, method: &http::Method, path: &str, after: usize) -> Passed {
        self.0.0.record.until(method, path, after).await
    }

    /// The engine is not there any more: the socket is gone and every connection is cut.
    pub fn down(&self) {
        self.0.0.down();
    }

    /// The engine is there again.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn up(&self) -> io::Result<()> {
        let inner = &self.0.0;
        inner.down();
        let listener = UnixListener::bind(&inner.socket)?;
        let life = CancellationToken::new();
        *inner.life.lock() = life.clone();
        tokio::spawn(serve(Arc::clone(inner), listener, life));
        Ok(())
    }
}

impl Inner {
    fn down(&self) {
        self.life.lock().cancel();
        // Not there is what it shall be.
        drop(std::fs::remove_file(&self.socket));
    }
}

async fn serve(inner: Arc<Inner>, listener: UnixListener, life: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = life.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        // Out of descriptors, or the like: the client sees a connection that nobody serves, as with a real engine.
        let Ok((stream, _)) = accepted else { return };
        let (inner, life) = (Arc::clone(&inner), life.clone());
        tokio::spawn(async move {
            let ended = life.clone();
            let service = service_fn(move |request| forward::forward(Arc::clone(&inner), life.clone(), request));
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
            tokio::select! {
                () = ended.cancelled() => {}
                // How a client's connection ends is the client's matter.
                _ = connection => {}
            }
        });
    }
}

#[cfg(test)]
mod tests;
