//! create, start, stop and delete.

use std::sync::Arc;
use std::time::Duration;

use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions, StopContainerOptionsBuilder,
};
use chiton_driver::{CallError, CallResult, CreateCall, Observed, ObservedStatus, StartCall};
use chiton_model::{Error, SandboxId};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep, timeout_at};

use crate::body::{self, Put};
use crate::client::{ACT, Failure};
use crate::engine::Engine;
use crate::plan::EnginePlan;
use crate::supervisor::{AgentPlan, Injected};
use crate::{check, launch, names};

/// The first pause before a look is repeated, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// What an engine needs at most for a stop, beyond the grace, and for a removal. One that takes longer hangs, as podman at
/// times does when a start's caller went away; asked again, it goes on.
const OWN_TIME: Duration = Duration::from_secs(20);

/// What a failure in the course of a start means: the engine tried, and what is left is found by its name.
fn tried(failure: Failure) -> CallError {
    match failure {
        Failure::Refused(error) | Failure::Conflict(error) => CallError::Failed(error),
        failure => failure.into(),
    }
}

/// Nobody took the line because nobody ran: nothing of the sandbox did.
fn ended_at_once(mut error: Error) -> CallError {
    error.message = format!("{}: it ended at once", error.message);
    CallError::Failed(error.cure("look at the sandbox's log; its variables and arguments may be too long"))
}

/// A supervisor proves itself by a token.
fn no_token() -> Error {
    Error::invalid("sandbox_token", "the supervisor of the sandbox needs a token, and there is none")
        .cure("let the gateway mint tokens for its sandboxes")
}

impl Engine {
    pub(crate) async fn create(self: &Arc<Self>, call: &CreateCall) -> CallResult<()> {
        let deadline = Instant::now() + ACT;
        let id = &call.identity.sandbox;
        let plan = self.decode(call)?;
        let _busy = self.alone(id, deadline).await?;
        self.tombstones.refuse(id)?;
        let repeated = self.agent_folder(id).exists() || self.has_token_folder(id);
        let made = self.make(call, &plan, deadline).await;
        if matches!(made, Err(CallError::NotRun(_))) && !repeated {
            // Nobody deletes what was never made. What cannot be taken back now is no failure of this call: the network goes
            // with the next sweep.
            self.take_back(id, deadline).await.unwrap_or_else(|error| {
                tracing::warn!(sandbox = %id, error = %error.into_error(), "a refused create left something behind");
            });
        }
        made
    }

    /// Removes what a create makes before the container.
    async fn take_back(&self, id: &SandboxId, deadline: Instant) -> CallResult<()> {
        self.remove_agent_folder(id)?;
        self.remove_token(id)?;
        Ok(self.release_network(id, deadline).await?)
    }

    async fn make(self: &Arc<Self>, call: &CreateCall, plan: &EnginePlan, deadline: Instant) -> CallResult<()> {
        let id = &call.identity.sandbox;
        let abilities = self.abilities().await?;
        let _on_bridge = self.bridge.read().await;
        self.ensure_network(&plan.network, &call.identity, deadline).await?;
        self.ensure_volumes(plan, &call.identity, deadline).await?;
        let put = self.put(call, plan, deadline).await?;
        let body = body::container(plan, &call.identity, &put, &self.options, abilities.selinux);
        let name = names::container(id);
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let made = self
            .client
            .act("create the sandbox", deadline, |api| async move { api.create_container(Some(options), body).await });
        match made.await {
            Ok(made) => {
                self.images.release(id);
                for warning in made.warnings {
                    tracing::warn!(sandbox = %id, warning, "the engine warns about a sandbox");
                }
                Ok(())
            }
            // Engines differ in how they say that the name is taken.
            Err(failure @ (Failure::Conflict(_) | Failure::Failed(_))) => self.made_before(id, failure).await,
            Err(failure) => Err(failure.into()),
        }
    }

    /// What is put into the sandbox, made ready on this machine. The sandbox's network exists.
    async fn put(self: &Arc<Self>, call: &CreateCall, plan: &EnginePlan, deadline: Instant) -> CallResult<Put> {
        let id = &call.identity.sandbox;
        match (&plan.agent, &call.agent) {
            (AgentPlan::Chiton, Some(_)) => {
                let program = self.agent_program().await?.to_owned();
                Ok(Put::Agent { program, folder: self.make_agent_folder(id)? })
            }
            (AgentPlan::Openshell(supervisor), Some(agent)) => {
                let program = self.ensure_program(id, &supervisor.program).await?;
                let host = self.host_address(&plan.network, deadline).await?;
                let token = self.write_token(id, &agent.token)?;
                Ok(Put::Supervisor(supervisor.clone(), Injected { program, token, host }))
            }
            (AgentPlan::Openshell(_), None) => Err(CallError::NotRun(no_token())),
            (AgentPlan::Chiton, None) | (AgentPlan::None, _) => Ok(Put::Nothing),
        }
    }

    /// The name may be taken: by the same sandbox, which is as good as made, or by somebody else.
    async fn made_before(&self, id: &SandboxId, failure: Failure) -> CallResult<()> {
        let mut pause = PAUSES.0;
        loop {
            match self.observe(id).await? {
                Some(observed) if !matches!(observed.status, ObservedStatus::Broken(_)) => return Ok(()),
                // Being made or being removed by a request that is still under way, or not ours.
                _ if matches!(failure, Failure::Conflict(_)) && pause < PAUSES.1 => {
                    sleep(pause).await;
                    pause *= 2;
                }
                _ => return Err(failure.into()),
            }
        }
    }

    pub(crate) async fn start(self: &Arc<Self>, call: &StartCall) -> CallResult<()> {
        let deadline = Instant::now() + ACT;
        let id = &call.identity.sandbox;
        let plan = self.decode(call)?;
        let _busy = self.alone(id, deadline).await?;
        self.tombstones.refuse(id)?;
        let name = names::container(id);
        let mut line = None;
        // What the container is shown of this machine a reboot may have taken.
        match (&plan.agent, &call.agent) {
            (AgentPlan::Chiton, Some(agent)) => {
                self.agent_program().await?;
                self.make_agent_folder(id)?;
                line = Some(launch::line(&plan, agent)?);
            }
            (AgentPlan::Openshell(supervisor), Some(agent)) => {
                self.ensure_program(id, &supervisor.program).await?;
                self.write_token(id, &agent.token)?;
            }
            // Whoever starts it may not know its token: then the one that it was made with holds.
            (AgentPlan::Openshell(supervisor), None) if self.has_token(id) => {
                self.ensure_program(id, &supervisor.program).await?;
            }
            (AgentPlan::Openshell(_), None) => return Err(CallError::NotRun(no_token())),
            (AgentPlan::Chiton, None) | (AgentPlan::None, _) => {}
        }
        let (of, options) = (name.as_str(), None::<StartContainerOptions>);
        let started =
            self.client.act("start the sandbox", deadline, |api| async move { api.start_container(of, options).await });
        started.await.map_err(tried)?;
        let Some(line) = line else { return Ok(()) };
        // The agent waits for it. Attaching before the start would be as good, but podman then makes the container's
        // processes twice, and its cleaning after the last start can end the first of them.
        let told = launch::hand_over(&self.client, &name, &line, deadline).await;
        let error = match &told {
            Ok(()) => Error::unavailable("agent", "the agent could not be told how to start"),
            Err(CallError::Unknown(error)) => error.clone(),
            Err(_) => return told,
        };
        let over = self.revived(id, deadline).await?
            || told.is_err()
                && matches!(self.observe(id).await, Ok(Some(Observed { status: ObservedStatus::Exited(_), .. })));
        if over { Err(ended_at_once(error)) } else { told }
    }

    /// What could not be executed is over when somebody comes to tell it how to start, and stands there made anew, with
    /// what it was told: that must not be read at another start, so it is stopped. Whether it was so.
    async fn revived(&self, id: &SandboxId, deadline: Instant) -> CallResult<bool> {
        let revived = self.options.dialect.attaching_revives()
            && matches!(self.observe(id).await, Ok(Some(Observed { status: ObservedStatus::Created, .. })));
        if revived {
            let name = names::container(id);
            let options = StopContainerOptionsBuilder::new().t(0).build();
            let stopped = self.client.act("stop what is over", deadline, |api| async move {
                api.stop_container(&name, Some(options)).await
            });
            stopped.await.map_err(|failure| CallError::Unknown(failure.error()))?;
        }
        Ok(revived)
    }

    pub(crate) async fn stop(&self, id: &SandboxId) -> CallResult<()> {
        let deadline = Instant::now() + ACT;
        let Some(found) = self.inspect(id).await? else { return Ok(()) };
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        let grace: u16 = labels.get(body::STOP_GRACE).and_then(|grace| grace.parse().ok()).unwrap_or(10);
        let name = names::container(id);
        let options = StopContainerOptionsBuilder::new().t(i32::from(grace)).build();
        let answered = deadline.min(Instant::now() + Duration::from_secs(u64::from(grace)) + OWN_TIME);
        let stopped = self
            .client
            .act("stop the sandbox", answered, |api| async move { api.stop_container(&name, Some(options)).await });
        match stopped.await {
            Ok(()) | Err(Failure::Absent(_)) => Ok(()),
            // Podman fails over what goes away meanwhile.
            Err(Failure::Failed(_)) if self.inspect(id).await?.is_none() => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }

    pub(crate) async fn delete(&self, id: &SandboxId) -> CallResult<()> {
        let deadline = Instant::now() + ACT;
        self.tombstones.add(id)?;
        self.images.release(id);
        let _busy = self.alone(id, deadline).await?;
        let mut pause = PAUSES.0;
        // What a crash after the removal left is looked for too.
        let mut on_bridge = true;
        // Absence is looked for, not concluded: a removal that another asked for may be under way.
        while let Some(found) = self.inspect(id).await? {
            let name = names::container(id);
            // Not by the network's mode: podman says "bridge" of every network that it made.
            let networks = found.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
            on_bridge = networks.contains_key(&names::network(&self.options, id));
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            let answered = deadline.min(Instant::now() + OWN_TIME);
            let removed = self.client.act("delete the sandbox", answered, |api| async move {
                api.remove_container(&name, Some(options)).await
            });
            match removed.await {
                Ok(()) | Err(Failure::Absent(_)) => {}
                Err(Failure::Failed(_)) if self.inspect(id).await?.is_none() => break,
                Err(Failure::Conflict(error)) if Instant::now() + pause < deadline => {
                    tracing::debug!(sandbox = %id, %error, "the engine is removing it already");
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        self.remove_agent_folder(id)?;
        self.remove_token(id)?;
        if on_bridge {
            self.release_network(id, deadline).await?;
        }
        Ok(())
    }

    fn remove_agent_folder(&self, id: &SandboxId) -> CallResult<()> {
        match std::fs::remove_dir_all(self.agent_folder(id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let text = format!("the agent's folder of {id} cannot be removed: {error}");
                Err(CallError::Failed(Error::unavailable("driver", text)))
            }
            _ => Ok(()),
        }
    }

    /// The calls of one sandbox come one after another.
    async fn alone(&self, id: &SandboxId, deadline: Instant) -> CallResult<OwnedMutexGuard<()>> {
        timeout_at(deadline, self.busy(id).lock_owned())
            .await
            .map_err(|_| CallError::NotRun(Error::deadline("another call about this sandbox did not end in time")))
    }

    fn decode(&self, call: &CreateCall) -> CallResult<EnginePlan> {
        let plan = EnginePlan::decode(&call.plan).map_err(CallError::NotRun)?;
        check::plan(&plan, &self.options).map_err(CallError::NotRun)?;
        if call.agent.is_none() && plan.agent == AgentPlan::Chiton {
            if plan.command.is_empty() {
                return Err(CallError::NotRun(check::nothing_to_run()));
            }
            if !plan.secrets.is_empty() {
                let error = Error::invalid("secrets", "secrets are handed to the agent, and this sandbox has none");
                return Err(CallError::NotRun(error.cure("run it with the agent")));
            }
        }
        Ok(plan)
    }
}
