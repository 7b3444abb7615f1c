//! Seeded faults: each is found by the family that its author would look at, under the right rule.

use chiton_model::Phase;
use chiton_testkit::conformance::{Check, Family, Finding, Kit, Rule};

use crate::tickets::{Flaw, flawed};

fn findings(flaw: Flaw, family: Family, phase: Option<Phase>) -> Vec<Finding> {
    Kit::new(flawed(flaw), crate::bench).check(Check { family, phase })
}

macro_rules! seeded {
    ($($name:ident: $flaw:ident, $family:ident $($phase:ident)? => $($rule:ident)|+;)+) => {$(
        #[test]
        fn $name() {
            #[allow(unused_mut, unused_assignments)]
            let mut phase = None;
            $(phase = Some(Phase::$phase);)?
            let found = findings(Flaw::$flaw, Family::$family, phase);
            assert!(!found.is_empty(), "nothing is found");
            for finding in &found {
                assert!(matches!(finding.rule, $(Rule::$rule)|+), "found under another rule: {finding}");
            }
            let sound = findings(Flaw::None, Family::$family, phase);
            assert!(sound.is_empty(), "found without the fault, too: {sound:?}");
        }
    )+};
}

seeded! {
    a_leak_on_failure: LeaksOnFailure, FailEach AfterCreate => Undo;
    a_leak_on_a_crash_that_a_destructor_would_have_prevented: CleansInDestructor, CrashEach BeforeCreate => Undo;
    the_same_leak_by_a_crash_anywhere: CleansInDestructor, Leaks => Undo;
    an_action_that_fails_when_it_is_called_again: NotIdempotent, RepeatEach BeforeCreate => Again;
    an_action_that_makes_another_when_it_is_called_again: MakesAnother, RepeatEach BeforeCreate => Again;
    a_cleanup_that_needs_state: NeedsState, CleanupWithoutState AfterDelete => Stateless;
    a_cleanup_that_needs_state_after_a_crash: NeedsState, CrashEach BeforeCreate => Undo;
    blocking_work_that_goes_on: LeavesWork, NoDetachedWork BeforeCreate => Detached;
    a_thread_that_goes_on: LeavesThread, NoDetachedWork BeforeCreate => Detached;
    a_plan_with_a_counter: CountsPlans, Purity PreparePlan => Pure;
    a_plan_in_a_hash_maps_order: HashOrder, Purity PreparePlan => Pure;
    a_validator_with_an_effect: ValidatorWrites, Purity ValidateRequest => Pure;
    a_veto_with_an_effect: VetoWrites, Purity ApproveStop => Pure;
    a_slot_that_is_not_filled: ForgetsSlot, Slots => Slots | Calm;
    a_cleanup_that_panics_on_maybe: PanicsOnMaybe, CleanupOfNothing AfterStop => Calm | Undo | Nothing;
    a_cleanup_that_ignores_maybe: IgnoresMaybe, CrashEach AfterCreate => Undo;
    a_cleanup_that_needs_something_to_clean: CleanupNeedsSomething, CleanupOfNothing OnCreateFailed => Nothing | Undo;
    a_cleanup_that_fails_the_second_time: CleanupNeedsSomething, RepeatEachCleanup AfterDelete => Nothing | Undo;
    state_that_is_read_in_another_form: StateOfAnotherForm, StateRoundTrip => State;
    old_state_that_is_not_read: ClaimsOldState, StateRoundTrip => State;
    effects_by_name: KeyedByName, KeyedById => Keyed;
    a_reconcile_that_releases: ReconcileReleases, Reconcile => Reconcile;
    a_reconcile_that_mends_without_leave: ReconcileMends, Reconcile => Reconcile;
    a_reconcile_that_lies: ReconcileLies, Reconcile => Reconcile;
    a_release_of_the_living: SweepsTheLiving, Sweep => Sweep;
    a_held_that_lists_nothing: HidesHeld, Sweep => Sweep | Undo;
    a_config_that_takes_anything: LaxConfig, Config => Config;
    a_build_with_an_effect: BuildWrites, Config => Config;
    something_made_where_nothing_is_owed: LeavesAtDelete, Calm => Undo;
    a_hook_that_never_returns: Hangs, Calm => Calm;
}
