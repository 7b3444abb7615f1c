//! The certainty that nothing runs any more in the process (lifecycle rule 6a).

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use chiton_lifecycle::extension::Fence;
use chiton_socket::connect_to;
use futures::future::BoxFuture;

use super::extension::RemoteExtension;
use super::link::{Link, told};
use super::peer::Peer;
use super::process::{Shared, State};
use super::run::Begun;
use crate::proto::{FenceRequest, OperationFence, fence_request};

/// Between two attempts to get an answer.
const AGAIN: Duration = Duration::from_millis(250);

impl RemoteExtension {
    /// Resolves when nothing runs any more of what is named. May be awaited outside of any runtime.
    pub(super) fn fenced(&self, what: Fence) -> BoxFuture<'static, ()> {
        let (process, instance) = (self.process.clone(), Arc::clone(&self.instance));
        Box::pin(async move {
            let (begun, what) = match what {
                Fence::Step(step) => {
                    // What was never sent, or was answered, is over.
                    let Some(begun) = instance.begun.lock().get(&step.call).cloned() else { return };
                    let id = begun.id.clone();
                    (Some(begun), fence_request::What::Step(id))
                }
                Fence::Operation(operation) => {
                    let operation = operation.to_string();
                    let extension = process.shared.options.name.to_string();
                    let gateway_run = instance.run.clone();
                    (None, fence_request::What::Operation(OperationFence { operation, extension, gateway_run }))
                }
            };
            let call = begun.as_ref().map(|begun| begun.id.call);
            let (shared, request) = (Arc::clone(&process.shared), FenceRequest { what: Some(what) });
            let asked = process.shared.handle.spawn(async move { shared.fence(begun, request).await });
            if asked.await.is_err() {
                // The runtime ends, and with it whoever would go on.
                std::future::pending::<()>().await;
            }
            if let Some(call) = call {
                instance.begun.lock().remove(&call);
            }
        })
    }
}

impl Shared {
    async fn fence(&self, begun: Option<Begun>, request: FenceRequest) {
        let mut states = self.states();
        loop {
            let peer = begun.as_ref().and_then(|begun| begun.link.peer.as_ref());
            let link = match &*states.borrow_and_update() {
                State::Up(link) | State::Unfit { link, .. } => Some(Arc::clone(link)),
                State::New | State::Down { .. } => None,
            };
            let asked = async {
                match link {
                    Some(link) if answers_for(peer, &link) => self.ask(&link, &request).await,
                    // Another process has its place; it can say nothing of the one that was there.
                    Some(_) => false,
                    // Nobody listens, and nothing better is known: it is gone.
                    None => peer.is_none() && self.is_deserted().await,
                }
            };
            tokio::select! {
                over = asked => if over { return },
                () = gone(peer) => return,
            }
            tokio::select! {
                // Whoever keeps the state has gone: so has the gateway.
                changed = states.changed() => if changed.is_err() { std::future::pending::<()>().await },
                () = tokio::time::sleep(AGAIN) => {}
                () = gone(peer) => return,
            }
        }
    }

    async fn ask(&self, link: &Link, request: &FenceRequest) -> bool {
        tokio::select! {
            answer = async { link.client.clone().fence(request.clone()).await } => match answer {
                Ok(_) => true,
                Err(status) => {
                    tracing::warn!(extension = %self.options.name, status = told(&status), "a fence was not answered");
                    false
                }
            },
            () = link.ended.cancelled() => false,
        }
    }

    /// Whether nobody listens at the socket.
    async fn is_deserted(&self) -> bool {
        let tried = tokio::time::timeout(self.dial.limit, connect_to(&self.dial.path)).await;
        let error = tried.ok().and_then(Result::err);
        error.is_some_and(|error| matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound))
    }
}

/// Whether what answers on this connection is what ran the step.
fn answers_for(peer: Option<&Peer>, link: &Link) -> bool {
    match (peer, &link.peer) {
        (Some(peer), Some(now)) => peer.is(now),
        // One of them cannot be told apart from others: its word is all there is.
        _ => true,
    }
}

async fn gone(peer: Option<&Peer>) {
    match peer {
        Some(peer) => peer.gone().await,
        None => std::future::pending().await,
    }
}
