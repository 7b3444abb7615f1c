//! How main processes end.

use std::sync::Arc;

use chiton_driver::{CallError, ObservedStatus};
use chiton_model::ExitStatus;

use crate::stage::{Stage, sandbox_id};
use crate::verdict::{Verdict, ensure, equal, skip, wrong};

const REASONS: [&str; 7] =
    ["Exited", "Signaled", "OOMKilled", "AgentKilled", "MonitorLost", "HostRestarted", "Unknown"];

fn known(exit: &ExitStatus) -> Verdict {
    ensure(
        REASONS.contains(&exit.reason.as_str()),
        "the reason of an exit",
        &format!("one of {REASONS:?}"),
        &exit.reason,
    )
}

pub(crate) async fn code_is_reported(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    for code in [0, 77, 255] {
        let (exit, _) = life.run(&life.script(&format!("exit {code}"))).await?;
        equal("the exit", &(exit.code, exit.reason.as_str()), &(Some(code), "Exited"))?;
    }
    stage.nothing_left().await
}

pub(crate) async fn signal_is_reported(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    for (name, code) in [("KILL", 137), ("TERM", 143)] {
        let (exit, _) = life.run(&life.script(&format!("[ $$ -gt 1 ] || exit 99; kill -{name} $$; sleep 5"))).await?;
        if exit.code == Some(99) && !life.driver.capabilities().agent {
            return skip("the main process is the first of its namespace, which the kernel spares its own signals");
        }
        equal(&format!("the code after a {name}"), &exit.code, &Some(code))?;
        known(&exit)?;
        ensure(exit.reason != "OOMKilled", "the reason", "not OOMKilled: there was memory enough", &exit.reason)?;
    }
    stage.nothing_left().await
}

pub(crate) async fn is_not_missed(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let id = sandbox_id()?;
    life.launched(&life.script("exit 9"), &id).await?;
    // Waits by a watch of another value, so that this one has not looked before it is asked.
    equal("the exit code", &stage.life().await?.exit(&id).await?.code, &Some(9))?;
    for life in [life, stage.life().await?] {
        let Some(ObservedStatus::Exited(exit)) = life.status(&id).await? else {
            return Err(wrong("the status of an ended sandbox", "exited", format!("{:?}", life.status(&id).await?)));
        };
        equal("the exit code, by get", &exit.code, &Some(9))?;
        known(&exit)?;
        let snapshot = life.watch().snapshot().await?;
        let told = snapshot.iter().find(|observed| observed.id == id).map(|observed| &observed.status);
        equal("the snapshot of a new watch", &told, &Some(&ObservedStatus::Exited(exit)))?;
    }
    stage.life().await?.delete(&id).await?;
    stage.nothing_left().await
}

pub(crate) async fn program_that_is_missing(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let id = sandbox_id()?;
    let call = life.call(&life.command(&["/no/such-program"]), &id).await?;
    life.create(&call).await?;
    match life.try_start(&call).await? {
        Ok(()) => {
            // Where the agent is the entry point, it runs and tells by its code (127 as shells have it, 125 for its own).
            let exit = life.exit(&id).await?;
            ensure(matches!(exit.code, Some(125..=127)), "the exit code", "125 to 127", format!("{exit:?}"))?;
        }
        Err(CallError::Failed(error)) => {
            ensure(error.message.contains("such-program"), "the error", "the program's name in it", &error.message)?;
        }
        Err(error) => return Err(wrong("the start", "an error of the kind Failed", format!("{error:?}"))),
    }
    life.delete(&id).await?;
    stage.nothing_left().await
}
