//! What becomes of sandboxes when their engine is stopped and started again.

use std::process::Stdio;
use std::time::{Duration, Instant};

use chiton_driver::{CallError, DriverEvent, Observed, ObservedStatus};
use chiton_driver_suite::{Bench as _, Failure, Stop, Verdict};
use chiton_model::{NetworkMode, SandboxId};
use futures::StreamExt as _;
use futures::stream::BoxStream;

use crate::bench::EngineBench;
use crate::life::{Gateway, done, holds};
use crate::trials::{SLEEP, nothing_left};

/// The longest wait for one thing.
const PATIENCE: Duration = Duration::from_mins(3);

/// Whether an engine's containers live on without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// They are ended with it.
    Ended,
    /// They run on.
    Running,
}

/// While the engine is down nothing is called absent; when it is back each sandbox is told as it is, with a reason where
/// it ended, and can be stopped, started and deleted.
///
/// `engine` is the word that the test engines' control has for it. No other test may run at the same time.
pub async fn survives_the_engines_restart(bench: EngineBench, engine: &str, without: Without) -> Verdict {
    let Some(control) = std::env::var_os("ENGINES_CONTROL") else {
        return Err(Stop::Skipped("ENGINES_CONTROL is not set; cargo xtask engines says it".to_owned()));
    };
    let order = |order: &'static str| control_engine(control.clone(), order, engine.to_owned());
    let gateway = Gateway::new(&bench).await?;
    let request = |script: &str| Gateway::request(&bench.image(), script, NetworkMode::None);
    let running = gateway.launched(&request(SLEEP)).await?;
    let ended = gateway.launched(&request("exit 3")).await?;
    let mut watch = gateway.driver.watch();
    until_exit(&mut watch, &ended).await?;

    order("stop").await?;
    let down = async {
        // A watch ends; it never tells that anything is gone.
        while let Some(event) = next(&mut watch, "the watch's end").await? {
            holds(!matches!(event, DriverEvent::Deleted(_)), "news of a stopped engine", "nothing is gone", &event)?;
        }
        certain_of_nothing("get", gateway.driver.get(&running).await)?;
        certain_of_nothing("list", gateway.driver.list().await)?;
        certain_of_nothing("stop", gateway.driver.stop(&running).await)?;
        certain_of_nothing("volumes", gateway.driver.volumes().await)?;
        let mut watch = gateway.driver.watch();
        let told = next(&mut watch, "the end of a watch without an engine").await?;
        holds(told.is_none(), "a watch without an engine", "its end", told)
    };
    // The engine is brought back whatever happened; others need it.
    let down = down.await;
    order("start").await?;
    down?;

    // The next watch tells everything.
    let mut watch = gateway.driver.watch();
    let mut snapshot = Vec::new();
    loop {
        match next(&mut watch, "the snapshot").await? {
            Some(DriverEvent::Changed(observed)) => snapshot.push(observed),
            Some(DriverEvent::SnapshotEnd) => break,
            Some(_) => {}
            // What it told may not hold any more.
            None => {
                snapshot.clear();
                watch = gateway.driver.watch();
            }
        }
    }
    let of = |id: &SandboxId| snapshot.iter().find(|observed| observed.id == *id).map(|it| it.status.clone());
    match of(&ended) {
        Some(ObservedStatus::Exited(exit)) => holds(exit.code == Some(3), "an exit from before", "code 3", &exit)?,
        other => holds(false, "a sandbox that had ended", "exited with 3", other)?,
    }
    match (without, of(&running)) {
        (Without::Running, Some(ObservedStatus::Running)) => {}
        (Without::Ended, Some(ObservedStatus::Exited(exit))) => {
            holds(!exit.reason.is_empty(), "the end by the engine", "a reason", &exit)?;
        }
        (_, other) => holds(false, "a sandbox that ran", &format!("{without:?}"), other)?,
    }
    // It is of use again.
    let call = gateway.call(&request(SLEEP), &running).await?;
    done("start", gateway.driver.start(&call).await)?;
    let status = done("get", gateway.driver.get(&running).await)?.map(|observed| observed.status);
    holds(status == Some(ObservedStatus::Running), "the sandbox when it was started again", "running", status)?;
    done("stop", gateway.driver.stop(&running).await)?;
    until_exit(&mut watch, &running).await?;
    for id in [&running, &ended] {
        gateway.delete(id).await?;
    }
    nothing_left(&bench, &gateway).await
}

/// Neither done nor seen.
fn certain_of_nothing<T: std::fmt::Debug>(call: &str, result: Result<T, CallError>) -> Verdict {
    let honest = matches!(result, Err(CallError::NotRun(_) | CallError::Unknown(_)));
    holds(honest, &format!("{call} while the engine is down"), "an error, NotRun or Unknown", result)
}

async fn next(watch: &mut BoxStream<'static, DriverEvent>, what: &str) -> Verdict<Option<DriverEvent>> {
    let late = |_| Failure::Late { what: what.to_owned(), limit: PATIENCE, seen: String::new() };
    Ok(tokio::time::timeout(PATIENCE, watch.next()).await.map_err(late)?)
}

pub(crate) async fn until_exit(watch: &mut BoxStream<'static, DriverEvent>, id: &SandboxId) -> Verdict {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        match next(watch, "an exit").await? {
            Some(DriverEvent::Changed(Observed { id: of, status: ObservedStatus::Exited(_), .. })) if of == *id => {
                return Ok(());
            }
            Some(_) => {}
            None => return holds(false, "the watch", "going on", "its end"),
        }
    }
    Err(Failure::Late { what: "an exit".to_owned(), limit: PATIENCE, seen: "other news".to_owned() }.into())
}

async fn control_engine(control: std::ffi::OsString, order: &'static str, engine: String) -> Verdict {
    let run = tokio::task::spawn_blocking(move || {
        let output = std::process::Command::new(control)
            .args(["engines", order, &engine])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    });
    let ran = run.await.map_err(|error| Failure::bench(order, error))?;
    ran.map_err(|error| Failure::bench(format!("{order} the engine"), error).into())
}
