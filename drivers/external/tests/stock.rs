//! A driver that knows only the public contract, as the engine is shown it.

mod common;

use std::time::Duration;

use chiton_driver::{CallError, ComputeDriver as _, DriverEvent, Feature, ObservedStatus, WhoseAgent};
use chiton_driver_scripted::Fault;
use chiton_model::{ErrorKind, SandboxId, WorkspaceName};
use common::{Rig, call, plan, script, until};
use futures::StreamExt as _;

const SLEEP: [&str; 2] = ["/bin/sleep", "1000"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_without_an_end_mark_lists_what_there_is_and_marks_it() {
    let rig = Rig::stock(&[]);
    let driver = rig.driver(WhoseAgent::None);
    driver.create(&call("s-1", &SLEEP, None)).await.expect("made");
    driver.create(&call("s-2", &SLEEP, None)).await.expect("made");
    let mut news = driver.watch();
    let mut next = async || tokio::time::timeout(Duration::from_mins(1), news.next()).await.expect("in time");
    let mut told = Vec::new();
    while let Some(event) = next().await {
        match event {
            DriverEvent::Changed(observed) => told.push(observed.id.to_string()),
            DriverEvent::SnapshotEnd => break,
            other => panic!("{other:?} is no part of a snapshot"),
        }
    }
    told.sort();
    assert_eq!(told, ["s-1", "s-2"]);
    // Afterwards it tells changes: what it repeats of the snapshot is no second end, and a deletion comes once.
    let id = SandboxId::new("s-1").expect("an id");
    driver.delete(&id).await.expect("gone");
    driver.delete(&SandboxId::new("s-2").expect("an id")).await.expect("gone");
    let mut deleted = Vec::new();
    while deleted.len() < 2 {
        match next().await.expect("news") {
            DriverEvent::Changed(_) => {}
            DriverEvent::Deleted(id) => deleted.push(id.to_string()),
            other => panic!("{other:?} is no change"),
        }
    }
    assert_eq!(deleted, ["s-1", "s-2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_its_health_says_that_it_does_not_serve_only_new_sandboxes_are_refused() {
    let mut rig = Rig::new(script(&[], false));
    let driver = rig.driver(WhoseAgent::None);
    let plan = plan(&driver).await;
    driver.validate(&plan).await.expect("it serves");
    driver.create(&call("s-1", &SLEEP, None)).await.expect("made");
    rig.replace(script(&[Fault::Unhealthy], false));
    let id = SandboxId::new("s-1").expect("an id");
    // The connection broke with its process; whoever finds that out is told so.
    while driver.get(&id).await.is_err() {}
    let refused = driver.validate(&plan).await.expect_err("it does not serve");
    assert!(matches!(refused.kind, ErrorKind::Unavailable { .. }), "{refused:?}");
    assert!(refused.message.contains("does not serve now") && refused.cure.is_some(), "{refused:?}");
    driver.stop(&id).await.expect("what is there is looked after");
    driver.delete(&id).await.expect("what is there is looked after");
    // One that serves no health at all is asked for sandboxes.
    rig.replace(script(&[], true));
    while driver.get(&id).await.is_err() {}
    driver.validate(&plan).await.expect("it has no health to say no with");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_that_cannot_bring_our_agent_is_refused_before_anything_is_stored() {
    let rig = Rig::stock(&[]);
    let driver = rig.driver(WhoseAgent::Chiton);
    let refused = driver.validate(&plan(&driver).await).await.expect_err("it cannot");
    assert!(matches!(refused.kind, ErrorKind::Unsupported { .. }), "{refused:?}");
    assert!(refused.cure.is_some_and(|cure| cure.contains("agent = \"none\"")));
    for whose in [WhoseAgent::None, WhoseAgent::Openshell] {
        let driver = rig.driver(whose);
        driver.validate(&plan(&driver).await).await.expect("it may");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_that_finds_its_own_sandbox_has_made_it() {
    let rig = Rig::stock(&[Fault::RefusesRepeats]);
    let driver = rig.driver(WhoseAgent::None);
    let call = call("s-1", &SLEEP, None);
    driver.create(&call).await.expect("made");
    driver.create(&call).await.expect("it is there, which is what was asked for");
    assert_eq!(driver.list().await.expect("a list").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_already_exists_without_a_sandbox_of_that_id_is_an_error() {
    let rig = Rig::stock(&[Fault::RefusesCreates]);
    let driver = rig.driver(WhoseAgent::None);
    let refused = driver.create(&call("s-1", &SLEEP, None)).await.expect_err("something is in the way");
    assert_eq!(refused.error().kind, ErrorKind::AlreadyExists, "{refused:?}");
    assert!(matches!(refused, CallError::Failed(_)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reason_that_does_not_pass_is_an_end_without_a_code() {
    let rig = Rig::stock(&[]);
    let driver = rig.driver(WhoseAgent::None);
    let call = call("s-1", &["/nothing/there"], None);
    driver.create(&call).await.expect("taken");
    let id = &call.identity.sandbox;
    until(&driver, id, |status| matches!(status, ObservedStatus::Exited(_))).await;
    let Some(found) = driver.get(id).await.expect("a look") else { panic!("it is there") };
    let ObservedStatus::Exited(exit) = found.status else { panic!("{:?} is no end", found.status) };
    assert_eq!((exit.code, exit.reason.as_str(), found.attempt), (None, "Exited", None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_for_workspaces_that_it_does_not_have_are_done() {
    let rig = Rig::stock(&[]);
    let driver = rig.driver(WhoseAgent::None);
    assert!(driver.greet().await.expect("it answers").features.contains(&Feature::Workspaces), "it may have them");
    driver.ensure_workspace(&WorkspaceName::default()).await.expect("nothing to do");
    driver.release_workspace(&WorkspaceName::default()).await.expect("nothing to do");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_starts_keep_the_token_of_the_create() {
    let rig = Rig::stock(&[]);
    let driver = rig.driver(WhoseAgent::Openshell);
    assert!(!driver.renews_credentials().await);
    let made = call("s-1", &SLEEP, Some("the-first"));
    let id = &made.identity.sandbox;
    driver.create(&made).await.expect("made");
    until(&driver, id, |status| *status == ObservedStatus::Running).await;
    driver.stop(id).await.expect("stopped");
    // A token that was made for another driver than this one would be lost.
    let refused = driver.start(&call("s-1", &SLEEP, Some("the-second"))).await.expect_err("it cannot be carried");
    assert!(matches!(refused, CallError::NotRun(_)), "{refused:?}");
    assert!(!matches!(driver.get(id).await.expect("a look").expect("there").status, ObservedStatus::Running));
    driver.start(&call("s-1", &SLEEP, Some(""))).await.expect("started");
    until(&driver, id, |status| *status == ObservedStatus::Running).await;
    assert_eq!(rig.platform.token("s-1").as_deref(), Some("the-first"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_with_the_additions_is_given_a_new_token_at_each_start() {
    let mut rig = Rig::new(script(&[], false));
    let driver = rig.driver(WhoseAgent::Openshell);
    assert!(driver.renews_credentials().await);
    let made = call("s-1", &SLEEP, Some("the-first"));
    driver.create(&made).await.expect("made");
    driver.stop(&made.identity.sandbox).await.expect("stopped");
    driver.start(&call("s-1", &SLEEP, Some("the-second"))).await.expect("started");
    assert_eq!(rig.platform.token("s-1").as_deref(), Some("the-second"));
    // What it said last holds while it is away.
    rig.stop();
    while driver.get(&made.identity.sandbox).await.is_ok() {}
    assert!(driver.renews_credentials().await);
}
