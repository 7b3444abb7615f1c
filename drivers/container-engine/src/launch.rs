//! Telling the agent how to start: one line on its standard input, which no file, label or answer of the engine shows.

use bollard::query_parameters::AttachContainerOptionsBuilder;
use chiton_agent_proto::launch::LaunchDocument;
use chiton_confine::{Arch, Confinement};
use chiton_driver::{AgentLaunch, CallError, CallResult};
use chiton_model::Error;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use crate::client::Client;
use crate::plan::EnginePlan;

/// Attaches to a container that was just started, hands the line over and closes the input.
pub(crate) async fn hand_over(client: &Client, name: &str, line: &[u8], deadline: Instant) -> CallResult<()> {
    let options = AttachContainerOptionsBuilder::new().stdin(true).stream(true).build();
    let attached = client
        .act("attach to the sandbox", deadline, |api| async move { api.attach_container(name, Some(options)).await });
    let lost = |why: &str| {
        // It started; an agent that is told nothing ends by itself.
        CallError::Unknown(Error::unavailable("agent", format!("the agent could not be told how to start: {why}")))
    };
    let mut input = attached.await.map_err(|failure| lost(&failure.error().message))?.input;
    let write = async {
        input.write_all(line).await?;
        input.flush().await?;
        input.shutdown().await
    };
    match timeout_at(deadline, write).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(lost(&error.to_string())),
        Err(_) => Err(lost("the engine did not take it in time")),
    }
}

/// The line. Holds secrets.
pub(crate) fn line(plan: &EnginePlan, agent: &AgentLaunch) -> CallResult<Zeroizing<Vec<u8>>> {
    let failed = |what: String| CallError::NotRun(Error::internal(format!("the agent's confinement: {what}")));
    let (Some(seccomp), Some(landlock)) = (&plan.security.seccomp, &plan.security.landlock) else {
        return Err(failed("the plan has none".to_owned()));
    };
    let seccomp = Arch::current().and_then(|arch| seccomp.compile(arch)).map_err(|error| failed(error.to_string()))?;
    let confinement = Confinement { seccomp, landlock: landlock.clone() };
    let document = LaunchDocument {
        token: agent.token.clone(),
        attempt: agent.attempt.clone(),
        env: plan.secrets.clone(),
        confinement: Some(confinement),
    };
    document.encode().map_err(|error| failed(error.to_string()))
}
