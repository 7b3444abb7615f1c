//! The list of crash points is neither too short nor too long, and nothing happens outside of a pair of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::time::Duration;

use chiton_lifecycle::crash::{Deed, MarkKind, Point, Side};
use chiton_lifecycle::extension::StepError;
use chiton_lifecycle::journal::DriverCall;
use chiton_model::Phase;
use chiton_testkit::{Act, Call, DriverSpec, ExtensionScript, Lab, What};

use crate::cell::{Driver, Setting, settings};
use crate::run::{Rehearsal, rehearse};

/// What an operator does by hand, and what a gateway does at its start.
fn by_hand() -> Vec<Point> {
    let mut lab = Lab::new(9)
        .driver(DriverSpec::new("fake"))
        .driver(DriverSpec::new("other"))
        .extension(ExtensionScript::everywhere("first"));
    lab.start();
    let (id, _) = lab.create("one");
    // What runs is made reachable again.
    lab.restart();
    // A cleanup that is closed by hand.
    lab.script("first").always(Phase::AfterDelete, Act::Refuse(StepError::fatal("scripted")));
    lab.delete_sandbox(&id).expect("a delete is accepted");
    let owed = lab.journal().obligations().remove(0).id;
    let (engine, principal) = (lab.engine(), lab.request().principal);
    lab.block_on(async move { engine.discharge(principal, owed, true).await }).expect("it is closed");
    // A sandbox whose driver is gone is forgotten.
    let (id, _) = lab.create("two");
    lab.crash();
    lab.remove_driver("fake");
    lab.allow_missing();
    lab.start();
    let (engine, request) = (lab.engine(), lab.request());
    lab.block_on(async move { engine.delete(request, id, true).await }).expect("it is forgotten");
    lab.ledger().reached()
}

/// An older copy of a store meets what the store made since, and begins a new life.
fn put_back() -> Vec<Point> {
    let mut lab = Lab::new(9).driver(DriverSpec::new("fake"));
    lab.start();
    let older = lab.journal().backup();
    lab.create("one");
    lab.crash();
    lab.journal().restore(&older);
    lab.start();
    lab.ledger().reached()
}

/// Every operation with a chain of two and with none, once.
fn rehearsals() -> &'static [(Setting, Rehearsal)] {
    static ALL: OnceLock<Vec<(Setting, Rehearsal)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let some = settings().into_iter().filter(|setting| matches!(setting.chain, 0 | 2));
        some.filter(|setting| setting.driver != Driver::Remote).map(|setting| (setting, rehearse(setting))).collect()
    })
}

#[test]
fn every_crash_point_is_reached_and_every_reached_one_is_listed() {
    let listed: BTreeSet<Point> = Point::all().into_iter().collect();
    let mut reached: BTreeSet<Point> = by_hand().into_iter().chain(put_back()).collect();
    reached.extend(rehearsals().iter().flat_map(|(_, rehearsal)| &rehearsal.reached));
    let unlisted: Vec<String> = reached.difference(&listed).map(ToString::to_string).collect();
    let unreached: Vec<String> = listed.difference(&reached).map(ToString::to_string).collect();
    assert!(unlisted.is_empty() && unreached.is_empty(), "not listed: {unlisted:#?}\nnever reached: {unreached:#?}");
}

/// What a point or an entry of the ledger is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Commit,
    Mark(MarkKind),
    Hook(Phase),
    Driver(DriverCall),
}

/// A place or a happening; none for what has no effect.
fn kind_of(what: &What) -> Option<Kind> {
    Some(match what {
        What::Commit(_) | What::CommitFailed(_) => Kind::Commit,
        What::Mark(mark) => Kind::Mark(MarkKind::of(&mark.event)),
        What::HookBegin(hook) => Kind::Hook(hook.phase),
        What::Sweep { .. } => Kind::Hook(Phase::Sweep),
        What::CallBegin { kind, .. } => Kind::Driver(match kind {
            Call::Prepare => DriverCall::Prepare,
            Call::Create => DriverCall::Create,
            Call::Start => DriverCall::Start,
            Call::Stop => DriverCall::Stop,
            Call::Delete => DriverCall::Delete,
            Call::EnsureWorkspace => DriverCall::EnsureWorkspace,
            Call::ReleaseWorkspace => DriverCall::ReleaseWorkspace,
            Call::Backend | Call::Plan | Call::Validate | Call::Get | Call::List => return None,
        }),
        _ => return None,
    })
}

#[test]
fn nothing_is_written_and_nothing_has_effects_outside_of_a_pair_of_points() {
    for (setting, rehearsal) in rehearsals() {
        let mut announced: BTreeMap<Kind, i64> = BTreeMap::new();
        for point in rehearsal.reached.iter().filter(|point| point.side == Side::Before) {
            let kind = match point.deed {
                Deed::Commit(_) => Kind::Commit,
                Deed::Mark(mark) => Kind::Mark(mark),
                Deed::Hook(phase) => Kind::Hook(phase),
                // No call: it is the wait for one.
                Deed::Driver(DriverCall::Ready) | Deed::AgentOpened | Deed::AgentClosed => continue,
                Deed::Driver(call) => Kind::Driver(call),
            };
            *announced.entry(kind).or_default() += 1;
        }
        for entry in &rehearsal.entries {
            if let Some(kind) = kind_of(&entry.what) {
                *announced.entry(kind).or_default() -= 1;
            }
        }
        announced.retain(|_, count| *count != 0);
        assert!(announced.is_empty(), "{setting:?}: announced and done differ: {announced:?}");
    }
}

#[test]
fn a_placed_crash_comes_before_the_next_thing_that_could_be_seen() {
    let mut lab = Lab::new(3).driver(DriverSpec::new("fake")).extension(ExtensionScript::everywhere("first"));
    lab.start();
    let placed = lab.ledger().moments() + 10;
    lab.ledger().crash_at(placed);
    assert!(lab.ask_create("one").is_none() || !lab.advance(Duration::from_mins(1)), "the crash came");
    assert_eq!(lab.ledger().moments(), placed, "nothing happened after it");
}
