//! The kit finds each seeded fault by the cases that are about it, and by no others.

use std::collections::BTreeSet;

use chiton_driver_conform::CASES;
use chiton_driver_scripted::Fault;
use futures::stream::{self, StreamExt as _};

mod common;

use common::{Driver, hasty, patient};

/// How many drivers are tried at once: most of the time one waits.
const AT_ONCE: usize = 8;

/// The cases that must fail; all others pass, or are not tried because one of these failed.
fn finders(fault: Fault) -> &'static [&'static str] {
    use Fault as F;
    match fault {
        F::UnstableCapabilities => &["capabilities::are_stable"],
        F::BadVersion => &["capabilities::version_is_sound"],
        F::BadName => &["capabilities::name_is_sound"],
        F::NamesNoBackend => &["capabilities::backend_is_named"],
        F::HangsOnCapabilities => &["contract::answers"],
        F::HangsOnList => &["list::answers"],
        F::StopUnimplemented => &["contract::has_every_call"],
        F::Unhealthy => &["health::says_serving"],
        F::BadRequirements => &["listener::requirements_are_sound"],
        F::ValidateHasEffects => &["validate::changes_nothing"],
        F::ValidatesNothing => &["validate::refuses_malformed"],
        F::HangsOnCreate | F::LateCreate | F::RefusesCreates => &["create::is_answered"],
        F::HangsOnGet => &["get::finds_it"],
        F::HangsOnDelete => &["delete::removes_it"],
        F::HangsOnWatch => &["watch::begins_with_everything"],
        F::CreatesTwice | F::RefusesRepeats => &["create::again_changes_nothing", "create::eight_at_once_make_one"],
        F::RecreatesDeleted => &["delete::is_final"],
        F::HalfMadeAfterRace => &["race::create_and_delete_agree"],
        F::DeniesDeletion => &["delete::says_that_it_was_there"],
        F::ClaimsDeletion => &["delete::of_missing"],
        F::RefusesRepeatedDelete => &["delete::again"],
        F::RefusesBusyDelete => &["delete::eight_at_once"],
        F::KeepsDeleted => &["delete::ends_get"],
        F::HangsOnStop | F::DeletesOnStop => &["stop::keeps_it"],
        F::StopOnce => &["stop::again"],
        F::NeverReady => &["ready::comes"],
        F::LiesAboutReady => &["stop::ends_ready"],
        F::ListDisagrees => &["ready::is_the_same_everywhere"],
        F::BadConditions => &["status::is_sound"],
        F::StartsNothing => &["start::resumes"],
        F::StartOnce => &["start::of_running"],
        F::WrongCodeForMissing => &["get::of_missing", "stop::of_missing", "start::of_missing"],
        F::WrongCodeForMalformed => &[
            "malformed::no_sandbox",
            "malformed::no_spec",
            "malformed::empty_id",
            "malformed::ids_that_are_paths",
            "malformed::ids_with_control_characters",
            "malformed::nul_in_processes",
            "malformed::names_of_ten_kilobytes",
            "text::control_characters_in_names",
            "quantity::nonsense_is_refused",
            "config::unknown_keys_are_refused",
        ],
        F::BreaksOnOddLooks => &["malformed::looks_with_odd_ids"],
        F::AcceptsNoSpec => &["malformed::no_spec"],
        F::AcceptsPaths => &["malformed::ids_that_are_paths", "validate::refuses_malformed"],
        F::AcceptsControl => &["malformed::ids_with_control_characters"],
        F::AcceptsEmptyId => &["malformed::empty_id"],
        F::AcceptsNul => &["malformed::nul_in_processes"],
        F::CutsLongNames => &["malformed::names_of_ten_kilobytes"],
        F::CrashesOnOddId => &["malformed::odd_ids_are_survived"],
        F::CrashesOnGarbage => &["wire::garbage_is_survived"],
        F::RefusesUnknownFields => &["wire::unknown_fields_are_tolerated"],
        F::MixesUpNames => &["get::tells_of_the_one_asked_for"],
        F::GarblesNames => &["text::unicode_in_names"],
        F::StripsControl => &["text::control_characters_in_names"],
        F::BreaksOnUnicode => {
            &["text::unicode_in_processes", "process::arguments_arrive", "process::environment_arrives"]
        }
        F::GarblesLabels => &["text::unicode_in_labels"],
        F::LosesEnvironment => &["process::environment_arrives"],
        F::GarblesArguments => &["process::arguments_arrive"],
        F::WrongExitCode => &["process::exit_code_is_told"],
        F::AcceptsNonsense => &["quantity::nonsense_is_refused"],
        F::RefusesQuantities => &["quantity::sound_ones_are_understood"],
        F::IgnoresLimits => &["quantity::memory_is_applied_or_refused"],
        F::AcceptsUnknownConfig => &["config::unknown_keys_are_refused"],
        F::SilentAboutConfig => &["config::refusals_name_a_key"],
        F::ShowsToken => &["secret::token_is_not_shown"],
        F::TokenInMessages => &["secret::refusals_hide_the_token"],
        F::ShowsSecretEnvironment => &["secret::environment_is_not_shown"],
        F::EnsureOnce => &["workspace::calls_are_idempotent"],
        F::NoSnapshotOnReconnect => &["watch::begins_again_on_reconnect"],
        F::NoSnapshotEnd | F::EarlySnapshotEnd => &["watch::marks_the_snapshots_end"],
        F::SilentAboutChanges => &["watch::tells_of_changes"],
        F::OneWatcher => &["watch::serves_several"],
        F::RepeatsDeleted => &["watch::tells_deletions_once"],
        F::NeverTellsDeleted => &["watch::tells_deletions"],
        F::TellsDeletedEarly => &["watch::tells_deletions_when_they_are_over"],
        F::TellsOfForeign => &["watch::tells_of_nothing_foreign"],
        F::TellsOfRefused => &["watch::tells_nothing_of_refused_creates"],
        F::LosesWhenSlow => &["watch::slow_reader_has_the_final_state"],
        F::ForgetsOnRestart | F::DoublesOnRestart => &["restart::forgets_nothing"],
        F::ForgetsNewestOnRestart => &["restart::under_load"],
        F::CreatesAnewAfterRestart => &["restart::creates_stay_idempotent"],
        F::NoSnapshotAfterRestart => &["restart::watches_begin_with_everything"],
        F::ForgetsDeletedOnRestart => &["restart::deleted_stay_deleted"],
        F::Leaks => &["leak::nothing_is_left"],
    }
}

/// Whether a fault is found by what does not come. All others are found by what comes, which is waited for.
fn is_missed(fault: Fault) -> bool {
    use Fault as F;
    matches!(
        fault,
        F::HangsOnCapabilities
            | F::HangsOnList
            | F::HangsOnCreate
            | F::LateCreate
            | F::HangsOnGet
            | F::HangsOnDelete
            | F::HangsOnWatch
            | F::HangsOnStop
            | F::HalfMadeAfterRace
            | F::NeverReady
            | F::LiesAboutReady
            | F::ListDisagrees
            | F::StartsNothing
            | F::NoSnapshotOnReconnect
            | F::NoSnapshotEnd
            | F::SilentAboutChanges
            | F::OneWatcher
            | F::NeverTellsDeleted
            | F::TellsOfForeign
            | F::LosesWhenSlow
            | F::NoSnapshotAfterRestart
            | F::Leaks
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_is_found_by_the_cases_about_it_and_by_no_others() {
    let one = std::env::var("CONFORM_FAULT").ok();
    let faults = Fault::ALL.iter().filter(|fault| one.as_deref().is_none_or(|one| fault.name() == one));
    let wrong: Vec<String> = stream::iter(faults)
        .map(|fault| async move {
            let limits = if is_missed(*fault) { hasty() } else { patient() };
            let report = Driver::with(&[*fault]).report_within(limits).await;
            let (found, wanted) = (sorted(&report.failed()), sorted(finders(*fault)));
            // What a race may show besides.
            let besides = sorted(if *fault == Fault::RefusesRepeatedDelete { &["delete::eight_at_once"] } else { &[] });
            let right = found.is_superset(&wanted) && found.difference(&wanted).all(|case| besides.contains(case));
            (!right).then(|| format!("{fault}: found by {found:?}, not by {wanted:?}\n{report}"))
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn sorted<'a>(names: &[&'a str]) -> BTreeSet<&'a str> {
    names.iter().copied().collect()
}

#[test]
fn every_case_finds_a_fault() {
    let found: BTreeSet<&str> = Fault::ALL.iter().flat_map(|fault| finders(*fault)).copied().collect();
    let idle: Vec<&str> = CASES.iter().map(|case| case.name).filter(|name| !found.contains(name)).collect();
    assert!(idle.is_empty(), "no fault makes these fail: {idle:?}");
}
