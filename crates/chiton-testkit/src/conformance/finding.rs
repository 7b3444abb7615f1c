//! What the kit finds: which rule is broken, where, what was seen, and what to do about it.

use std::fmt;

use super::Check;

macro_rules! rules {
    ($($(#[$meta:meta])* $name:ident = $number:literal, $title:literal, $cure:literal;)+) => {
        /// The rules of `docs/extensions.md`, by their numbers there.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Rule { $($(#[$meta])* $name = $number,)+ }

        impl Rule {
            /// Every rule, in the guide's order.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its number in the guide.
            pub fn number(self) -> u32 {
                match self { $(Self::$name => $number,)+ }
            }

            /// Its words in the guide.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)+ }
            }

            /// What an author usually has to do.
            pub fn cure(self) -> &'static str {
                match self { $(Self::$name => $cure,)+ }
            }
        }
    };
}

rules! {
    /// Nothing goes wrong by itself.
    Calm = 1, "Left alone, every hook succeeds",
        "return an error only when the outside fails; do not unwrap what can be missing; do not wait for what may not come";
    /// By id.
    Keyed = 2, "Effects are keyed by the sandbox's id, never by its name",
        "derive every handle from cx.idempotency_key(\"…\") or cx.sandbox; names are used again";
    /// Called again.
    Again = 3, "Every hook can be called again",
        "look for what the first call made before making it, and answer the same; treat \"is there already\" and \"is gone already\" as success";
    /// Undone.
    Undo = 4, "Cleanup undoes whatever its actions may have done",
        "undo in on_create_failed AND after_delete what before_create and after_create do, in after_stop what before_start and after_ready do, and declare these phases; a destructor is no cleanup, because a crash runs none";
    /// Nothing to clean.
    Nothing = 5, "Cleanup succeeds when there is nothing to clean",
        "a cleanup may come with Ran::Maybe although the action never ran: look what is there, and succeed when nothing is";
    /// Without state.
    Stateless = 6, "Cleanup works without saved state",
        "find what to undo by cx.sandbox or cx.idempotency_key(\"…\"); state may be lost with the machine, so it can only be a shortcut";
    /// Nothing goes on.
    Detached = 7, "Nothing is left running when a hook returns",
        "await what cx.blocking(…) returns to its end; spawn no threads or tasks of your own";
    /// Pure.
    Pure = 8, "validate_request, prepare_plan, validate_plan and approve_stop are pure",
        "take everything from the request and the config: no clock, no random numbers, no hash map's order, no counter, no file; act in before_create";
    /// Slots.
    Slots = 9, "before_create fills exactly the slots that prepare_plan declared",
        "return one value for each draft.slot(\"…\"), under the same name, and declare before_create";
    /// State.
    State = 10, "Saved state can be read by the version that wrote it and by those that say so",
        "save and read one type with serde; a change of its form needs another state_schema, and reads_schemas for what you still read";
    /// Reconcile.
    Reconcile = 11, "reconcile reports the truth, and changes something only if cx.may_repair()",
        "compare and answer InSync or Drift; mend only when cx.may_repair(), and then answer Repaired; save state, or it is never called";
    /// Sweep.
    Sweep = 12, "held names every sandbox that something is held for, and release frees exactly what it is told",
        "list what the outside has, not what memory has; in release touch only the given ids, and succeed for one that holds nothing";
    /// Config.
    Config = 13, "The config is strict, and neither checking nor building has an effect",
        "#[serde(deny_unknown_fields)] on the config; make folders and connections in hooks";
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {} ({})", self.number(), self.title())
    }
}

/// One breach of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// What had been done to the extension.
    pub place: String,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is broken\n  where: {}\n  what:  {}\n  cure:  {}",
            self.rule,
            self.place,
            self.what,
            self.rule.cure()
        )
    }
}

/// What one check found, for a person.
pub(super) struct Report<'a> {
    pub(super) extension: &'a str,
    pub(super) check: Check,
    pub(super) findings: &'a [Finding],
    pub(super) history: Option<&'a str>,
}

/// So many findings are shown; what follows is nearly always the same thing again.
const SHOWN: usize = 4;

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.findings.len();
        writeln!(
            f,
            "extension {:?}: {} has {count} findings; the rules are in docs/extensions.md",
            self.extension, self.check
        )?;
        for finding in self.findings.iter().take(SHOWN) {
            writeln!(f, "\n{finding}")?;
        }
        if count > SHOWN {
            writeln!(f, "\n… and {} more", count - SHOWN)?;
        }
        match self.history {
            Some(history) => write!(f, "\nwhat happened up to the first finding:\n{history}"),
            None => Ok(()),
        }
    }
}
