//! Calls that change something, each confirmed by a look.

use std::time::Duration;

use chiton_compute_wire::names::features;
use chiton_compute_wire::{sandbox, v1};
use chiton_driver::{CallError, CallResult, CreateCall, Observed, ObservedStatus, StartCall};
use chiton_model::{Error, SandboxId, StoreEpoch, WorkspaceName};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::link::{Answer, Link, own};
use crate::message;

/// How long a driver is left alone between two looks, when its news do not come before.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

impl Link {
    /// What the driver says of a sandbox, as the engine reads it.
    pub(crate) fn observed(&self, found: &v1::DriverSandbox) -> Result<Observed, Error> {
        Ok(Observed {
            id: SandboxId::new(found.id.as_str())?,
            status: sandbox::observed(found.status.as_ref()),
            attempt: message::attempt(found.status.as_ref()),
            gateway: self.options.gateway.clone(),
            // The contract does not say in which life of the store it was made: such an object is never swept.
            epoch: StoreEpoch::new("unknown")?,
            commit: 0,
        })
    }

    /// What is left of the time of an act that began then.
    fn left(&self, began: Instant) -> Duration {
        self.options.deadlines.act.saturating_sub(began.elapsed())
    }

    /// A look within an act.
    async fn seen(&self, id: &SandboxId, began: Instant) -> CallResult<Option<v1::DriverSandbox>> {
        self.look(id, self.options.deadlines.look.min(self.left(began))).await
    }

    pub(crate) async fn create(&self, call: &CreateCall) -> CallResult<()> {
        let began = Instant::now();
        let greeted = self.greeted().await.map_err(CallError::NotRun)?;
        let sandbox = message::to_act(call, &greeted.said, &self.options).map_err(CallError::NotRun)?;
        let asked = v1::CreateSandboxRequest { sandbox: Some(sandbox) };
        let made = self.call("create the sandbox", self.left(began), |mut client| async move {
            client.create_sandbox(asked).await
        });
        match made.await {
            Ok(_) => Ok(()),
            // Idempotent: what is there under this id is it.
            Err(Answer::Said(status)) if status.code() == tonic::Code::AlreadyExists => {
                match self.seen(&call.identity.sandbox, began).await? {
                    Some(_) => Ok(()),
                    None => Err(Answer::Said(status).outcome(self.name(), "create the sandbox")),
                }
            }
            Err(answer) => Err(answer.outcome(self.name(), "create the sandbox")),
        }
    }

    /// A create has started it already; only what is stopped is started. `fresh`: no start was called since its create, so
    /// what has ended by now has run, and is not to run a second time.
    pub(crate) async fn start(&self, call: &StartCall, fresh: bool) -> CallResult<()> {
        let (id, began) = (&call.identity.sandbox, Instant::now());
        let found = self.seen(id, began).await?;
        let Some(found) = found else {
            return Err(CallError::NotRun(Error::not_found(format!("driver {:?} has no sandbox {id}", self.name()))));
        };
        // A driver that knows starts apart may still show the last one.
        let told = call.agent.as_ref().zip(message::attempt(found.status.as_ref()));
        let ours = told.map(|(agent, attempt)| attempt == agent.attempt);
        let status = sandbox::observed(found.status.as_ref());
        match status {
            ObservedStatus::Running | ObservedStatus::Created if ours.unwrap_or(true) => return Ok(()),
            ObservedStatus::Exited(_) if ours.unwrap_or(fresh) => return Ok(()),
            _ => {}
        }
        if let ObservedStatus::Broken(why) = status {
            let text = format!("driver {:?} could not make or keep sandbox {id}: {why}", self.name());
            return Err(CallError::Failed(Error::internal(text)));
        }
        let greeted = self.greeted().await.map_err(CallError::NotRun)?;
        let can = greeted.said.can(features::START_CARRIES_SANDBOX);
        let token = call.agent.as_ref().map(|agent| !agent.token.is_empty());
        if !can && token == Some(true) {
            // It is another process than the one that was asked before the token was made.
            let text = format!("driver {:?} takes no credentials at a start, unlike a moment ago", self.name());
            return Err(CallError::NotRun(Error::unavailable(self.name(), text).cure("start it again")));
        }
        // Without a token there is nothing new to tell: what the sandbox has goes on counting.
        let carried = can && token != Some(false);
        let sandbox = carried.then(|| message::to_act(call, &greeted.said, &self.options)).transpose();
        let asked = v1::StartSandboxRequest {
            sandbox_id: id.to_string(),
            sandbox_name: call.identity.name.to_string(),
            sandbox: sandbox.map_err(CallError::NotRun)?,
        };
        self.change(
            "start the sandbox",
            self.left(began),
            |mut client| async move { client.start_sandbox(asked).await },
        )
        .await?;
        Ok(())
    }

    pub(crate) async fn stop(&self, id: &SandboxId, news: watch::Receiver<u64>) -> CallResult<()> {
        let began = Instant::now();
        let Some(found) = self.seen(id, began).await? else { return Ok(()) };
        if is_over(&found) {
            return Ok(());
        }
        let asked = v1::StopSandboxRequest { sandbox_id: id.to_string(), sandbox_name: found.name };
        let stopped = self
            .change("stop the sandbox", self.left(began), |mut client| async move { client.stop_sandbox(asked).await });
        match stopped.await {
            Ok(_) => {}
            Err(CallError::NotRun(_)) if self.seen(id, began).await?.is_none_or(|found| is_over(&found)) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.until("stop the sandbox", id, began, news, |found| found.is_none_or(is_over)).await
    }

    pub(crate) async fn delete(&self, id: &SandboxId, news: watch::Receiver<u64>) -> CallResult<()> {
        let began = Instant::now();
        let found = self.seen(id, began).await?;
        let name = found.map(|found| found.name).unwrap_or_default();
        // Also when it is absent: a create that is still on its way is refused by whoever remembers this.
        let asked = v1::DeleteSandboxRequest { sandbox_id: id.to_string(), sandbox_name: name };
        let deleted = self.call("delete the sandbox", self.left(began), |mut client| async move {
            client.delete_sandbox(asked).await
        });
        match deleted.await {
            Ok(_) => {}
            Err(Answer::Said(status)) if status.code() == tonic::Code::NotFound => {}
            Err(answer) => return Err(answer.outcome(self.name(), "delete the sandbox")),
        }
        self.until("delete the sandbox", id, began, news, |found| found.is_none()).await?;
        // Ours is the folder of its agent's socket.
        drop(std::fs::remove_dir_all(message::agent_folder(&self.options, id)));
        Ok(())
    }

    pub(crate) async fn ensure_workspace(&self, workspace: &WorkspaceName) -> CallResult<()> {
        let asked = v1::EnsureWorkspaceRequest { workspace: workspace.to_string() };
        let ensured = self.change("prepare the workspace", self.options.deadlines.act, |mut client| async move {
            client.ensure_workspace(asked).await
        });
        optional(ensured.await.map(drop))
    }

    pub(crate) async fn release_workspace(&self, workspace: &WorkspaceName) -> CallResult<()> {
        let asked = v1::DeleteWorkspaceRequest { workspace: workspace.to_string() };
        let released = self.change("release the workspace", self.options.deadlines.act, |mut client| async move {
            client.delete_workspace(asked).await
        });
        optional(released.await.map(drop))
    }

    async fn change<T, F>(
        &self,
        doing: &str,
        limit: Duration,
        ask: impl FnOnce(crate::link::Client) -> F,
    ) -> CallResult<T>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let done = self.call(doing, limit, ask).await;
        done.map_err(|answer| answer.outcome(self.name(), doing))
    }

    /// Looks until it is so. Whatever the driver tells wakes the next look.
    async fn until(
        &self,
        doing: &str,
        id: &SandboxId,
        began: Instant,
        mut news: watch::Receiver<u64>,
        met: impl Fn(Option<&v1::DriverSandbox>) -> bool,
    ) -> CallResult<()> {
        let mut pause = PAUSES.0;
        loop {
            news.mark_unchanged();
            if met(self.seen(id, began).await?.as_ref()) {
                return Ok(());
            }
            let left = own(self.options.deadlines.act).saturating_sub(began.elapsed());
            if left.is_zero() {
                let (name, socket) = (self.name(), &self.options.socket);
                let text = format!("{doing}: driver {name:?} at {socket:?} said that it does, and it is not done yet");
                return Err(CallError::Unknown(Error::deadline(text).cure("look at the driver's own log")));
            }
            // Who tells nothing has ended its news; the pause is all there is then.
            let rest = pause.min(left);
            if timeout(rest, news.changed()).await.is_ok_and(|changed| changed.is_err()) {
                tokio::time::sleep(rest).await;
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

fn is_over(found: &v1::DriverSandbox) -> bool {
    matches!(sandbox::observed(found.status.as_ref()), ObservedStatus::Exited(_))
}

/// A call that a driver has no use for is done.
fn optional(ended: CallResult<()>) -> CallResult<()> {
    match ended {
        Err(CallError::NotRun(error)) if matches!(error.kind, chiton_model::ErrorKind::Unsupported { .. }) => Ok(()),
        ended => ended,
    }
}
