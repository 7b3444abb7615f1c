use std::path::Path;

use chiton_proto::v1 as wire;

use super::View;
use crate::crash::platform::{Found, Life};

const FOLDER: &str = "/f";

fn row(id: &str, phase: &str) -> wire::Sandbox {
    wire::Sandbox { id: id.to_owned(), name: id.to_owned(), phase: phase.to_owned(), ..Default::default() }
}

fn found(life: Life, what: impl Into<String>) -> Found {
    Found { life, what: what.into() }
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
    let view = View {
        rows: ids.iter().zip(phases).map(|(id, phase)| row(id, phase)).collect(),
        obligations: Vec::new(),
        found: ids.iter().zip(phases).flat_map(|(id, phase)| whole(id, phase)).collect(),
    };
    assert_eq!(wrong(&view), [""; 0]);
}

#[test]
fn what_belongs_to_no_sandbox_or_to_a_failed_one_is_a_stranger() {
    let stray = [found(Life::There, "/f/netns/s-gone"), found(Life::Running, "process 9 s-failed")];
    let view = View { rows: vec![row("s-failed", "Error")], obligations: Vec::new(), found: stray.to_vec() };
    assert_eq!(wrong(&view), ["nobody owns /f/netns/s-gone", "nobody owns process 9 s-failed"]);
}

#[test]
fn a_process_of_a_stopped_sandbox_is_a_stranger() {
    let mut all = whole("s-a", "Stopped");
    all.push(found(Life::Running, "process 9 s-a"));
    let view = View { rows: vec![row("s-a", "Stopped")], obligations: Vec::new(), found: all };
    assert_eq!(wrong(&view), ["nobody owns process 9 s-a"]);
}

#[test]
fn what_a_listed_debt_is_about_is_no_stranger() {
    let debt = wire::Obligation { subject: "s-a".to_owned(), ..Default::default() };
    let effect = found(Life::There, "/f/effects/s-a.before_create");
    let view = View { rows: vec![row("s-a", "Deleted")], obligations: vec![debt], found: vec![effect] };
    assert_eq!(wrong(&view), [""; 0]);
}

#[test]
fn every_single_thing_that_a_running_sandbox_loses_is_noticed() {
    let all = whole("s-a", "Ready");
    for lost in all.iter().filter(|found| !found.what.starts_with("process")) {
        let rest = all.iter().filter(|found| *found != lost).cloned().collect();
        let view = View { rows: vec![row("s-a", "Ready")], obligations: Vec::new(), found: rest };
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
    let view = View { rows: vec![row("s-a", "Stopped"), second], obligations: Vec::new(), found: all };
    assert_eq!(wrong(&view), ["sandbox s-a is Stopped and has 2 × \" of s-a\"", "2 × (\"\", \"s-a\")"]);
}
