//! What the driver can be told to do wrong.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use chiton_model::nearest;

macro_rules! faults {
    ($($variant:ident $name:literal: $about:literal,)+) => {
        /// One rule that is broken; [`Fault::about`] says how.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $(#[doc = $name] $variant,)+
        }

        impl Fault {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Its name, as options say it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What the driver does, for people.
            pub fn about(self) -> &'static str {
                match self { $(Self::$variant => $about,)+ }
            }
        }
    };
}

faults! {
    UnstableCapabilities "unstable-capabilities": "Says another backend at each question.",
    BadVersion "bad-version": "Has a version that is none.",
    BadName "bad-name": "Has a name with a line break in it.",
    NamesNoBackend "names-no-backend": "Speaks the contract's additions and names no backend.",
    HangsOnCapabilities "hangs-on-capabilities": "Never says what it can do.",
    HangsOnList "hangs-on-list": "Never answers a list.",
    StopUnimplemented "stop-unimplemented": "Answers UNIMPLEMENTED to stops, which are not optional.",
    Unhealthy "unhealthy": "Serves health and says that it does not serve.",
    BadRequirements "bad-requirements": "Asks the gateway to listen on something that is no address.",
    ValidateHasEffects "validate-has-effects": "Makes the sandbox when it is only asked whether it could.",
    ValidatesNothing "validates-nothing": "Accepts everything when it is asked whether it could make it.",
    HangsOnCreate "hangs-on-create": "Never answers a create.",
    LateCreate "late-create": "Answers creates after the time that they may take (61 s unless told).",
    HangsOnGet "hangs-on-get": "Never answers a get.",
    HangsOnDelete "hangs-on-delete": "Never answers a delete.",
    HangsOnStop "hangs-on-stop": "Never answers a stop.",
    HangsOnWatch "hangs-on-watch": "Opens watches and never says anything on them.",
    CreatesTwice "creates-twice": "Makes another object when a create is repeated.",
    RefusesCreates "refuses-creates": "Says of every create that something is in its way, and makes nothing.",
    RefusesRepeats "refuses-repeats": "Refuses a create that is repeated.",
    RecreatesDeleted "recreates-deleted": "Makes a sandbox of a deleted id again.",
    HalfMadeAfterRace "half-made-after-race": "Lists a sandbox that get does not know when a delete came before its create.",
    DeniesDeletion "denies-deletion": "Says of every delete that there was nothing.",
    ClaimsDeletion "claims-deletion": "Says of the delete of a sandbox that never was that it deleted it.",
    RefusesBusyDelete "refuses-busy-delete": "Refuses a delete while another of the same sandbox is under way.",
    RefusesRepeatedDelete "refuses-repeated-delete": "Answers NOT_FOUND to a delete of what is deleted.",
    KeepsDeleted "keeps-deleted": "Goes on telling of deleted sandboxes when it is asked by id.",
    DeletesOnStop "deletes-on-stop": "Deletes what it is told to stop.",
    StopOnce "stop-once": "Fails when it is to stop what is stopped.",
    NeverReady "never-ready": "Never says that a sandbox is ready.",
    LiesAboutReady "lies-about-ready": "Says of stopped sandboxes that they are ready.",
    ListDisagrees "list-disagrees": "Says in lists that sandboxes are not ready which are ready by get.",
    BadConditions "bad-conditions": "Writes statuses of conditions that are neither True, False nor Unknown.",
    StartsNothing "starts-nothing": "Answers starts of stopped sandboxes and does not start them.",
    StartOnce "start-once": "Fails when it is to start what runs.",
    WrongCodeForMissing "wrong-code-for-missing": "Answers INTERNAL when it is asked about a sandbox that does not exist.",
    WrongCodeForMalformed "wrong-code-for-malformed": "Answers INTERNAL to malformed creates.",
    BreaksOnOddLooks "breaks-on-odd-looks": "Answers INTERNAL when it is asked for an id that is none.",
    AcceptsNoSpec "accepts-no-spec": "Makes sandboxes of requests without a specification.",
    AcceptsPaths "accepts-paths": "Takes ids with slashes and dots in them.",
    AcceptsControl "accepts-control": "Takes ids with control characters in them.",
    AcceptsEmptyId "accepts-empty-id": "Takes creates without an id.",
    AcceptsNul "accepts-nul": "Takes commands and variables that no process can be given.",
    CutsLongNames "cuts-long-names": "Takes names of any length and keeps their beginning.",
    CrashesOnOddId "crashes-on-odd-id": "Crashes on an id with letters that are not ASCII.",
    CrashesOnGarbage "crashes-on-garbage": "Crashes on bytes that are no message.",
    RefusesUnknownFields "refuses-unknown-fields": "Refuses messages with fields that it does not know.",
    MixesUpNames "mixes-up-names": "Tells the name of another sandbox when it is asked for one by id.",
    GarblesNames "garbles-names": "Replaces letters that are not ASCII in names.",
    StripsControl "strips-control": "Leaves control characters out of names without a word.",
    BreaksOnUnicode "breaks-on-unicode": "Answers INTERNAL to commands with letters that are not ASCII.",
    GarblesLabels "garbles-labels": "Replaces letters that are not ASCII in labels.",
    LosesEnvironment "loses-environment": "Runs commands without the environment of the request.",
    GarblesArguments "garbles-arguments": "Joins what a script is called with by spaces and cuts it there again.",
    WrongExitCode "wrong-exit-code": "Says 0 whatever the main process ended with.",
    AcceptsNonsense "accepts-nonsense": "Takes quantities that are no numbers.",
    RefusesQuantities "refuses-quantities": "Calls every quantity with a suffix malformed.",
    IgnoresLimits "ignores-limits": "Takes memory limits and does not apply them.",
    AcceptsUnknownConfig "accepts-unknown-config": "Takes driver_config with keys that it does not know.",
    SilentAboutConfig "silent-about-config": "Refuses unknown keys of driver_config without naming any.",
    ShowsToken "shows-token": "Shows a sandbox's token to everybody who asks.",
    TokenInMessages "token-in-messages": "Repeats the request with its token in refusals.",
    ShowsSecretEnvironment "shows-secret-environment": "Shows a sandbox's secret variables.",
    EnsureOnce "ensure-once": "Refuses a workspace that it has.",
    NoSnapshotOnReconnect "no-snapshot-on-reconnect": "Does not tell what an earlier watch was told.",
    NoSnapshotEnd "no-snapshot-end": "Never marks the end of a watch's snapshot.",
    EarlySnapshotEnd "early-snapshot-end": "Marks the end of the snapshot before it has told everything.",
    SilentAboutChanges "silent-about-changes": "Tells of new sandboxes and not of what becomes of them.",
    OneWatcher "one-watcher": "Tells news to one watcher at a time.",
    RepeatsDeleted "repeats-deleted": "Tells each deletion twice.",
    NeverTellsDeleted "never-tells-deleted": "Never tells a deletion.",
    TellsDeletedEarly "tells-deleted-early": "Tells a deletion before the sandbox is gone.",
    TellsOfForeign "tells-of-foreign": "Tells news of sandboxes that it does not have.",
    TellsOfRefused "tells-of-refused": "Tells news of a sandbox whose create it refuses.",
    LosesWhenSlow "loses-when-slow": "Drops news for whoever does not read at once.",
    ForgetsOnRestart "forgets-on-restart": "Has no sandboxes after a restart.",
    ForgetsDeletedOnRestart "forgets-deleted-on-restart": "Makes deleted ids again after a restart.",
    ForgetsNewestOnRestart "forgets-newest-on-restart": "Has lost the newest of its sandboxes after a restart, when there were five or more.",
    CreatesAnewAfterRestart "creates-anew-after-restart": "Makes another object when a create from before a restart is repeated.",
    NoSnapshotAfterRestart "no-snapshot-after-restart": "Tells watches nothing of what is from before a restart.",
    DoublesOnRestart "doubles-on-restart": "Lists everything twice after a restart.",
    Leaks "leaks": "Leaves something behind at each delete.",
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(fault) = Self::ALL.iter().find(|fault| fault.name() == text) {
            return Ok(*fault);
        }
        Err(match nearest(text, Self::ALL.iter().map(|fault| fault.name())) {
            Some(near) => format!("there is no fault {text:?}; did you mean {near:?}?"),
            None => format!("there is no fault {text:?}; --list-faults names them"),
        })
    }
}

/// The rules that a driver breaks.
#[derive(Clone, Debug, Default)]
pub struct Faults(BTreeSet<Fault>);

impl Faults {
    /// Whether this one is broken.
    pub fn has(&self, fault: Fault) -> bool {
        self.0.contains(&fault)
    }
}

impl FromIterator<Fault> for Faults {
    fn from_iter<I: IntoIterator<Item = Fault>>(faults: I) -> Self {
        Self(faults.into_iter().collect())
    }
}
