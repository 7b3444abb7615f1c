//! The driver's news.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chiton_compute_wire::names::progress;
use chiton_compute_wire::text::{self, MESSAGE};
use chiton_compute_wire::v1;
use chiton_compute_wire::v1::watch_sandboxes_event::Payload;
use chiton_driver::DriverEvent;
use chiton_model::SandboxId;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::link::Link;

/// How long a driver that does not mark the end of its snapshot may take for its first word.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// Tells what the driver tells, until the driver or the listener is gone.
pub(crate) async fn tell(link: Arc<Link>, news: Arc<watch::Sender<u64>>, sender: mpsc::Sender<DriverEvent>) {
    tokio::select! {
        () = told(&link, &news, &sender) => {}
        () = sender.closed() => {}
    }
}

async fn told(link: &Link, news: &watch::Sender<u64>, sender: &mpsc::Sender<DriverEvent>) {
    let look = link.options.deadlines.look;
    let Ok(greeted) = link.greeted().await else { return };
    let mut client = greeted.client();
    let opened = timeout(look, client.watch_sandboxes(v1::WatchSandboxesRequest {})).await;
    let mut stream = match opened {
        Ok(Ok(stream)) => stream.into_inner(),
        Ok(Err(status)) => {
            if !chiton_compute_wire::status::was_answered(&status) {
                drop(link.broken(&greeted, "watch", &status));
            }
            let error = text::told(status.message(), MESSAGE);
            return tracing::warn!(driver = link.name(), error, "the driver cannot be watched");
        }
        Err(_) => return tracing::warn!(driver = link.name(), "the driver does not answer a watch"),
    };
    // The watch is open: what changes from now on is told by it. The contract has no mark for the end of what is there now,
    // so that is listed; ours has one, and a driver that does not set it in time is watched anew.
    let marked = greeted.said.contract >= 1;
    let deadline = Instant::now() + FIRST_WORD;
    let mut known = BTreeSet::new();
    if !marked && !snapshot(link, &mut known, sender).await {
        return;
    }
    let mut begun = !marked;
    loop {
        let event = if begun { Ok(stream.message().await) } else { timeout_at(deadline, stream.message()).await };
        let event = match event {
            Ok(Ok(Some(event))) => event,
            Ok(Ok(None)) => return tracing::info!(driver = link.name(), "the driver ended its news"),
            Ok(Err(status)) => {
                if !chiton_compute_wire::status::was_answered(&status) {
                    drop(link.broken(&greeted, "watch", &status));
                }
                let error = text::told(status.message(), MESSAGE);
                return tracing::warn!(driver = link.name(), error, "the driver's news broke off");
            }
            Err(_) => {
                return tracing::warn!(driver = link.name(), "the driver did not tell all it has in time");
            }
        };
        let Some(payload) = event.payload else { continue };
        if matches!(payload, Payload::SnapshotEnd(_)) {
            if begun {
                continue;
            }
            begun = true;
        }
        if let Some(event) = understood(link, payload, &mut known)
            && sender.send(event).await.is_err()
        {
            return;
        }
        news.send_modify(|count| *count += 1);
    }
}

/// All that there is, and the mark of its end; whether it could be listed and told.
async fn snapshot(link: &Link, known: &mut BTreeSet<SandboxId>, sender: &mpsc::Sender<DriverEvent>) -> bool {
    let listed = link
        .call("list the sandboxes", link.options.deadlines.look, |mut client| async move {
            client.list_sandboxes(v1::ListSandboxesRequest {}).await
        })
        .await;
    let Ok(listed) = listed else { return false };
    for found in &listed.sandboxes {
        if let Some(event) = changed(link, found, known)
            && sender.send(event).await.is_err()
        {
            return false;
        }
    }
    sender.send(DriverEvent::SnapshotEnd).await.is_ok()
}

fn changed(link: &Link, found: &v1::DriverSandbox, known: &mut BTreeSet<SandboxId>) -> Option<DriverEvent> {
    match link.observed(found) {
        Ok(observed) => {
            known.insert(observed.id.clone());
            Some(DriverEvent::Changed(observed))
        }
        Err(error) => {
            let error = text::told(&error.message, MESSAGE);
            tracing::warn!(driver = link.name(), error, "the driver tells of something that is no sandbox; ignored");
            None
        }
    }
}

fn understood(link: &Link, payload: Payload, known: &mut BTreeSet<SandboxId>) -> Option<DriverEvent> {
    match payload {
        Payload::Sandbox(event) => changed(link, &event.sandbox?, known),
        // Told again and again by some; told once here, and only of what was told to exist.
        Payload::Deleted(event) => {
            let id = SandboxId::new(event.sandbox_id).ok()?;
            known.remove(&id).then_some(DriverEvent::Deleted(id))
        }
        Payload::PlatformEvent(event) => {
            let id = SandboxId::new(event.sandbox_id).ok()?;
            let event = event.event?;
            let detail =
                event.metadata.get(progress::ACTIVE_DETAIL).or_else(|| event.metadata.get(progress::COMPLETE_LABEL));
            let said = detail.map_or(event.message.as_str(), String::as_str);
            let said = if said.is_empty() { event.reason.as_str() } else { said };
            (!said.is_empty()).then(|| DriverEvent::Progress { id, message: text::told(said, MESSAGE) })
        }
        Payload::SnapshotEnd(_) => Some(DriverEvent::SnapshotEnd),
    }
}
