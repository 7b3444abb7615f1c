//! The agent: it comes to its gateway, with what this start was given.

use std::sync::Arc;

use chiton_model::SandboxId;
use tokio::time::timeout;

use crate::door::Met;
use crate::life::{Life, again};
use crate::look::PATIENCE;
use crate::stage::{Stage, sandbox_id};
use crate::verdict::{Failure, Verdict, ensure, equal, skip};

fn carried(life: &Life) -> Verdict {
    if life.driver.capabilities().agent { Ok(()) } else { skip("the driver declares no agent") }
}

/// Waits until so many agents have come to a sandbox's door.
async fn met(life: &Life, id: &SandboxId, count: usize) -> Verdict<Vec<Met>> {
    let Some(mut met) = life.met(id) else {
        return Err(Failure::bench("find an agent's door", "none was opened").into());
    };
    let come = timeout(PATIENCE, met.wait_for(|met| met.len() >= count)).await;
    if let Ok(Ok(met)) = come {
        return Ok(met.clone());
    }
    let what = format!("agent {count} at the door");
    Err(Failure::Late { what, limit: PATIENCE, seen: "fewer".to_owned() }.into())
}

pub(crate) async fn comes_without_a_network(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    carried(&life)?;
    let id = sandbox_id()?;
    // No network is what a request gets that asks for none.
    let call = life.launched(&life.sleeper(), &id).await?;
    let came = met(&life, &id, 1).await?;
    let wanted = call.agent.map(|agent| Met { token: agent.token, attempt: agent.attempt });
    equal("who came to the door", &came.last().cloned(), &wanted)?;
    life.delete(&id).await?;
    stage.nothing_left().await
}

pub(crate) async fn is_new_at_each_start(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    carried(&life)?;
    let id = sandbox_id()?;
    let mut call = life.call(&life.sleeper(), &id).await?;
    life.create(&call).await?;
    for count in 1..=3 {
        // The first start, too, is another one than the create named: an engine may give up a start and begin anew.
        call = again(&call);
        life.start(&call).await?;
        let came = met(&life, &id, count).await?;
        let wanted = call.agent.clone().map(|agent| Met { token: agent.token, attempt: agent.attempt });
        equal("who came to the door", &came.last().cloned(), &wanted)?;
        let observed = life.get(&id).await?.and_then(|observed| observed.attempt);
        let attempt = call.agent.as_ref().map(|agent| agent.attempt.clone());
        ensure(
            observed.is_none() || observed == attempt,
            "the start it names",
            &format!("{attempt:?}"),
            format!("{observed:?}"),
        )?;
        life.stop(&id).await?;
    }
    life.delete(&id).await?;
    stage.nothing_left().await
}

pub(crate) async fn comes_back_to_the_next_gateway(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    carried(&life)?;
    let id = sandbox_id()?;
    let call = life.launched(&life.sleeper(), &id).await?;
    let first = met(&life, &id, 1).await?;
    drop(life);
    let next = stage.life().await?;
    // The next gateway binds the socket anew; with the old one its connections ended.
    next.open(&call)?;
    let came = met(&next, &id, first.len() + 1).await?;
    let wanted = call.agent.map(|agent| Met { token: agent.token, attempt: agent.attempt });
    equal("who came to the next gateway's door", &came.last().cloned(), &wanted)?;
    next.delete(&id).await?;
    stage.nothing_left().await
}
