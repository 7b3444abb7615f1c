//! What the driver does when its engine does not answer, answers late, or is not there: lifecycle rules 5, 5a and 6.
//!
//! A fault is always in the connection; beside the faulty driver value the case has one that goes straight to the engine.

use std::sync::Arc;

use chiton_driver::{CallError, CallResult, DriverEvent, Feature, Locality, LogOptions, Observed, ObservedStatus};
use chiton_model::SandboxId;
use http::{Method, StatusCode};
use tokio::time::timeout;

use crate::bench::FaultyBench;
use crate::life::{Life, again, failed};
use crate::look::PATIENCE;
use crate::proxy::{Fault, Injected, Rule};
use crate::stage::{Stage, sandbox_id};
use crate::verdict::{Failure, Verdict, ensure, equal, tells, wrong};

/// The faulty life, its connection, and a life on the same state whose connection is sound.
async fn lives(stage: &Stage) -> Verdict<(Arc<Life>, FaultyBench, Arc<Life>)> {
    let (life, faulty) = stage.faulty().await?;
    Ok((life, faulty, stage.life().await?))
}

fn inject(faulty: &FaultyBench, route: &(Method, String), fault: Fault) -> Injected {
    faulty.proxy.inject(Rule::new(route.0.clone(), route.1.clone(), fault))
}

/// Nobody knows what became of it, and the driver says so.
fn unknown(what: &str, result: CallResult<()>) -> Verdict {
    let error = failed(what, result)?;
    ensure(matches!(error, CallError::Unknown(_)), what, "an error of the kind Unknown", format!("{error:?}"))
}

async fn carried_out(what: &str, injected: &Injected) -> Verdict {
    let late = |_| Failure::Late { what: what.to_owned(), limit: PATIENCE, seen: "nothing".to_owned() };
    Ok(timeout(PATIENCE, injected.carried_out()).await.map_err(late)?)
}

async fn try_delete(life: &Life, id: &SandboxId) -> Verdict<CallResult<()>> {
    life.ended("delete", life.driver.deadlines().act, life.driver.delete(id)).await
}

async fn try_stop(life: &Life, id: &SandboxId) -> Verdict<CallResult<()>> {
    life.ended("stop", life.driver.deadlines().act, life.driver.stop(id)).await
}

async fn try_get(life: &Life, id: &SandboxId) -> Verdict<CallResult<Option<Observed>>> {
    life.look("get", life.driver.get(id)).await
}

pub(crate) async fn create_whose_answer_is_lost(stage: Arc<Stage>) -> Verdict {
    let (life, faulty, _) = lives(&stage).await?;
    let id = sandbox_id()?;
    let call = life.call(&life.sleeper(), &id).await?;
    let lost = inject(&faulty, &faulty.routes.create, Fault::DropAnswer);
    unknown("a create whose answer is lost", life.try_create(&call).await?)?;
    carried_out("the create", &lost).await?;
    ensure(life.get(&id).await?.is_some(), "the sandbox of a lost answer", "found by its id", "nothing")?;
    life.create(&call).await?;
    equal("how many there are after the repetition", &life.list().await?.len(), &1)?;
    life.start(&call).await?;
    equal("the status", &life.status(&id).await?, &Some(ObservedStatus::Running))?;
    life.delete(&id).await?;
    equal("the status after the delete", &life.status(&id).await?, &None)?;
    stage.nothing_left().await
}

pub(crate) async fn create_that_never_arrived(stage: Arc<Stage>) -> Verdict {
    let (life, faulty, _) = lives(&stage).await?;
    let id = sandbox_id()?;
    let call = life.call(&life.sleeper(), &id).await?;
    inject(&faulty, &faulty.routes.create, Fault::DropRequest);
    // For the client it looks like a lost answer.
    unknown("a create whose connection broke", life.try_create(&call).await?)?;
    equal("the status", &life.status(&id).await?, &None)?;
    life.create(&call).await?;
    life.start(&call).await?;
    life.delete(&id).await?;
    stage.nothing_left().await
}

pub(crate) async fn create_that_lands_after_its_deadline(stage: Arc<Stage>) -> Verdict {
    let (life, faulty, _) = lives(&stage).await?;
    let id = sandbox_id()?;
    let call = life.call(&life.sleeper(), &id).await?;
    let mut watch = life.watch();
    watch.snapshot().await?;
    let late = inject(&faulty, &faulty.routes.create, Fault::Late);
    unknown("a create that is not answered in time", life.try_create(&call).await?)?;
    equal("the status before it lands", &life.status(&id).await?, &None)?;
    late.release();
    carried_out("the late create", &late).await?;
    // Told without being asked for, and found when asked.
    watch.status("the late object", &id, |_| true).await?;
    equal("the list", &life.list().await?.into_iter().map(|it| it.id).collect::<Vec<_>>(), &vec![id.clone()])?;
    life.delete(&id).await?;
    watch.deleted(&id).await?;
    stage.nothing_left().await
}

pub(crate) async fn create_that_lands_after_its_delete(stage: Arc<Stage>) -> Verdict {
    let (life, faulty, direct) = lives(&stage).await?;
    let id = sandbox_id()?;
    let call = life.call(&life.sleeper(), &id).await?;
    let late = inject(&faulty, &faulty.routes.create, Fault::Late);
    unknown("a create that is not answered in time", life.try_create(&call).await?)?;
    // The engine compensates: nothing is there to delete yet, and a remote driver cannot know better.
    let deleted = try_delete(&life, &id).await?;
    let local = life.driver.capabilities().locality == Locality::Local;
    ensure(!local || deleted.is_ok(), "the delete by a local driver", "the end of the create", format!("{deleted:?}"))?;
    late.release();
    carried_out("the late create", &late).await?;
    // Whoever is asked: it is listed, so that it is deleted again, or the driver has removed it by itself.
    for life in [&life, &direct] {
        let listed = life.list().await?.iter().any(|observed| observed.id == id);
        if !listed {
            equal("what is left of one that nobody lists", &stage.traces().await?, &Vec::new())?;
        }
    }
    let error = failed("a create of a deleted id", life.try_create(&call).await?)?;
    ensure(matches!(error, CallError::NotRun(_)), "a create of a deleted id", "NotRun", format!("{error:?}"))?;
    life.delete(&id).await?;
    equal("the status after the repeated delete", &life.status(&id).await?, &None)?;
    equal("the list", &direct.list().await?, &Vec::new())?;
    stage.nothing_left().await
}

pub(crate) async fn start_whose_answer_is_lost(stage: Arc<Stage>) -> Verdict {
    let (life, faulty, _) = lives(&stage).await?;
    let id = sandbox_id()?;
    let script = "echo started; trap 'exit 0' TERM; while :; do sleep 0.05; done";
    let call = life.call(&life.script(script), &id).await?;
    life.create(&call).await?;
    let lost = inject(&faulty, &faulty.routes.start, Fault::DropAnswer);
    let started = life.try_start(&call).await?;
    carried_out("the start", &lost).await?;
    // A driver may look for itself and find that it runs.
    if started.is_err() {
        unknown("a start whose answer is lost", started)?;
        life.start(&call).await?;
    }
    equal("the status", &life.status(&id).await?, &Some(ObservedStatus::Running))?;
    // It is of use, too: its agent has what it needs, and its main process runs once.
    if life.has(Feature::Logs) {
        life.said(&id, "started").await?;
        life.stop(&id).await?;
        let output = life.read(&id, LogOptions::default()).await?;
        equal("what it wrote", &output.text(), &"started\n".to_owned())?;
    }
    life.delete(&id).await?;
    stage.nothing_left().await
}

pub(crate) async fn stop_whose_answer_is_lost(stage: Arc<Stage>) -> Verdict {
    let (life, faulty, _) = lives(&stage).await?;
    let id = sandbox_id()?;
    life.launched(&life.sleeper(), &id).await?;
    let lost = inject(&faulty, &faulty.routes.stop, Fault::DropAnswer);
    let stopped = try_stop(&life, &id).await?;
    carried_out("the stop", &lost).await?;
    if stopped.is_err() {
        unknown("a stop whose answer is lost", stopped)?;
        life.stop(&id).await?;
    }
    let status = life.status(&id).await?;
    ensure(matches!(status, Some(ObservedStatus::Exited(_))), "the status", "exited", format!("{status:?}"))?;
    life.delete(&id).await?;
    stage.nothing_left().await
}

pub(crate) async fn delete_that_fails_once(stage: Arc<Stage>) -> Verdict {
    let (life, faulty, _) = lives(&stage).await?;
    let id = sandbox_id()?;
    life.launched(&life.sleeper(), &id).await?;
    let refusal = serde_json::json!({ "message": "device or resource busy" });
    let once = inject(&faulty, &faulty.routes.delete, Fault::Answer(StatusCode::INTERNAL_SERVER_ERROR, refusal));
    let deleted = try_delete(&life, &id).await?;
    equal("how many deletes were refused", &once.count(), &1)?;
    match deleted {
        // It tried again by itself.
        Ok(()) => equal("the status after a delete that succeeded", &life.status(&id).await?, &None)?,
        Err(error) => {
            let text = error.error().message.clone();
            ensure(text.contains("device or resource busy"), "the error", "the engine's own words in it", text)?;
            ensure(life.status(&id).await?.is_some(), "the sandbox after a failed delete", "there still", "nothing")?;
        }
    }
    life.delete(&id).await?;
    equal("the status after the second delete", &life.status(&id).await?, &None)?;
    stage.nothing_left().await
}

pub(crate) async fn delete_whose_answer_is_lost(stage: Arc<Stage>) -> Verdict {
    let (life, faulty, _) = lives(&stage).await?;
    let id = sandbox_id()?;
    life.launched(&life.sleeper(), &id).await?;
    let lost = inject(&faulty, &faulty.routes.delete, Fault::DropAnswer);
    let deleted = try_delete(&life, &id).await?;
    carried_out("the delete", &lost).await?;
    if deleted.is_err() {
        unknown("a delete whose answer is lost", deleted)?;
    }
    life.delete(&id).await?;
    equal("the status", &life.status(&id).await?, &None)?;
    stage.nothing_left().await
}

/// Waits for the exit of a sandbox by watches of one driver, each begun when the last one ended.
/// A process that ends with 5 when it is asked to end, once it is ready.
const EXITS_5: &str = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done";

async fn exit_by_any_watch(life: &Life, mut watch: crate::look::Watcher, id: &SandboxId) -> Verdict {
    let waiting = async {
        loop {
            match watch.next("the exit").await? {
                Some(DriverEvent::Changed(Observed { id: of, status: ObservedStatus::Exited(exit), .. }))
                    if of == *id =>
                {
                    return equal("the exit code that is told after all", &exit.code, &Some(5));
                }
                Some(_) => {}
                None => {
                    tokio::task::yield_now().await;
                    watch = life.watch();
                }
            }
        }
    };
    let late = |_| Failure::Late { what: "the exit".to_owned(), limit: PATIENCE, seen: String::new() };
    timeout(PATIENCE, waiting).await.map_err(late)?
}

pub(crate) async fn events_that_break_off(stage: Arc<Stage>) -> Verdict {
    let (life, faulty, direct) = lives(&stage).await?;
    life.needs(Feature::Logs)?;
    let id = sandbox_id()?;
    let cut = inject(&faulty, &faulty.routes.events, Fault::Cut);
    let mut watch = life.watch();
    watch.snapshot().await?;
    life.launched(&life.script(EXITS_5), &id).await?;
    life.said(&id, "ready").await?;
    watch.status("news before the cut", &id, |status| *status == ObservedStatus::Running).await?;
    // From here to the next connection nothing can be told.
    inject(&faulty, &faulty.routes.events, Fault::DropRequest);
    cut.release();
    direct.stop(&id).await?;
    exit_by_any_watch(&life, watch, &id).await?;
    life.delete(&id).await?;
    stage.nothing_left().await
}

pub(crate) async fn engine_that_was_away(stage: Arc<Stage>) -> Verdict {
    let (life, faulty, direct) = lives(&stage).await?;
    life.needs(Feature::Logs)?;
    let id = sandbox_id()?;
    life.launched(&life.script(EXITS_5), &id).await?;
    life.said(&id, "ready").await?;
    let mut watch = life.watch();
    watch.snapshot().await?;
    faulty.proxy.down();
    direct.stop(&id).await?;
    let up = faulty.proxy.up();
    up.map_err(|error| Failure::bench("bring the proxy up again", error))?;
    exit_by_any_watch(&life, watch, &id).await?;
    life.delete(&id).await?;
    stage.nothing_left().await
}

pub(crate) async fn looks_that_fail_for_a_while(stage: Arc<Stage>) -> Verdict {
    let (life, faulty, direct) = lives(&stage).await?;
    life.needs(Feature::Logs)?;
    let id = sandbox_id()?;
    let mut watch = life.watch();
    watch.snapshot().await?;
    life.launched(&life.script(EXITS_5), &id).await?;
    life.said(&id, "ready").await?;
    watch.status("news of the start", &id, |status| *status == ObservedStatus::Running).await?;
    let (method, path) = &faulty.routes.look;
    let failure = Fault::Answer(StatusCode::INTERNAL_SERVER_ERROR, serde_json::json!({ "message": "cannot look now" }));
    // More often than one look asks.
    let failed = faulty.proxy.inject(Rule::new(method.clone(), path.clone(), failure).times(12));
    direct.stop(&id).await?;
    equal("the exit code that the same watch tells", &watch.exit(&id).await?.code, &Some(5))?;
    equal("how many looks failed before that", &failed.count(), &12)?;
    life.delete(&id).await?;
    stage.nothing_left().await
}

/// Makes every kind of call and holds each to its deadline; none may claim to have seen or done anything. Tells whether the
/// create may have made something.
async fn every_call_fails(
    life: &Life,
    call: &chiton_driver::CreateCall,
    absent: &chiton_driver::CreateCall,
    check: impl Fn(&str, &CallError) -> Verdict,
) -> Verdict<bool> {
    let id = &call.identity.sandbox;
    let volumes = async {
        if !life.has(Feature::Volumes) {
            return Ok(None);
        }
        Ok(Some(failed("volumes", life.look("volumes", life.driver.volumes()).await?)?))
    };
    let logs = async {
        if !life.has(Feature::Logs) {
            return Ok(None);
        }
        let logs = life.look("logs", life.driver.logs(id, LogOptions::default())).await?;
        Ok(Some(failed("logs", logs.map(drop))?))
    };
    // All at once: each waits for its own deadline.
    let (get, other, list, backend, create, start, stop, delete, volumes, logs) = tokio::join!(
        async { failed("get", try_get(life, id).await?) },
        async { failed("get of what is not there", try_get(life, &absent.identity.sandbox).await?) },
        async { failed("list", life.look("list", life.driver.list()).await?) },
        async { failed("backend_id", life.look("backend_id", life.driver.backend_id()).await?) },
        async { failed("create", life.try_create(absent).await?) },
        async { failed("start", life.try_start(&again(call)).await?) },
        async { failed("stop", try_stop(life, id).await?) },
        async { failed("delete", try_delete(life, id).await?) },
        volumes,
        logs,
    );
    let made_perhaps = matches!(create, Ok(CallError::Unknown(_) | CallError::Failed(_)));
    let ended = [
        ("get", get.map(Some)),
        ("get of what is not there", other.map(Some)),
        ("list", list.map(Some)),
        ("backend_id", backend.map(Some)),
        ("create", create.map(Some)),
        ("start", start.map(Some)),
        ("stop", stop.map(Some)),
        ("delete", delete.map(Some)),
        ("volumes", volumes),
        ("logs", logs),
    ];
    for (what, error) in ended {
        if let Some(error) = error? {
            check(what, &error)?;
        }
    }
    Ok(made_perhaps)
}

pub(crate) async fn engine_that_is_away(stage: Arc<Stage>) -> Verdict {
    let (life, faulty, direct) = lives(&stage).await?;
    let (id, other) = (sandbox_id()?, sandbox_id()?);
    let call = life.launched(&life.sleeper(), &id).await?;
    let absent = life.call(&life.sleeper(), &other).await?;
    faulty.proxy.down();
    let socket = faulty.proxy.socket().to_string_lossy().into_owned();
    let made_perhaps = every_call_fails(&life, &call, &absent, |what, error| {
        let known = matches!(error, CallError::NotRun(_) | CallError::Unknown(_));
        ensure(known, &format!("{what} without an engine"), "NotRun or Unknown", format!("{error:?}"))?;
        tells(error.error(), &[&socket])
    })
    .await?;
    equal("the sandbox, asked for directly", &direct.status(&id).await?, &Some(ObservedStatus::Running))?;
    faulty.proxy.up().map_err(|error| Failure::bench("bring the proxy up again", error))?;
    equal("the sandbox when the engine is back", &life.status(&id).await?, &Some(ObservedStatus::Running))?;
    // As the engine does it: what was certainly not run owes nothing, so that it may have left nothing.
    if made_perhaps {
        life.delete(&other).await?;
    }
    life.delete(&id).await?;
    stage.nothing_left().await
}

pub(crate) async fn engine_that_hangs(stage: Arc<Stage>) -> Verdict {
    let (life, faulty, direct) = lives(&stage).await?;
    let (id, other) = (sandbox_id()?, sandbox_id()?);
    let call = life.launched(&life.sleeper(), &id).await?;
    let absent = life.call(&life.sleeper(), &other).await?;
    let methods = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE];
    let hung: Vec<_> =
        methods.into_iter().map(|method| faulty.proxy.inject(Rule::new(method, "*", Fault::Hang).always())).collect();
    let checked = every_call_fails(&life, &call, &absent, |what, error| {
        let known = matches!(error, CallError::NotRun(_) | CallError::Unknown(_));
        ensure(known, &format!("{what} when the engine hangs"), "NotRun or Unknown", format!("{error:?}"))
    })
    .await;
    faulty.proxy.calm();
    hung.iter().for_each(Injected::release);
    checked?;
    equal("the sandbox, asked for directly", &direct.status(&id).await?, &Some(ObservedStatus::Running))?;
    life.delete(&id).await?;
    life.delete(&other).await?;
    equal("the list", &direct.list().await?, &Vec::new())?;
    stage.nothing_left().await
}

pub(crate) async fn error_is_told_in_the_engines_words(stage: Arc<Stage>) -> Verdict {
    let (life, faulty, _) = lives(&stage).await?;
    let id = sandbox_id()?;
    let call = life.call(&life.sleeper(), &id).await?;
    let refusal = serde_json::json!({ "message": "no space left on device (said the engine)" });
    inject(&faulty, &faulty.routes.create, Fault::Answer(StatusCode::INTERNAL_SERVER_ERROR, refusal));
    let error = failed("a create that the engine refuses", life.try_create(&call).await?)?;
    let text = error.error().message.clone();
    ensure(text.contains("said the engine"), "the error", "the engine's own words in it", text)?;
    if matches!(error, CallError::NotRun(_)) && life.status(&id).await?.is_some() {
        return Err(wrong("a create that was not run", "nothing", "an object"));
    }
    // The engine may be better a moment later.
    life.create(&call).await?;
    life.start(&call).await?;
    life.delete(&id).await?;
    stage.nothing_left().await
}
