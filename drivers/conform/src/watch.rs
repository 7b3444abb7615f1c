//! A watch, and what it has told.

use std::sync::Arc;

use chiton_compute_wire::names::conditions;
use chiton_compute_wire::v1::watch_sandboxes_event::Payload;
use chiton_compute_wire::v1::{DriverSandbox, DriverSandboxStatus, WatchSandboxesEvent};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::options::Limits;
use crate::verdict::{Verdict, broken, said};
use crate::wire::Wire;

/// One event.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Sandbox(Box<DriverSandbox>),
    Deleted(String),
    /// About this sandbox, from the platform.
    Platform(String),
    SnapshotEnd,
    /// Something newer than this kit.
    Other,
    /// The stream ended.
    End(String),
}

impl Event {
    fn of(event: WatchSandboxesEvent) -> Self {
        match event.payload {
            Some(Payload::Sandbox(event)) => Self::Sandbox(Box::new(event.sandbox.unwrap_or_default())),
            Some(Payload::Deleted(event)) => Self::Deleted(event.sandbox_id),
            Some(Payload::PlatformEvent(event)) => Self::Platform(event.sandbox_id),
            Some(Payload::SnapshotEnd(_)) => Self::SnapshotEnd,
            None => Self::Other,
        }
    }

    /// The sandbox that it is about.
    pub(crate) fn id(&self) -> Option<&str> {
        match self {
            Self::Sandbox(sandbox) => Some(&sandbox.id),
            Self::Deleted(id) | Self::Platform(id) => Some(id),
            Self::SnapshotEnd | Self::Other | Self::End(_) => None,
        }
    }

    pub(crate) fn is_state_of(&self, id: &str) -> bool {
        matches!(self, Self::Sandbox(sandbox) if sandbox.id == id)
    }

    pub(crate) fn is_end_of(&self, id: &str) -> bool {
        matches!(self, Self::Deleted(deleted) if deleted == id)
    }
}

/// Whether a status says `Ready`.
pub(crate) fn is_ready(status: Option<&DriverSandboxStatus>) -> bool {
    let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions.iter().rev().find(|found| found.r#type == conditions::READY).is_some_and(|found| found.status == "True")
}

/// A status in a few words.
pub(crate) fn words(status: Option<&DriverSandboxStatus>) -> String {
    let Some(status) = status else { return "no status".to_owned() };
    let mut words: Vec<String> = status
        .conditions
        .iter()
        .map(|found| format!("{}={} {} {}", found.r#type, found.status, found.reason, found.message).trim().to_owned())
        .collect();
    if !status.state.is_empty() {
        words.push(format!("state={}", status.state));
    }
    if status.deleting {
        words.push("deleting".to_owned());
    }
    words.join(", ")
}

/// A watch that is read at once, or held.
pub(crate) struct Watcher {
    events: Arc<Mutex<Vec<Event>>>,
    count: watch::Receiver<usize>,
    limits: Limits,
    task: JoinHandle<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watcher {
    /// Opens a watch. `go` holds up its reading, after its first event, until it is true.
    pub(crate) fn open(wire: &Wire, limits: Limits, mut go: watch::Receiver<bool>) -> Self {
        let events = Arc::new(Mutex::new(Vec::new()));
        let (sender, count) = watch::channel(0);
        let (wire, log) = (wire.clone(), Arc::clone(&events));
        let task = tokio::spawn(async move {
            let tell = |event| {
                log.lock().push(event);
                sender.send_modify(|count| *count += 1);
            };
            let mut stream = match wire.watch().await {
                Ok(stream) => stream,
                Err(status) => return tell(Event::End(said(&status))),
            };
            loop {
                match stream.message().await {
                    Ok(Some(event)) => tell(Event::of(event)),
                    Ok(None) => return tell(Event::End("the driver ended the stream".to_owned())),
                    Err(status) => return tell(Event::End(said(&status))),
                }
                if go.wait_for(|go| *go).await.is_err() {
                    return;
                }
            }
        });
        Self { events, count, limits, task }
    }

    /// Ends the watch: what is asked on its connection from now on comes after its end.
    pub(crate) async fn close(mut self) {
        self.task.abort();
        // With the task goes the stream.
        drop((&mut self.task).await);
    }

    /// All events so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().clone()
    }

    /// How many events there are.
    pub(crate) fn count(&self) -> usize {
        self.events.lock().len()
    }

    /// Waits until `found` finds something in all events so far.
    pub(crate) async fn until<T>(&self, what: &str, found: impl Fn(&[Event]) -> Option<T>) -> Verdict<T> {
        let mut count = self.count.clone();
        let waited = timeout(self.limits.event, async {
            loop {
                count.borrow_and_update();
                let (seen, end) = {
                    let events = self.events.lock();
                    (
                        found(&events),
                        events.iter().find_map(|event| match event {
                            Event::End(why) => Some(why.clone()),
                            _ => None,
                        }),
                    )
                };
                match (seen, end) {
                    (Some(seen), _) => return Ok(seen),
                    (None, Some(why)) => {
                        return Err(broken(format!("the watch: {what}"), "it before the stream's end", why));
                    }
                    (None, None) => {}
                }
                if count.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        });
        if let Ok(verdict) = waited.await {
            return verdict;
        }
        let expected = format!("it within {:?}", self.limits.event);
        Err(broken(format!("the watch: {what}"), expected, summary(&self.events.lock())))
    }

    /// Waits for an event that satisfies this; its place among all.
    pub(crate) async fn event(&self, what: &str, wanted: impl Fn(&Event) -> bool) -> Verdict<usize> {
        self.event_after(0, what, wanted).await
    }

    /// The same, looking only at what came after the first `skip`.
    pub(crate) async fn event_after(&self, skip: usize, what: &str, wanted: impl Fn(&Event) -> bool) -> Verdict<usize> {
        self.until(what, |events| Some(skip + events.get(skip..)?.iter().position(&wanted)?)).await
    }
}

/// The last events, for people.
fn summary(events: &[Event]) -> String {
    let shown: Vec<String> = events
        .iter()
        .rev()
        .take(6)
        .rev()
        .map(|event| match event {
            Event::Sandbox(sandbox) => format!("{:?}: {}", sandbox.id, words(sandbox.status.as_ref())),
            Event::Deleted(id) => format!("{id:?} deleted"),
            Event::Platform(id) => format!("{id:?}: an event of the platform"),
            Event::SnapshotEnd => "the snapshot's end".to_owned(),
            Event::Other => "an unknown event".to_owned(),
            Event::End(why) => format!("the stream's end: {why}"),
        })
        .collect();
    if shown.is_empty() {
        "no event at all".to_owned()
    } else {
        format!("{} events, last: {}", events.len(), shown.join("; "))
    }
}
