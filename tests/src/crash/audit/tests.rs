use std::path::Path;

use chiton_proto::v1 as wire;

use super::{View, unleased};
use crate::crash::platform::{Found, Life};

const FOLDER: &str = "/f";

fn row(id: &str, phase: &str) -> wire::Sandbox {
    wire::Sandbox { id: id.to_owned(), name: id.to_owned(), phase: phase.to_owned(), ..Default::default() }
}

fn found(life: Life, what: impl Into<String>) -> Found {
    Found::new(life, what)
}

/// A view of what a driver made and what extensions hold, told apart as the audit does.
fn view(rows: Vec<wire::Sandbox>, all: Vec<Found>) -> View {
    let (held, found) = all.into_iter().partition(|found| found.what.starts_with(FOLDER));
    View { rows, obligations: Vec::new(), found, held }
}

/// All that a sandbox in this phase has.
fn whole(id: &str, phase: &str) -> Vec<Found> {
    let mut all = vec![
        found(Life::There, format!("/f/leases/10.0.0.1 of {id}")),
        found(Life::There, format!("/f/netns/{id}")),
        found(Life::There, format!("/f/effects/{id}.before_create")),
        found(Life::There, format!("/f/effects/{id}.after_create")),
    ];
    if phase == "Ready" {
        all.push(found(Life::Running, format!("process 7 {id}")));
        all.push(found(Life::Running, format!("/f/effects/{id}.before_start")));
        all.push(found(Life::Running, format!("/f/effects/{id}.after_ready")));
    }
    all
}

fn wrong(view: &View) -> Vec<String> {
    let mut wrong = view.strangers();
    wrong.extend(view.lacking(Path::new(FOLDER)));
    wrong
}

#[test]
fn a_world_in_which_all_is_owned_is_right() {
    let phases = ["Ready", "Stopped", "Completed"];
    let ids = ["s-a", "s-b", "s-c"];
    let rows = ids.iter().zip(phases).map(|(id, phase)| row(id, phase)).collect();
    let all = ids.iter().zip(phases).flat_map(|(id, phase)| whole(id, phase)).collect();
    assert_eq!(wrong(&view(rows, all)), [""; 0]);
}

#[test]
fn what_belongs_to_no_sandbox_or_to_a_failed_one_is_a_stranger() {
    let stray = [found(Life::There, "/f/netns/s-gone"), found(Life::Running, "process 9 s-failed")];
    let view = view(vec![row("s-failed", "Error")], stray.to_vec());
    assert_eq!(wrong(&view), ["nobody owns process 9 s-failed", "nobody owns /f/netns/s-gone"]);
}

#[test]
fn a_process_of_a_stopped_sandbox_is_a_stranger() {
    let mut all = whole("s-a", "Stopped");
    all.push(found(Life::Running, "process 9 s-a"));
    assert_eq!(wrong(&view(vec![row("s-a", "Stopped")], all)), ["nobody owns process 9 s-a"]);
}

#[test]
fn what_a_listed_debt_is_about_is_no_stranger() {
    let debt = wire::Obligation { subject: "s-a".to_owned(), ..Default::default() };
    let effect = found(Life::There, "/f/effects/s-a.before_create");
    let view = View { obligations: vec![debt], ..view(vec![row("s-a", "Deleted")], vec![effect]) };
    assert_eq!(wrong(&view), [""; 0]);
}

#[test]
fn every_single_thing_that_a_running_sandbox_loses_is_noticed() {
    let all = whole("s-a", "Ready");
    for lost in all.iter().filter(|found| !found.what.starts_with("process")) {
        let rest = all.iter().filter(|found| *found != lost).cloned().collect();
        let view = view(vec![row("s-a", "Ready")], rest);
        assert_eq!(wrong(&view).len(), 1, "{lost:?}: {:?}", wrong(&view));
    }
}

#[test]
fn two_leases_of_one_sandbox_and_two_sandboxes_of_one_name_are_noticed() {
    let mut all = whole("s-a", "Stopped");
    all.push(found(Life::There, "/f/leases/10.0.0.2 of s-a"));
    all.extend(whole("s-b", "Stopped"));
    let mut second = row("s-b", "Stopped");
    second.name = "s-a".to_owned();
    let view = view(vec![row("s-a", "Stopped"), second], all);
    assert_eq!(wrong(&view), ["sandbox s-a is Stopped and has 2 × \" of s-a\"", "2 × (\"\", \"s-a\")"]);
}

/// A sandbox of which something may still land.
fn late(id: &str, phase: &str, reason: &str) -> wire::Sandbox {
    let condition = wire::Condition { reason: reason.to_owned(), ..Default::default() };
    wire::Sandbox { operation: "o-1".to_owned(), conditions: vec![condition], ..row(id, phase) }
}

#[test]
fn a_create_that_may_still_land_keeps_what_extensions_hold_and_nothing_else() {
    let lease = found(Life::There, "/f/leases/10.0.0.1 of s-a");
    let rows = || vec![late("s-a", "Provisioning", "CreateMayLand")];
    let effect = found(Life::Running, "/f/effects/s-a.before_start");
    assert_eq!(wrong(&view(rows(), vec![lease.clone(), effect])), [""; 0]);
    assert_eq!(wrong(&view(rows(), Vec::new())), ["sandbox s-a is Provisioning and has 0 × \" of s-a\""]);
    let container = found(Life::There, "container chiton-s-a of s-a (created)");
    let wrong = wrong(&view(rows(), vec![lease, container]));
    assert_eq!(wrong, ["nobody owns container chiton-s-a of s-a (created)"]);
}

#[test]
fn a_start_that_may_still_land_has_all_that_a_stopped_sandbox_has() {
    let rows = || vec![late("s-a", "Starting", "StartMayLand")];
    let mut all = whole("s-a", "Stopped");
    all.push(found(Life::There, "container chiton-s-a of s-a (exited)"));
    assert_eq!(wrong(&view(rows(), all.clone())), [""; 0]);
    all.push(found(Life::Running, "container chiton-s-a of s-a (running)"));
    assert_eq!(wrong(&view(rows(), all.clone())), ["nobody owns container chiton-s-a of s-a (running)"]);
    assert_eq!(wrong(&view(vec![late("s-a", "Starting", "AgentMayCall")], all)), [""; 0]);
}

#[test]
fn a_network_without_sandboxes_is_a_stranger_and_a_volume_is_none() {
    let all = || vec![found(Life::Common, "network chiton.g"), found(Life::Kept, "volume chiton.g.default.v")];
    assert_eq!(wrong(&view(vec![row("s-a", "Error")], all())), ["nobody owns network chiton.g"]);
    let with = all().into_iter().chain(whole("s-a", "Stopped")).collect();
    assert_eq!(wrong(&view(vec![row("s-a", "Stopped")], with)), [""; 0]);
}

#[test]
fn an_address_that_is_leased_to_another_or_nobody_is_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("leases")).expect("a folder");
    for (address, holder) in [("10.0.0.1", "s-a"), ("10.0.0.2", "s-c")] {
        std::fs::write(folder.path().join("leases").join(address), holder).expect("a lease");
    }
    let with = |id: &str, address: &str| Found {
        address: Some((address.to_owned(), id.to_owned())),
        ..found(Life::There, format!("container of {id}"))
    };
    let all = [with("s-a", "10.0.0.1"), with("s-b", "10.0.0.2"), with("s-d", "10.0.0.3"), found(Life::Kept, "v")];
    let wrong = [
        "container of s-b has 10.0.0.2, which is leased to \"s-c\"",
        "container of s-d has 10.0.0.3, which is leased to \"\"",
    ];
    assert_eq!(unleased(folder.path(), &all), wrong);
}
