//! Restarts of the driver.

use std::process::Stdio;
use std::time::Duration;

use chiton_compute_wire::sandbox::observed;
use chiton_compute_wire::v1::DriverSandbox;
use chiton_driver::ObservedStatus;
use futures::future::{join_all, try_join_all};
use tokio::process::Command;
use tokio::time::{sleep, timeout};
use tonic::Code;

use crate::options::Restart;
use crate::stage::Stage;
use crate::verdict::{By, Stop, Verdict, broken, ensure, equal, must, not_here};
use crate::wire::Wire;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// How many sandboxes are there and on their way when the driver is restarted.
const LOAD: usize = 12;

/// Restarts it, and calls the one that came. A case that cannot restart does not apply.
async fn restarted(stage: &Stage) -> Verdict<Wire> {
    let limit = stage.limits().act;
    let done = match &stage.run.options.restart {
        None => return not_here(By::Options, "no way to restart the driver is given"),
        Some(Restart::With(restart)) => timeout(limit, restart()).await,
        Some(Restart::Command(line)) => timeout(limit, command(line)).await,
    };
    match done {
        Ok(Ok(())) => {}
        Ok(Err(why)) => return Err(broken("the restart", "that it works", why)),
        Err(_) => return Err(broken("the restart", format!("its end within {limit:?}"), "it goes on")),
    }
    // The command may return before the old process has gone.
    let until = tokio::time::Instant::now() + stage.limits().dial;
    loop {
        let wire = stage.connect().await?;
        match wire.capabilities().await {
            Ok(Ok(_)) => return Ok(wire),
            Ok(Err(status)) if tokio::time::Instant::now() >= until => {
                return must("GetCapabilities after the restart", Err(status));
            }
            Err(stop) if tokio::time::Instant::now() >= until => return Err(stop),
            _ => sleep(PAUSE).await,
        }
    }
}

/// The line is its operator's own, and so is the shell's meaning of it.
async fn command(line: &str) -> Result<(), String> {
    let output = Command::new("/bin/sh")
        .args(["-c", line])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("/bin/sh cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{line:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}

async fn listed(wire: &Wire, id: &str) -> Verdict<usize> {
    let list = must("ListSandboxes after the restart", wire.list().await?)?;
    Ok(list.iter().filter(|sandbox| sandbox.id == id).count())
}

/// Deleted and gone, by the driver that came.
async fn removed(stage: &Stage, wire: &Wire, sandbox: &DriverSandbox) -> Verdict<bool> {
    let deleted = must("DeleteSandbox after the restart", wire.delete(&sandbox.id, &sandbox.name).await?)?;
    stage
        .until("the end of a deletion after the restart", stage.limits().delete, || async {
            Ok(if listed(wire, &sandbox.id).await? == 0 { Ok(()) } else { Err("the list has it".to_owned()) })
        })
        .await?;
    Ok(deleted)
}

pub(crate) async fn forgets_nothing(stage: &Stage) -> Verdict {
    let all = try_join_all((0..3).map(|_| stage.made())).await?;
    let wire = restarted(stage).await?;
    for sandbox in &all {
        equal("how often the list has a sandbox after the restart", &listed(&wire, &sandbox.id).await?, &1)?;
        let found = must("GetSandbox after the restart", wire.get(&sandbox.id, &sandbox.name).await?)?;
        equal("its name after the restart", &found.name, &sandbox.name)?;
    }
    for sandbox in &all {
        removed(stage, &wire, sandbox).await?;
    }
    Ok(())
}

pub(crate) async fn creates_stay_idempotent(stage: &Stage) -> Verdict {
    let sandbox = stage.made().await?;
    let wire = restarted(stage).await?;
    let answer = wire.create(Some(sandbox.clone())).await?;
    // One whose making the restart interrupted may be undone; then it is there to be seen as such.
    let undone = match &answer {
        Err(status) if status.code() == Code::FailedPrecondition => {
            let found = must("GetSandbox after the restart", wire.get(&sandbox.id, &sandbox.name).await?)?;
            matches!(observed(found.status.as_ref()), ObservedStatus::Broken(_))
        }
        _ => false,
    };
    if !undone {
        must("CreateSandbox of what is there, after the restart", answer)?;
    }
    equal("how often the list has it then", &listed(&wire, &sandbox.id).await?, &1)
}

pub(crate) async fn watches_begin_with_everything(stage: &Stage) -> Verdict {
    let all = try_join_all((0..3).map(|_| stage.made())).await?;
    let wire = restarted(stage).await?;
    let watch = stage.watch_on(&wire);
    for sandbox in &all {
        watch.event("a sandbox from before the restart", |event| event.is_state_of(&sandbox.id)).await?;
    }
    Ok(())
}

pub(crate) async fn deleted_stay_deleted(stage: &Stage) -> Verdict {
    let sandbox = stage.made().await?;
    stage.removed(&sandbox).await?;
    let wire = restarted(stage).await?;
    let answer = wire.create(Some(sandbox.clone())).await?;
    ensure(answer.is_err(), "CreateSandbox of a deleted id, after the restart", "a refusal", "OK")?;
    equal("how often the list has the deleted sandbox", &listed(&wire, &sandbox.id).await?, &0)
}

pub(crate) async fn under_load(stage: &Stage) -> Verdict {
    // Some are there, with answers; others are on their way.
    let there = try_join_all((0..LOAD / 2).map(|_| stage.made())).await?;
    let asked: Vec<DriverSandbox> = (0..LOAD / 2).map(|_| stage.sandbox()).collect();
    // Each begins a little later, so that the restart meets creates in all their stages.
    let creates = join_all((0_u32..).zip(&asked).map(|(place, sandbox)| async move {
        sleep(PAUSE / 4 * place).await;
        stage.create(sandbox).await
    }));
    let (answers, wire) = tokio::join!(creates, restarted(stage));
    let wire = wire?;
    for sandbox in &there {
        equal("how often the list has what was there before", &listed(&wire, &sandbox.id).await?, &1)?;
    }
    for (sandbox, answer) in asked.iter().zip(answers) {
        match answer {
            Ok(Ok(())) => {
                equal("how often the list has what was answered OK for", &listed(&wire, &sandbox.id).await?, &1)?;
            }
            Ok(Err(_)) | Err(Stop::Broken(_)) => {
                // Not answered, or refused by a driver that was going: it may be there, once.
                let count = listed(&wire, &sandbox.id).await?;
                ensure(count <= 1, "how often the list has what was not answered for", "0 or 1", count)?;
            }
            Err(stop) => return Err(stop),
        }
    }
    for deleted in join_all(there.iter().chain(&asked).map(|sandbox| removed(stage, &wire, sandbox))).await {
        deleted?;
    }
    Ok(())
}
