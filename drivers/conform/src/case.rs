//! The list of cases.

use std::time::Duration;

use futures::future::BoxFuture;

use crate::cases;
use crate::options::Limits;
use crate::stage::Stage;
use crate::verdict::Verdict;

/// A list of cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// The contract, call by call: [`CASES`].
    Wire,
    /// The promises of every driver, kept as a gateway uses it: `chiton_driver_suite::CASES`. Their names here begin with
    /// `behaviour::`.
    Behaviour,
}

impl Group {
    /// As options and reports say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::Behaviour => "behaviour",
        }
    }
}

/// What a case takes, from which its deadline follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Calls that look, and refusals.
    Look,
    /// The life of a few sandboxes.
    Life,
    /// Many sandboxes, or a restart.
    Many,
}

/// One rule of the contract.
#[derive(Clone, Copy)]
pub struct Case {
    /// `family::what_holds`; stable, reports and declarations use it.
    pub name: &'static str,
    /// The rule, as a sentence.
    pub about: &'static str,
    /// Where the rule is from.
    pub rule: &'static str,
    /// What it takes.
    pub effort: Effort,
    /// Cases that have to pass before this one says anything.
    pub after: &'static [&'static str],
    pub(crate) run: for<'a> fn(&'a Stage) -> BoxFuture<'a, Verdict>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Case {
    /// The case of a name.
    pub fn named(name: &str) -> Option<&'static Self> {
        CASES.iter().find(|case| case.name == name)
    }

    /// How long it may take in all; each call in it has a limit of its own.
    pub fn deadline(&self, limits: &Limits) -> Duration {
        let life = limits.create + limits.ready + limits.act + limits.delete * 2 + limits.event * 2;
        limits.dial
            + limits.call * 20
            + match self.effort {
                Effort::Look => Duration::ZERO,
                Effort::Life => life * 3,
                Effort::Many => life * 8,
            }
    }
}

/// The name here of a case of `chiton_driver_suite`.
pub(crate) fn behaviour(case: &str) -> String {
    format!("{}::{case}", Group::Behaviour.name())
}

/// Whether any group has a case of this name.
pub(crate) fn exists(name: &str) -> bool {
    names().any(|known| known == name)
}

/// The names of all cases of both groups.
pub(crate) fn names() -> impl Iterator<Item = String> {
    let suite = chiton_driver_suite::CASES.iter().map(|case| behaviour(case.name));
    CASES.iter().map(|case| case.name.to_owned()).chain(suite)
}

/// The cases of the wire whose name contains `filter`, and those that they need, in their order.
pub fn select(filter: &str) -> Vec<&'static Case> {
    chosen(CASES.iter().map(|case| case.name).filter(|name| name.contains(filter)).collect())
}

/// These and all that they need.
pub(crate) fn chosen(mut wanted: Vec<&'static str>) -> Vec<&'static Case> {
    let mut next = 0;
    while let Some(case) = wanted.get(next).and_then(|name| Case::named(name)) {
        wanted.extend(case.after);
        next += 1;
    }
    CASES.iter().filter(|case| wanted.contains(&case.name)).collect()
}

macro_rules! list {
    ($($family:ident { $($name:ident $effort:ident [$($after:literal)*] $rule:literal: $about:literal,)+ })+) => {
        /// Every case, in the order in which they run: what others need comes first.
        pub const CASES: &[Case] = &[$($(Case {
            name: concat!(stringify!($family), "::", stringify!($name)),
            about: $about,
            rule: $rule,
            effort: Effort::$effort,
            after: &[$($after,)*],
            run: |stage| Box::pin(cases::$family::$name(stage)),
        },)+)+];
    };
}

list! {
    contract {
        answers Look [] "compute_driver.proto: GetCapabilities":
            "says what it is, in time",
        has_every_call Look ["contract::answers"] "compute_driver.proto: UNIMPLEMENTED of optional calls":
            "answers UNIMPLEMENTED to none but the optional calls",
    }
    capabilities {
        are_stable Look ["contract::answers"] "compute_driver.proto: GetCapabilities":
            "says the same at every question and on every connection",
        name_is_sound Look ["contract::answers"] "compute_driver.proto: driver_name":
            "has a name of letters, digits, dots, hyphens and underscores",
        version_is_sound Look ["contract::answers"] "compute_driver.proto: driver_version, semver":
            "has a version by semver",
        backend_is_named Look ["contract::answers"] "compute_driver.proto: backend_id":
            "names the installation that it talks to, if it speaks the additions",
    }
    listener {
        requirements_are_sound Look ["contract::answers"] "compute_driver.proto: GetGatewayListenerRequirements":
            "asks for addresses that are addresses, each with a reason",
    }
    health {
        says_serving Look ["contract::answers"] "grpc.health.v1: Check":
            "says SERVING, if it serves health",
    }
    workspace {
        calls_are_idempotent Look ["contract::answers"] "compute_driver.proto: EnsureWorkspace, DeleteWorkspace":
            "prepares a workspace twice and removes it twice, if it knows workspaces",
    }
    list {
        answers Look ["contract::answers"] "compute_driver.proto: ListSandboxes":
            "lists what there is, in time",
    }
    create {
        is_answered Life ["list::answers"] "compute_driver.proto: CreateSandbox; drivers: create returns within its deadline":
            "answers a create in time, and the list has the sandbox once",
    }
    get {
        finds_it Life ["create::is_answered"] "compute_driver.proto: GetSandbox":
            "tells of a sandbox by its id, in time",
    }
    delete {
        removes_it Life ["create::is_answered"] "compute_driver.proto: DeleteSandbox":
            "answers a delete in time, and the sandbox goes",
    }
    create {
        again_changes_nothing Life ["delete::removes_it"] "compute_driver.proto: CreateSandbox is idempotent by id":
            "answers OK to a repeated create, and there is one sandbox",
        eight_at_once_make_one Life ["delete::removes_it"] "compute_driver.proto: CreateSandbox is idempotent by id":
            "makes one sandbox of eight creates at once",
    }
    get {
        of_missing Look ["get::finds_it"] "compute_driver.proto: GetSandbox, NOT_FOUND":
            "answers NOT_FOUND for a sandbox that never was",
        tells_of_the_one_asked_for Life ["get::finds_it" "delete::removes_it"] "compute_driver.proto: DriverSandbox":
            "tells id, name and workspace of the one that is asked for, by get and by list",
    }
    ready {
        comes Life ["get::finds_it" "delete::removes_it"] "compute_driver.proto: DriverSandboxStatus.conditions":
            "says Ready=True of a sandbox whose main process runs",
        is_the_same_everywhere Life ["ready::comes"] "compute_driver.proto: DriverSandboxStatus.conditions":
            "says it by list as by get",
    }
    stop {
        of_missing Look ["contract::has_every_call" "list::answers"] "compute_driver.proto: NOT_FOUND":
            "answers NOT_FOUND for a sandbox that never was",
        keeps_it Life ["contract::has_every_call" "get::finds_it" "delete::removes_it"] "compute_driver.proto: StopSandbox":
            "keeps a stopped sandbox",
        again Life ["stop::keeps_it"] "compute_driver.proto: StopSandbox is idempotent":
            "answers OK to the stop of a stopped sandbox",
        ends_ready Life ["stop::keeps_it" "ready::comes"] "compute_driver.proto: DriverSandboxStatus.conditions":
            "does not say Ready=True of a stopped sandbox",
    }
    start {
        of_missing Look ["contract::has_every_call" "list::answers"] "compute_driver.proto: NOT_FOUND":
            "answers NOT_FOUND for a sandbox that never was",
        of_running Life ["contract::has_every_call" "ready::comes"] "compute_driver.proto: StartSandbox is idempotent":
            "answers OK to the start of a sandbox that runs",
        resumes Life ["stop::ends_ready"] "compute_driver.proto: StartSandbox":
            "makes a stopped sandbox ready again",
    }
    status {
        is_sound Life ["stop::keeps_it"] "compute_driver.proto: DriverCondition":
            "writes conditions with types, with True, False or Unknown, and states that the contract knows",
    }
    delete {
        says_that_it_was_there Life ["delete::removes_it"] "compute_driver.proto: DeleteSandboxResponse.deleted":
            "answers deleted=true for a sandbox that is there",
        of_missing Look ["delete::removes_it"] "compute_driver.proto: DeleteSandboxResponse.deleted":
            "answers OK and deleted=false for a sandbox that never was",
        again Life ["delete::removes_it"] "compute_driver.proto: DeleteSandbox is idempotent":
            "answers OK and deleted=false for a sandbox that is gone",
        eight_at_once Life ["delete::removes_it"] "compute_driver.proto: DeleteSandbox is idempotent":
            "answers OK to eight deletes at once, and the sandbox goes",
        ends_get Life ["delete::removes_it" "get::of_missing"] "compute_driver.proto: GetSandbox, NOT_FOUND":
            "answers NOT_FOUND when it is asked for a deleted sandbox",
        is_final Life ["delete::removes_it" "get::finds_it"] "drivers: a deleted id is never created again":
            "refuses to make a deleted id again",
    }
    race {
        create_and_delete_agree Many ["delete::again" "delete::ends_get"] "drivers: create and delete are idempotent by id":
            "has a sandbox or has it not, by every call, after a create and a delete at once",
    }
    validate {
        changes_nothing Life ["delete::removes_it"] "compute_driver.proto: ValidateSandboxCreate has no effects":
            "accepts what it can make, and makes nothing",
        refuses_malformed Look ["contract::answers"] "compute_driver.proto: ValidateSandboxCreate":
            "refuses a missing sandbox and an id that is none",
    }
    malformed {
        no_sandbox Look ["create::is_answered"] "compute_driver.proto: INVALID_ARGUMENT":
            "refuses a create without a sandbox",
        no_spec Look ["create::is_answered"] "compute_driver.proto: INVALID_ARGUMENT":
            "refuses a create without a specification",
        empty_id Look ["create::is_answered"] "compute_driver.proto: INVALID_ARGUMENT":
            "refuses a create with an empty id",
        ids_that_are_paths Look ["create::is_answered"] "drivers: ids are checked before any library sees them":
            "refuses ids with slashes, and ids of dots",
        ids_with_control_characters Look ["create::is_answered"] "drivers: ids are checked before any library sees them":
            "refuses ids with NUL, line breaks and other control characters",
        nul_in_processes Look ["create::is_answered"] "execve(2): arguments and variables end at a NUL":
            "refuses NUL in commands and variables",
        names_of_ten_kilobytes Life ["get::finds_it" "delete::removes_it"] "conformance: text survives or is refused":
            "refuses ids of ten kilobytes, and refuses or keeps such names",
        looks_with_odd_ids Look ["get::of_missing"] "compute_driver.proto: INVALID_ARGUMENT, NOT_FOUND":
            "finds nothing by ids that are none",
        odd_ids_are_survived Look ["get::finds_it"] "conformance: no request ends the driver":
            "answers whatever an id is made of, and goes on",
    }
    wire {
        garbage_is_survived Look ["contract::answers"] "conformance: no request ends the driver":
            "refuses bytes that are no message, and goes on",
        unknown_fields_are_tolerated Life ["get::finds_it" "delete::removes_it"] "compute_driver.proto: unknown fields":
            "takes messages with fields that it does not know",
    }
    text {
        unicode_in_names Life ["get::finds_it" "delete::removes_it"] "conformance: text survives or is refused":
            "keeps names in any script, or refuses them",
        control_characters_in_names Life ["get::finds_it" "delete::removes_it"] "conformance: text survives or is refused":
            "keeps control characters in names, or refuses them",
        unicode_in_labels Life ["get::finds_it" "delete::removes_it"] "conformance: text survives or is refused":
            "keeps labels in any script, or refuses them",
        unicode_in_processes Life ["get::finds_it" "delete::removes_it"] "conformance: text survives or is refused":
            "keeps commands and variables in any script, or refuses them",
    }
    process {
        exit_code_is_told Life ["get::finds_it" "delete::removes_it"] "compute_driver.proto: DriverSandboxStatus.exit_code":
            "tells what the main process ended with, if it speaks the additions",
        environment_arrives Life ["process::exit_code_is_told"] "compute_driver.proto: DriverSandboxSpec.environment":
            "gives the main process the request's variables, byte for byte",
        arguments_arrive Life ["process::exit_code_is_told"] "compute_driver.proto: DriverSandboxSpec.command":
            "gives the main process the request's arguments, byte for byte",
    }
    quantity {
        nonsense_is_refused Look ["create::is_answered"] "compute_driver.proto: DriverResourceRequirements; INVALID_ARGUMENT":
            "refuses quantities that are no numbers, negative, without bounds or in units that are none",
        sound_ones_are_understood Life ["delete::removes_it"] "compute_driver.proto: DriverResourceRequirements":
            "does not call Kubernetes quantities malformed",
        memory_is_applied_or_refused Life ["process::exit_code_is_told"] "drivers: limits are applied or refused, never ignored":
            "lets no process have more memory than its limit, or refuses the limit",
    }
    config {
        unknown_keys_are_refused Look ["create::is_answered"] "drivers: driver_config is decoded strictly":
            "refuses driver_config with a key that it does not know",
        refusals_name_a_key Look ["config::unknown_keys_are_refused"] "drivers: unknown keys are errors with the nearest known key":
            "names the unknown key, or the keys that it knows",
    }
    secret {
        token_is_not_shown Life ["get::finds_it" "delete::removes_it"] "compute_driver.proto: sandbox_token is secret":
            "shows a sandbox's token by no call",
        environment_is_not_shown Life ["get::finds_it" "delete::removes_it"] "compute_driver.proto: secret_environment is secret":
            "shows secret variables by no call, if it takes them",
        refusals_hide_the_token Look ["create::is_answered"] "compute_driver.proto: sandbox_token is secret":
            "repeats no token in a refusal",
    }
    watch {
        begins_with_everything Life ["delete::removes_it"] "compute_driver.proto: WatchSandboxes":
            "tells of every sandbox that there is when a watch begins",
        marks_the_snapshots_end Life ["watch::begins_with_everything"] "compute_driver.proto: snapshot_end":
            "marks the snapshot's end once, after all that there was, if it speaks the additions",
        begins_again_on_reconnect Life ["watch::begins_with_everything"] "compute_driver.proto: WatchSandboxes":
            "tells everything again to a watch that begins again",
        tells_of_changes Life ["watch::begins_with_everything" "start::resumes"] "compute_driver.proto: WatchSandboxes":
            "tells when a sandbox becomes ready, stops and starts",
        tells_deletions Life ["watch::begins_with_everything"] "compute_driver.proto: WatchSandboxesDeletedEvent":
            "tells that a sandbox is deleted",
        tells_deletions_once Life ["watch::tells_deletions" "delete::again"] "compute_driver.proto: WatchSandboxesDeletedEvent":
            "tells each deletion once",
        tells_deletions_when_they_are_over Life ["watch::tells_deletions"] "drivers: absence is confirmed before anything is released":
            "tells a deletion when the sandbox is gone, and nothing of it afterwards",
        serves_several Life ["watch::tells_deletions"] "compute_driver.proto: WatchSandboxes":
            "tells three watchers the same",
        tells_of_nothing_foreign Life ["watch::tells_deletions" "get::finds_it"] "conformance: news is about what there is":
            "tells only of sandboxes that it has or had",
        tells_nothing_of_refused_creates Life ["watch::tells_deletions"] "conformance: news is about what there is":
            "tells nothing of a sandbox whose create it refused",
        slow_reader_has_the_final_state Many ["watch::tells_deletions"] "drivers: on lag, resync":
            "tells who reads late how things are at last",
    }
    restart {
        forgets_nothing Many ["delete::removes_it" "get::tells_of_the_one_asked_for"] "drivers: sandboxes outlive the driver's process":
            "has every sandbox once after a restart, and can delete it",
        creates_stay_idempotent Many ["restart::forgets_nothing" "create::again_changes_nothing"] "compute_driver.proto: CreateSandbox is idempotent by id":
            "answers OK to the repeated create of a sandbox from before a restart, and there is one; where the restart interrupted its \
             making and that was undone, it refuses and shows it as failed",
        watches_begin_with_everything Many ["restart::forgets_nothing" "watch::begins_again_on_reconnect"] "compute_driver.proto: WatchSandboxes":
            "tells of every sandbox from before a restart",
        deleted_stay_deleted Many ["delete::is_final"] "drivers: a deleted id is never created again":
            "refuses to make a deleted id again after a restart",
        under_load Many ["restart::forgets_nothing"] "compute_driver.proto: a call that was answered is over":
            "has after a restart what it answered OK for, and what it did not answer for can be deleted",
    }
    leak {
        nothing_is_left Life ["delete::removes_it"] "conformance: the list after the run is what it was before":
            "lists after the run what it listed before",
    }
}
