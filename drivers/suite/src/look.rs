//! Waiting for what a sandbox does: by the driver's events and its log, never by looking again and again.

use std::time::Duration;

use chiton_driver::{
    ComputeDriver, CreateCall, DriverEvent, LogOptions, LogStream, Observed, ObservedStatus, PlanRequest,
};
use chiton_model::{ExitStatus, SandboxId};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::time::timeout;

use crate::life::Life;
use crate::stage::sandbox_id;
use crate::verdict::{Failure, Verdict, wrong};

/// No single step of a case takes longer, or something hangs.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);

/// What a main process wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// How many bytes were given up.
    pub(crate) dropped: u64,
}

impl Output {
    /// Standard output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Both streams as text, for messages.
    pub(crate) fn shown(&self) -> String {
        format!("{:?} and {:?} on standard error", self.text(), String::from_utf8_lossy(&self.stderr))
    }
}

/// A watch of one driver value.
pub(crate) struct Watcher {
    events: BoxStream<'static, DriverEvent>,
    seen: Vec<DriverEvent>,
}

impl Watcher {
    pub(crate) fn of(driver: &dyn ComputeDriver) -> Self {
        Self { events: driver.watch(), seen: Vec::new() }
    }

    /// The next event; `None` when the watch ended.
    pub(crate) async fn next(&mut self, what: &str) -> Verdict<Option<DriverEvent>> {
        let event = timeout(PATIENCE, self.events.next()).await.map_err(|_| self.late(what))?;
        self.seen.extend(event.clone());
        Ok(event)
    }

    /// The first event that is wanted. A watch that ends before is a failure.
    pub(crate) async fn until<T>(&mut self, what: &str, wanted: impl Fn(&DriverEvent) -> Option<T>) -> Verdict<T> {
        let waiting = async {
            while let Some(event) = self.events.next().await {
                let found = wanted(&event);
                self.seen.push(event);
                if found.is_some() {
                    return found;
                }
            }
            None
        };
        match timeout(PATIENCE, waiting).await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(wrong(what, "a watch that goes on", format!("its end after {:?}", self.seen))),
            Err(_) => Err(self.late(what).into()),
        }
    }

    /// The snapshot: everything until its end.
    pub(crate) async fn snapshot(&mut self) -> Verdict<Vec<Observed>> {
        let before = self.seen.len();
        self.until("the snapshot's end", |event| matches!(event, DriverEvent::SnapshotEnd).then_some(())).await?;
        let told = self.seen[before..].iter();
        Ok(told
            .filter_map(|event| if let DriverEvent::Changed(it) = event { Some(it.clone()) } else { None })
            .collect())
    }

    /// A status of one sandbox.
    pub(crate) async fn status(
        &mut self,
        what: &str,
        id: &SandboxId,
        wanted: impl Fn(&ObservedStatus) -> bool,
    ) -> Verdict<Observed> {
        self.until(what, |event| match event {
            DriverEvent::Changed(observed) if observed.id == *id && wanted(&observed.status) => Some(observed.clone()),
            _ => None,
        })
        .await
    }

    /// A sandbox's end, with its status.
    pub(crate) async fn exit(&mut self, id: &SandboxId) -> Verdict<ExitStatus> {
        self.until("the exit", |event| match event {
            DriverEvent::Changed(Observed { id: of, status: ObservedStatus::Exited(exit), .. }) if of == id => {
                Some(exit.clone())
            }
            _ => None,
        })
        .await
    }

    /// The end of one start. News of an earlier one may come late; the attempt tells them apart. News that name no
    /// attempt are believed only after a look, as the lifecycle engine does it.
    pub(crate) async fn exit_of(&mut self, life: &Life, call: &CreateCall) -> Verdict<ExitStatus> {
        let id = &call.identity.sandbox;
        let awaited = call.agent.as_ref().map(|agent| agent.attempt.as_str());
        loop {
            let (exit, sure) = self
                .until("the exit of this start", |event| match event {
                    DriverEvent::Changed(Observed {
                        id: of, status: ObservedStatus::Exited(exit), attempt, ..
                    }) if of == id && (attempt.is_none() || attempt.as_deref() == awaited) => {
                        Some((exit.clone(), attempt.is_some()))
                    }
                    _ => None,
                })
                .await?;
            if sure {
                return Ok(exit);
            }
            if let Some(ObservedStatus::Exited(exit)) = life.status(id).await? {
                return Ok(exit);
            }
        }
    }

    /// That a sandbox is gone.
    pub(crate) async fn deleted(&mut self, id: &SandboxId) -> Verdict {
        self.until("the deletion", |event| matches!(event, DriverEvent::Deleted(of) if of == id).then_some(())).await
    }

    fn late(&self, what: &str) -> Failure {
        Failure::Late { what: what.to_owned(), limit: PATIENCE, seen: format!("{:?}", self.seen) }
    }
}

impl Life {
    /// A watch of this life's driver.
    pub(crate) fn watch(&self) -> Watcher {
        Watcher::of(&*self.driver)
    }

    /// How a sandbox's main process ended, when it has.
    pub(crate) async fn exit(&self, id: &SandboxId) -> Verdict<ExitStatus> {
        self.watch().exit(id).await
    }

    /// Output as the options choose it, to its end.
    pub(crate) async fn read(&self, id: &SandboxId, options: LogOptions) -> Verdict<Output> {
        let failed = |error| Failure::Call { call: "logs".to_owned(), error };
        let stream = self.look("logs", self.driver.logs(id, options)).await?.map_err(failed)?;
        self.drained(stream).await
    }

    /// A follower that is there for certain: it has got something already.
    pub(crate) async fn followed(&self, id: &SandboxId, options: LogOptions) -> Verdict<LogStream> {
        let failed = |error| Failure::Call { call: "logs".to_owned(), error };
        let mut stream = self.look("logs", self.driver.logs(id, options)).await?.map_err(failed)?;
        let late = |_| Failure::Late { what: "a follower's first".to_owned(), limit: PATIENCE, seen: String::new() };
        match timeout(PATIENCE, stream.next()).await.map_err(late)? {
            Some(first) => Ok(futures::stream::iter([first]).chain(stream).boxed()),
            None => Err(wrong("what is followed", "something", "its end")),
        }
    }

    /// All that comes until a log ends.
    pub(crate) async fn drained(&self, mut stream: LogStream) -> Verdict<Output> {
        let failed = |error| Failure::Call { call: "logs".to_owned(), error };
        let mut output = Output::default();
        let reading = async {
            while let Some(chunk) = stream.next().await {
                let chunk = chunk.map_err(failed)?;
                output.dropped += chunk.dropped;
                let of = if chunk.stderr { &mut output.stderr } else { &mut output.stdout };
                of.extend_from_slice(&chunk.data);
            }
            Ok(())
        };
        let ended = timeout(PATIENCE, reading).await;
        let late = |_| Failure::Late { what: "the log's end".to_owned(), limit: PATIENCE, seen: String::new() };
        let read: Result<(), Failure> = ended.map_err(late)?;
        read?;
        Ok(output)
    }

    /// Waits until a sandbox has said a word on standard output.
    pub(crate) async fn said(&self, id: &SandboxId, word: &str) -> Verdict {
        let failed = |error| Failure::Call { call: "logs".to_owned(), error };
        let options = LogOptions { follow: true, ..LogOptions::default() };
        let mut stream = self.look("logs", self.driver.logs(id, options)).await?.map_err(failed)?;
        let mut text = Vec::new();
        let reading = async {
            while !String::from_utf8_lossy(&text).contains(word) {
                match stream.next().await {
                    Some(chunk) => text.extend_from_slice(&chunk.map_err(failed)?.data),
                    None => return Ok(false),
                }
            }
            Ok(true)
        };
        let heard: Result<Result<bool, Failure>, _> = timeout(PATIENCE, reading).await;
        let seen = String::from_utf8_lossy(&text).into_owned();
        match heard {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(wrong("the log", &format!("{word:?} in it"), format!("its end after {seen:?}"))),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Failure::Late { what: format!("{word:?} in the log"), limit: PATIENCE, seen }.into()),
        }
    }

    /// Creates, starts, waits for the end, deletes; returns the exit and the output.
    pub(crate) async fn run(&self, request: &PlanRequest) -> Verdict<(ExitStatus, Output)> {
        let id = sandbox_id()?;
        self.launched(request, &id).await?;
        let ended = self.ending(&id).await?;
        self.delete(&id).await?;
        Ok(ended)
    }

    /// The end of a started sandbox and all that it wrote.
    pub(crate) async fn ending(&self, id: &SandboxId) -> Verdict<(ExitStatus, Output)> {
        let exit = self.exit(id).await?;
        let output = if self.has(chiton_driver::Feature::Logs) {
            self.read(id, LogOptions { follow: true, ..LogOptions::default() }).await?
        } else {
            Output::default()
        };
        Ok((exit, output))
    }
}
