//! Streams of what happens: sandboxes, and the steps of one operation.

use std::str::FromStr as _;

use chiton_lifecycle::journal::{SandboxQuery, StepTiming};
use chiton_lifecycle::runtime::LifecycleEvent;
use chiton_model::{Error, OperationId, Principal, SandboxId};
use chiton_proto::v1 as wire;
use chiton_proto::v1::wait_operation_event::Event as WaitEvent;
use chiton_proto::v1::watch_sandboxes_event::{Event as WatchEvent, Reset, SnapshotEnd};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::convert;
use super::service::Api;
use chiton_client::to_status;

/// How many events wait for a slow client before the sender waits.
const BUFFER: usize = 64;

type Out<T> = mpsc::Sender<Result<T, Status>>;

impl Api {
    pub(super) async fn watch_sandboxes(
        &self,
        _: Principal,
        request: wire::WatchSandboxesRequest,
    ) -> Result<BoxStream<'static, Result<wire::WatchSandboxesEvent, Status>>, Error> {
        let only = match request.sandbox {
            Some(selector) => Some(self.select(Some(selector), false).await?.record.id),
            None => None,
        };
        let (out, stream) = mpsc::channel(BUFFER);
        let api = self.clone();
        tokio::spawn(async move {
            if let Err(error) = api.watch(only, &out).await {
                drop(out.send(Err(to_status(&error))).await);
            }
        });
        Ok(ReceiverStream::new(stream).boxed())
    }

    async fn watch(&self, only: Option<SandboxId>, out: &Out<wire::WatchSandboxesEvent>) -> Result<(), Error> {
        let send = async |event| out.send(Ok(wire::WatchSandboxesEvent { event: Some(event) })).await.is_ok();
        loop {
            // Subscribed before the snapshot is read: a change in between is told twice rather than never.
            let mut events = self.hub.subscribe();
            let mut troubles = self.sessions.troubles();
            if !send(WatchEvent::Reset(Reset {})).await {
                return Ok(());
            }
            let mut query = SandboxQuery { all: true, limit: 500, ..SandboxQuery::default() };
            loop {
                let page = self.engine.list(&query).await?;
                for view in page.views.iter().filter(|view| only.as_ref().is_none_or(|id| *id == view.record.id)) {
                    if !send(WatchEvent::Changed(self.shown(view))).await {
                        return Ok(());
                    }
                }
                let Some(next) = page.next else { break };
                query.after = Some(next);
            }
            if !send(WatchEvent::SnapshotEnd(SnapshotEnd {})).await {
                return Ok(());
            }
            loop {
                let event = tokio::select! {
                    event = events.recv() => event,
                    trouble = troubles.recv() => {
                        let id = match trouble {
                            Ok(id) if only.as_ref().is_none_or(|only| *only == id) => id,
                            Err(RecvError::Lagged(_)) => break,
                            _ => continue,
                        };
                        // Gone by now: its removal is told next.
                        let Ok(view) = self.view(&id).await else { continue };
                        if !send(WatchEvent::Changed(self.shown(&view))).await {
                            return Ok(());
                        }
                        continue;
                    }
                    () = out.closed() => return Ok(()),
                };
                let event = match event {
                    Ok(LifecycleEvent::Changed(record)) if only.as_ref().is_none_or(|id| *id == record.id) => {
                        match self.view(&record.id).await {
                            Ok(view) => WatchEvent::Changed(self.shown(&view)),
                            // Gone by now: its removal is told next.
                            Err(_) => continue,
                        }
                    }
                    Ok(LifecycleEvent::Removed(id)) if only.as_ref().is_none_or(|only| *only == id) => {
                        WatchEvent::Removed(id.to_string())
                    }
                    Ok(_) => continue,
                    Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return Ok(()),
                };
                if !send(event).await {
                    return Ok(());
                }
            }
        }
    }

    #[expect(clippy::unused_async, reason = "every method of the service is awaited")]
    pub(super) async fn wait_operation(
        &self,
        _: Principal,
        request: wire::WaitOperationRequest,
    ) -> Result<BoxStream<'static, Result<wire::WaitOperationEvent, Status>>, Error> {
        let id = OperationId::from_str(&request.operation)?;
        let (out, stream) = mpsc::channel(BUFFER);
        let api = self.clone();
        tokio::spawn(async move {
            if let Err(error) = api.follow(&id, &out).await {
                drop(out.send(Err(to_status(&error))).await);
            }
        });
        Ok(ReceiverStream::new(stream).boxed())
    }

    async fn follow(&self, id: &OperationId, out: &Out<wire::WaitOperationEvent>) -> Result<(), Error> {
        let mut events = self.hub.subscribe();
        let ended = self.engine.wait(id);
        tokio::pin!(ended);
        let operation = loop {
            tokio::select! {
                operation = &mut ended => break operation?,
                () = out.closed() => return Ok(()),
                event = events.recv() => {
                    // Steps are for display: one that was missed does no harm.
                    if let Some(event) = event.ok().and_then(|event| progress(id, event)) {
                        drop(out.send(Ok(wire::WaitOperationEvent { event: Some(event) })).await);
                    }
                }
            }
        };
        let sandbox = match operation.subject.sandbox() {
            Some(id) => self.view(id).await.ok(),
            None => None,
        };
        let outcome = wire::OperationOutcome {
            operation: Some(convert::operation(&operation)),
            sandbox: sandbox.as_ref().map(|view| self.shown(view)),
            obligations: self.engine.obligations_of(&operation.subject).iter().map(convert::obligation).collect(),
        };
        drop(out.send(Ok(wire::WaitOperationEvent { event: Some(WaitEvent::Outcome(outcome)) })).await);
        Ok(())
    }
}

/// An event as a step of this operation.
fn progress(id: &OperationId, event: LifecycleEvent) -> Option<WaitEvent> {
    match event {
        LifecycleEvent::StepStarted { operation, step, .. } if operation == *id => {
            Some(WaitEvent::StepStarted(step.to_string()))
        }
        LifecycleEvent::StepEnded { operation, step, took, error, .. } if operation == *id => {
            let timing =
                StepTiming { step, begin_us: 0, took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX), error };
            Some(WaitEvent::StepEnded(convert::step(&timing)))
        }
        LifecycleEvent::Progress { message, .. } => Some(WaitEvent::Progress(message)),
        _ => None,
    }
}
