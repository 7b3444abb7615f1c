//! News by the engine's events.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use chiton_driver::{DriverEvent, Observed};
use chiton_model::SandboxId;
use chiton_model::label::managed;
use futures::StreamExt;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::client::{Failure, LOOK};
use crate::engine::Engine;

/// What changes how a container stands. The others (exec, attach, resize) are many and say nothing.
const ACTIONS: [&str; 10] = ["create", "init", "start", "die", "died", "oom", "pause", "unpause", "stop", "restart"];
/// A container is gone: docker's word and podman's.
const GONE: [&str; 2] = ["destroy", "remove"];

/// Between two looks at a container that the engine fails to look at.
const AGAIN: Duration = Duration::from_millis(200);

/// One watcher: a snapshot, its end, then news, until the engine is lost.
pub(crate) async fn watch(engine: Arc<Engine>, sender: mpsc::Sender<DriverEvent>) {
    let Ok(api) = engine.client.api().await else { return };
    let label = format!("{}={}", managed::GATEWAY_ID, engine.options.gateway);
    let filters = HashMap::from([("type", vec!["container"]), ("label", vec![label.as_str()])]);
    // From a moment ago: the stream may be open only after the snapshot, and nothing may fall between. What is told twice
    // is looked at twice.
    let since = jiff::Timestamp::now().as_second().saturating_sub(2).to_string();
    let mut events = api.events(Some(EventsOptionsBuilder::new().since(&since).filters(&filters).build()));
    let mut told = engine.news.subscribe();
    let mut early = Vec::new();
    let snapshot = {
        let listing = engine.list();
        tokio::pin!(listing);
        loop {
            tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(Ok(event)) => early.push(event),
                    _ => return,
                },
                snapshot = &mut listing => break snapshot,
            }
        }
    };
    let Ok(snapshot) = snapshot else { return };
    if let Err(failure) = engine.sweep_networks().await {
        tracing::warn!(error = %failure.error(), "networks that no sandbox uses were not removed");
    }
    for swept in [engine.sweep_tokens().await, engine.sweep_programs().await] {
        if let Err(error) = swept {
            tracing::warn!(error = %error.error(), "what a crash left of a supervisor was not removed");
        }
    }
    for observed in snapshot {
        if sender.send(DriverEvent::Changed(observed)).await.is_err() {
            return;
        }
    }
    if sender.send(DriverEvent::SnapshotEnd).await.is_err() {
        return;
    }
    for event in early {
        if !pass_on(&engine, &event, &sender).await {
            return;
        }
    }
    loop {
        let passed = tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => pass_on(&engine, &event, &sender).await,
                // Lost, or unreadable: the next watch begins with all that is.
                _ => return,
            },
            event = told.recv() => match event {
                Ok(event) => sender.send(event).await.is_ok(),
                // Progress that nobody read in time.
                Err(RecvError::Lagged(_)) => true,
                Err(RecvError::Closed) => return,
            },
            () = sender.closed() => return,
        };
        if !passed {
            return;
        }
    }
}

/// Tells how the container of an event stands now; `false` when nobody listens or the engine is lost.
async fn pass_on(engine: &Engine, event: &EventMessage, sender: &mpsc::Sender<DriverEvent>) -> bool {
    let attributes = event.actor.as_ref().and_then(|actor| actor.attributes.as_ref());
    let id = attributes.and_then(|labels| labels.get(managed::SANDBOX_ID)).and_then(|id| SandboxId::new(id).ok());
    let (Some(id), Some(action)) = (id, event.action.as_deref()) else { return true };
    if GONE.contains(&action) {
        return sender.send(DriverEvent::Deleted(id)).await.is_ok();
    }
    if !ACTIONS.contains(&action) {
        return true;
    }
    let found = tokio::select! {
        found = look(engine, &id) => found,
        () = sender.closed() => return false,
    };
    match found {
        Ok(Some(observed)) => sender.send(DriverEvent::Changed(observed)).await.is_ok(),
        // Its end is an event of its own.
        Ok(None) => true,
        // Told by the next watch, which begins with all that is: passed over, its end might never be told.
        Err(failure) => {
            tracing::warn!(error = %failure.error(), sandbox = %id, "the watch ends: how a sandbox stands is not known");
            false
        }
    }
}

/// Looks at one container. An engine that is there and fails to look at it is asked again for longer than a call would
/// wait: the watch of all the others hangs on it.
async fn look(engine: &Engine, id: &SandboxId) -> Result<Option<Observed>, Failure> {
    let end = Instant::now() + LOOK;
    loop {
        match engine.observe(id).await {
            Err(Failure::Failed(_)) if Instant::now() < end => tokio::time::sleep(AGAIN).await,
            seen => return seen,
        }
    }
}
