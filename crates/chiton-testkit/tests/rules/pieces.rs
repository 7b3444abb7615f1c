//! Frozen chains and configs, missing pieces, epochs, backends.

use chiton_lifecycle::CreateRequest;
use chiton_lifecycle::engine::Missing;
use chiton_lifecycle::journal::ObligationStatus;
use chiton_model::{DriverId, Error, Phase, SandboxId, SandboxPhase, SandboxSpec, VolumeName, WorkspaceName};
use chiton_testkit::{Act, AgentBehaviour, DriverSpec, Effect, ExtensionScript, Lab, What};
use serde_json::json;

use crate::{one, settle};

fn force_delete(lab: &Lab, id: &SandboxId) -> Result<(), chiton_model::Error> {
    let (engine, request, id) = (lab.engine(), lab.request(), id.clone());
    lab.block_on(async move { engine.delete(request, id, true).await }).map(drop)
}

#[test]
fn a_changed_config_and_a_changed_list_never_change_whom_a_sandbox_calls_nor_with_what() {
    for listed in [true, false] {
        frozen(listed);
    }
}

fn frozen(listed: bool) {
    let mut lab = Lab::new(40)
        .driver(DriverSpec::new("fake"))
        .extension(ExtensionScript::everywhere("old"))
        .extension(ExtensionScript::everywhere("new"));
    lab.unlist("new");
    lab.reconfigure("old", json!({ "tag": "first" }));
    lab.start();
    let (id, _) = lab.create("x");
    lab.crash();
    lab.reconfigure("old", json!({ "tag": "second" }));
    if !listed {
        lab.unlist("old");
    }
    lab.list("new");
    lab.start();
    lab.stop_sandbox(&id).expect("stopped");
    lab.start_sandbox(&id).expect("started");
    lab.delete_sandbox(&id).expect("deleted");
    settle(&lab);
    let hooks = lab.ledger().hooks();
    assert!(hooks.iter().any(|hook| hook.phase == Phase::AfterDelete));
    assert!(hooks.iter().all(|hook| hook.extension.as_str() == "old" && hook.tag == "first"), "{hooks:?}");
}

#[test]
fn a_missing_extension_is_refused_at_start_by_name_with_a_cure() {
    let mut lab = one(41);
    lab.create("x");
    lab.crash();
    lab.remove_extension("ext");
    let refused = lab.try_start().expect_err("it is needed");
    let error = refused.0.first().expect("an error");
    assert!(error.message.contains("sandbox \"x\"") && error.message.contains("\"ext\" is not compiled"), "{error}");
    assert!(error.cure.as_ref().is_some_and(|cure| cure.contains("abandon = true")), "{error:?}");
}

#[test]
fn a_driver_that_an_earlier_start_had_is_missed_by_name_with_the_list_that_brings_it_back() {
    let mut lab = Lab::new(48).driver(DriverSpec::new("docker")).driver(DriverSpec::new("oci"));
    lab.start();
    lab.create("x");
    lab.crash();
    lab.remove_driver("docker");
    let refused = lab.try_start().expect_err("its driver is needed");
    let error = refused.0.first().expect("an error");
    assert!(
        error.message.starts_with("sandbox \"x\" (") && error.message.contains("driver \"docker\" is not"),
        "{error}"
    );
    assert_eq!(
        error.cure.as_deref(),
        Some(
            "list every driver that has sandboxes: [compute] drivers = [\"oci\", \"docker\"] and default_driver = \"oci\"; \
             or serve the rest: [compute] missing = \"hold\""
        )
    );
}

#[test]
fn a_request_for_a_driver_that_is_not_there_is_told_which_are() {
    let mut lab = Lab::new(49).driver(DriverSpec::new("oci")).driver(DriverSpec::new("podman"));
    lab.start();
    let told = |error: Error| format!("{error} [{}]; {}", error.kind.code(), error.cure.as_deref().unwrap_or_default());
    let id = |name: &str| DriverId::new(name).expect("an id");
    let (engine, request) = (lab.engine(), lab.request());
    let principal = request.principal.clone();
    let create = |driver: DriverId| {
        let (engine, request) = (engine.clone(), request.clone());
        let spec = SandboxSpec { driver: Some(driver), ..SandboxSpec::default() };
        let create = CreateRequest { spec, ..CreateRequest::default() };
        lab.block_on(async move { engine.create(request, create).await }).map(drop)
    };
    let unknown = "driver \"vm\" is not configured on this gateway [invalid]; configured: oci, podman";
    assert_eq!(told(create(id("vm")).expect_err("there is none")), unknown);
    assert_eq!(
        told(create(id("podmen")).expect_err("there is none")),
        "driver \"podmen\" is not configured on this gateway [invalid]; did you mean \"podman\"? configured: oci, podman"
    );
    let (workspace, volume) = (WorkspaceName::default(), VolumeName::new("data").expect("a name"));
    let made = lab.block_on({
        let (engine, principal) = (engine.clone(), principal.clone());
        async move { engine.create_volume(principal, Some(id("vm")), workspace, volume, None).await }
    });
    assert_eq!(told(made.map(drop).expect_err("there is none")), unknown);
    let (object, vm) = (SandboxId::new("x").expect("an id"), id("vm"));
    let deleted = lab.block_on(async move { engine.delete_orphan(principal, vm, object).await });
    assert_eq!(told(deleted.expect_err("there is none")), unknown);
}

#[test]
fn a_held_sandbox_can_be_looked_at_and_deleted_by_force_only_and_what_is_missing_stays_owed() {
    let mut lab = Lab::new(42)
        .driver(DriverSpec::new("fake"))
        .extension(ExtensionScript::everywhere("here"))
        .extension(ExtensionScript::everywhere("gone"))
        .configure(|config| config.missing = Missing::Hold);
    lab.start();
    let (id, _) = lab.create("x");
    lab.crash();
    lab.remove_extension("gone");
    lab.start();
    assert!(lab.stop_sandbox(&id).is_err());
    assert!(lab.delete_sandbox(&id).is_err());
    force_delete(&lab, &id).expect("by force");
    lab.advance(std::time::Duration::from_mins(1));
    assert!(lab.platform().object(&id).is_none());
    let owed = lab.journal().obligations();
    assert!(!owed.is_empty() && owed.iter().all(|obligation| obligation.debt.extension.as_str() == "gone"), "{owed:?}");
    let held: Vec<_> = lab.ledger().held().into_keys().filter(|(_, key)| !key.ends_with("/workspace")).collect();
    assert!(!held.is_empty() && held.iter().all(|(extension, _)| extension.as_str() == "gone"), "{held:?}");
}

#[test]
fn an_abandoned_extensions_debts_are_listed_and_audited_and_nothing_waits_for_them() {
    let mut lab = Lab::new(43).driver(DriverSpec::new("fake")).extension(ExtensionScript::everywhere("ext")).configure(
        |config| {
            let policy = chiton_lifecycle::policy::Policy { abandon: true, ..Default::default() };
            config.other_policies.insert(chiton_model::ExtensionName::new("ext").expect("valid"), policy);
        },
    );
    lab.start();
    let (id, _) = lab.create("x");
    let (owing, _) = lab.create("y");
    lab.script("ext").always(Phase::AfterDelete, Act::Fail(chiton_lifecycle::extension::StepError::fatal("scripted")));
    lab.delete_sandbox(&owing).expect("accepted");
    lab.crash();
    lab.remove_extension("ext");
    lab.start();
    lab.delete_sandbox(&id).expect("accepted");
    lab.advance(std::time::Duration::from_mins(10));
    assert!(lab.journal().rows().is_empty(), "{:?}", lab.journal().rows());
    let listed = lab.journal().obligations();
    assert!(!listed.is_empty() && listed.iter().all(|debt| debt.status == ObligationStatus::Abandoned), "{listed:?}");
    for obligation in listed {
        let audited = |audit: &&chiton_lifecycle::journal::AuditRecord| audit.subject == obligation.id;
        assert_eq!(lab.journal().audits().iter().filter(audited).count(), 1, "{}", obligation.id);
    }
}

/// A lab whose policy gives up what `ext` owes when it is gone.
fn giving_up(seed: u64) -> Lab {
    Lab::new(seed).driver(DriverSpec::new("fake")).extension(ExtensionScript::everywhere("ext")).configure(|config| {
        let policy = chiton_lifecycle::policy::Policy { abandon: true, ..Default::default() };
        config.other_policies.insert(chiton_model::ExtensionName::new("ext").expect("valid"), policy);
    })
}

fn fatal() -> Act {
    Act::Fail(chiton_lifecycle::extension::StepError::fatal("scripted"))
}

#[test]
fn what_was_given_up_holds_no_row_and_is_forgotten_in_time() {
    let mut lab = giving_up(47);
    lab.start();
    for phase in [Phase::AfterCreate, Phase::OnCreateFailed] {
        lab.script("ext").always(phase, fatal());
    }
    let failed = lab.ask_create("x").expect("no crash").expect("accepted").sandbox.id;
    lab.advance(std::time::Duration::from_secs(10));
    assert_eq!(lab.row(&failed).map(|row| row.phase), Some(SandboxPhase::Error));
    lab.crash();
    lab.remove_extension("ext");
    lab.start();
    lab.advance(std::time::Duration::from_mins(1));
    let listed = lab.journal().obligations();
    assert!(!listed.is_empty() && listed.iter().all(|owed| owed.status == ObligationStatus::Abandoned), "{listed:?}");
    let conditions = lab.row(&failed).map(|row| row.conditions).unwrap_or_default();
    assert!(conditions.iter().any(|told| told.reason == "Abandoned" && told.message.contains("was given up")));
    lab.advance(std::time::Duration::from_hours(25));
    assert_eq!(lab.row(&failed), None, "a failed create goes after a day");
    assert_eq!(lab.journal().obligations(), listed, "and what was given up is listed");
    lab.world().jump_wall(jiff::SignedDuration::from_hours(24 * 30));
    lab.advance(std::time::Duration::from_mins(5));
    assert_eq!(lab.journal().obligations(), []);
    assert!(!lab.journal().audits().is_empty(), "the trail stays");
}

#[test]
fn what_was_given_up_is_closed_by_hand_and_a_younger_debt_of_the_same_kind_stays() {
    let mut lab = giving_up(48);
    lab.start();
    let (id, _) = lab.create("x");
    lab.script("ext").always(Phase::AfterStop, fatal());
    lab.stop_sandbox(&id).expect("stopped");
    lab.crash();
    lab.remove_extension("ext");
    lab.start();
    lab.advance(std::time::Duration::from_mins(1));
    let given_up = lab.journal().obligations();
    assert_eq!(given_up.iter().map(|owed| owed.status).collect::<Vec<_>>(), [ObligationStatus::Abandoned]);
    lab.crash();
    lab = lab.extension(ExtensionScript::everywhere("ext"));
    lab.start();
    lab.start_sandbox(&id).expect("nothing that was given up is in its way");
    let discharge = |force| {
        let (engine, principal, owed) = (lab.engine(), lab.request().principal, given_up[0].id.clone());
        lab.block_on(async move { engine.discharge(principal, owed, force).await })
    };
    discharge(false).expect_err("not without a word");
    let debts = lab.row(&id).map(|row| row.debts);
    discharge(true).expect("closed");
    assert_eq!(lab.journal().obligations(), []);
    let row = lab.row(&id).expect("its row");
    assert_eq!(Some(&row.debts), debts.as_ref(), "what this start owes is owed");
    assert!(row.debts.iter().any(|debt| debt.phase == Phase::AfterStop));
    assert!(!row.conditions.iter().any(|condition| condition.kind == "CleanupPending"), "{:?}", row.conditions);
}

#[test]
fn nothing_touches_a_sandbox_of_an_earlier_epoch_until_it_is_adopted() {
    let mut lab = one(44);
    let (id, _) = lab.create("x");
    lab.crash();
    let old = lab.journal().info().epoch;
    lab.journal().renew_epoch();
    lab.start();
    let before = lab.ledger().len();
    assert!(lab.stop_sandbox(&id).is_err());
    assert!(force_delete(&lab, &id).is_err());
    lab.advance(std::time::Duration::from_hours(1));
    let touched = lab
        .ledger()
        .since(before)
        .into_iter()
        .any(|entry| matches!(entry.what, What::HookBegin(_) | What::Sweep { .. } | What::Effect { .. }));
    assert!(!touched, "{:?}", lab.ledger());
    let (engine, principal, adopted) = (lab.engine(), lab.request().principal, id.clone());
    lab.block_on(async move { engine.adopt_orphan(principal, adopted).await }).expect("adopted");
    assert_ne!(lab.row(&id).map(|row| row.epoch), Some(old));
    lab.delete_sandbox(&id).expect("deleted");
    settle(&lab);
}

#[test]
fn an_adopted_create_without_an_outcome_whose_object_runs_is_kept() {
    let epoch = std::sync::Arc::new(std::sync::Mutex::new(None));
    let adopt = std::sync::Arc::clone(&epoch);
    let mut lab = Lab::new(45)
        .driver(DriverSpec::new("fake"))
        .extension(ExtensionScript::everywhere("ext"))
        .configure(move |config| config.adopt_epoch.clone_from(&adopt.lock().expect("not poisoned")));
    lab.start();
    lab.agents().next(AgentBehaviour::Never);
    let accepted = lab.ask_create("x").expect("no crash").expect("accepted");
    lab.advance(std::time::Duration::from_secs(5));
    lab.crash();
    *epoch.lock().expect("not poisoned") = Some(lab.journal().info().epoch);
    lab.journal().renew_epoch();
    lab.lose_marks();
    lab.start();
    settle(&lab);
    let id = accepted.sandbox.id;
    assert_eq!(lab.row(&id).map(|row| row.phase), Some(SandboxPhase::Ready));
    let deleted = |entry: &chiton_testkit::Entry| matches!(entry.what, What::Effect { effect: Effect::Deleted, .. });
    assert!(!lab.ledger().entries().iter().any(deleted));
    lab.delete_sandbox(&id).expect("deleted");
    settle(&lab);
    assert!(lab.ledger().held_by(lab.script("ext").name()).is_empty());
}

#[test]
fn a_sandbox_of_another_backend_is_held_and_its_absence_there_means_nothing() {
    let mut lab = one(46);
    let (id, _) = lab.create("x");
    lab.crash();
    lab.platform().move_backend("elsewhere");
    lab.start();
    lab.advance(std::time::Duration::from_mins(5));
    assert_eq!(lab.row(&id).map(|row| row.phase), Some(SandboxPhase::Ready));
    assert!(lab.delete_sandbox(&id).is_err());
    assert!(!lab.ledger().calls().contains(&"ext after_stop".to_owned()));
    lab.crash();
    lab.platform().move_backend("backend-of-fake");
    lab.start();
    lab.delete_sandbox(&id).expect("deleted");
    settle(&lab);
}

#[test]
fn a_backend_that_takes_anothers_place_while_the_gateway_runs_says_nothing_about_its_sandboxes() {
    let lab = one(46);
    let (id, _) = lab.create("x");
    lab.platform().move_backend("elsewhere");
    // The old one's news end; whoever watches the new one sees that it has no such object.
    lab.platform().end_watches();
    lab.platform().lose(&id);
    lab.advance(std::time::Duration::from_mins(5));
    assert_eq!(lab.row(&id).map(|row| row.phase), Some(SandboxPhase::Ready), "its absence there is no exit");
    let (engine, request, deleted) = (lab.engine(), lab.request(), id.clone());
    lab.block_on(async move { engine.delete(request, deleted, false).await }).expect("accepted");
    lab.advance(std::time::Duration::from_mins(5));
    assert!(lab.row(&id).is_some(), "it is not absent because another does not have it");
    assert!(!lab.ledger().held_by(lab.script("ext").name()).is_empty(), "nothing is released");
    lab.platform().move_backend("backend-of-fake");
    lab.platform().end_watches();
    settle(&lab);
    lab.advance(std::time::Duration::from_mins(10));
    assert!(lab.row(&id).is_none(), "its own says that it is gone");
}

#[test]
fn an_interrupted_operation_goes_on_when_its_sandbox_is_adopted() {
    let mut lab = one(46);
    let (id, _) = lab.create("x");
    lab.script("ext").next(Phase::BeforeDelete, Act::Hang);
    let (engine, request, deleted) = (lab.engine(), lab.request(), id.clone());
    lab.block_on(async move { engine.delete(request, deleted, false).await }).expect("accepted");
    lab.crash();
    lab.journal().renew_epoch();
    lab.start();
    lab.advance(std::time::Duration::from_hours(1));
    assert!(lab.row(&id).is_some(), "it is held");
    let (engine, principal, adopted) = (lab.engine(), lab.request().principal, id.clone());
    lab.block_on(async move { engine.adopt_orphan(principal, adopted).await }).expect("adopted");
    settle(&lab);
    assert!(lab.row(&id).is_none(), "the delete went on without a restart");
    assert!(lab.ledger().held_by(lab.script("ext").name()).is_empty());
}

#[test]
fn an_epoch_that_is_not_there_is_refused_naming_those_that_are() {
    let epoch = std::sync::Arc::new(std::sync::Mutex::new(None));
    let adopt = std::sync::Arc::clone(&epoch);
    let mut lab = Lab::new(47)
        .driver(DriverSpec::new("fake"))
        .configure(move |config| config.adopt_epoch.clone_from(&adopt.lock().expect("not poisoned")));
    lab.start();
    let (id, _) = lab.create("x");
    lab.crash();
    let old = lab.journal().info().epoch;
    lab.journal().renew_epoch();
    *epoch.lock().expect("not poisoned") = Some(chiton_model::StoreEpoch::new("e-typo").expect("an id"));
    let refused = lab.try_start().expect_err("it started").0;
    let text = format!("{refused:?}");
    assert!(text.contains("e-typo") && text.contains(&format!("{old} (1 sandboxes")), "{text}");
    *epoch.lock().expect("not poisoned") = Some(old);
    lab.start();
    lab.delete_sandbox(&id).expect("adopted and deleted");
    settle(&lab);
}
