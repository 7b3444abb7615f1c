//! Secrets: they reach the process and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use chiton_driver::{Feature, LogOptions};
use chiton_model::{ErrorKind, SandboxId};

use crate::life::Life;
use crate::stage::{Stage, sandbox_id, word};
use crate::verdict::{Failure, Stop, Verdict, ensure, equal, skip};

/// Nothing of what anybody can look at holds a secret. That the bench looks at all, the sandbox's id shows.
async fn nowhere(stage: &Stage, life: &Life, id: &SandboxId, when: &str, secrets: &[&str]) -> Verdict {
    let shown = stage.bench().exposed(&life.gateway, id).await?;
    ensure(shown.contains(id.as_str()), &format!("what is shown when {when}"), "the sandbox's id", "a look past it")?;
    for secret in secrets {
        let at = shown.find(secret).map(|at| shown[..at].chars().rev().take(120).collect::<Vec<_>>());
        let before = at.map(|before| before.into_iter().rev().collect::<String>());
        ensure(
            before.is_none(),
            &format!("what is shown when {when}"),
            "no secret in it",
            format!("one after {before:?}"),
        )?;
    }
    Ok(())
}

pub(crate) async fn token_is_nowhere(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let id = sandbox_id()?;
    let mut request = life.script(
        "env; cat /proc/self/environ /proc/1/environ 2> /dev/null; echo looked; \
         trap 'exit 0' TERM; while :; do sleep 0.05; done",
    );
    request.env.insert("SHOWN".to_owned(), "in the environment".to_owned());
    let call = life.call(&request, &id).await?;
    let Some(agent) = call.agent.clone() else { return skip("the driver declares no agent") };
    life.create(&call).await?;
    nowhere(&stage, &life, &id, "it is created", &[&agent.token]).await?;
    life.start(&call).await?;
    if life.has(Feature::Logs) {
        life.said(&id, "looked").await?;
    }
    nowhere(&stage, &life, &id, "it runs", &[&agent.token]).await?;
    life.stop(&id).await?;
    nowhere(&stage, &life, &id, "it is stopped", &[&agent.token]).await?;
    if life.has(Feature::Logs) {
        let text = life.read(&id, LogOptions::default()).await?.text();
        ensure(text.contains("SHOWN=in the environment"), "the environment", "the request's variable", &text)?;
        ensure(!text.contains(&agent.token), "the environment of processes in the sandbox", "no token", &text)?;
    }
    life.delete(&id).await?;
    stage.nothing_left().await
}

pub(crate) async fn reaches_the_process_only(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let id = sandbox_id()?;
    let value = format!("begin {} 'ü\" $x end", word("hidden-"));
    let heard = life.has(Feature::Logs);
    // Where nobody hears that the trap is set, a stop might come before it: there the process ends by itself.
    let rest = if heard { "trap 'exit 7' TERM; echo got it; while :; do sleep 0.05; done" } else { "sleep 1; exit 7" };
    // Told by the exit code: what it wrote to its output would be kept, rightly.
    let script = format!(
        "case \"$PASSWORD\" in 'begin hidden-'*' end') ;; *) exit 8 ;; esac; \
         [ $(printf %s \"$PASSWORD\" | wc -c) -eq {} ] || exit 9; {rest}",
        value.len()
    );
    let mut request = life.script(&script);
    request.secrets.insert("PASSWORD".to_owned(), "db".to_owned());
    let plan = match life.plan(&request).await {
        Err(Stop::Failed(failure)) => match *failure {
            // With nobody inside to hand them to, refused is as good as kept.
            Failure::Refused { error, .. }
                if matches!(error.kind, ErrorKind::Unsupported { .. }) && !life.driver.capabilities().agent =>
            {
                return skip(format!("it refuses them: {error}"));
            }
            failure => return Err(failure.into()),
        },
        plan => plan?,
    };
    let slot = format!("{}db", chiton_driver::slots::SECRET_PREFIX);
    ensure(plan.slots.values().any(|of| *of == slot), "the plan's slots", &slot, format!("{:?}", plan.slots))?;
    let call = life.call_with(&request, &id, &BTreeMap::from([("db".to_owned(), value.clone())])).await?;
    let hidden = value.split_whitespace().nth(1).unwrap_or_default();
    life.create(&call).await?;
    nowhere(&stage, &life, &id, "it is created", &[hidden]).await?;
    life.start(&call).await?;
    if heard {
        life.said(&id, "got it").await?;
    }
    nowhere(&stage, &life, &id, "it runs", &[hidden]).await?;
    if heard {
        life.stop(&id).await?;
    }
    // Of its only start; it may have ended before anybody watched.
    equal("the exit code of who looked at the secret", &life.exit(&id).await?.code, &Some(7))?;
    nowhere(&stage, &life, &id, "it is stopped", &[hidden]).await?;
    life.delete(&id).await?;
    stage.nothing_left().await
}
