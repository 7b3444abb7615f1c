//! What can be wrong with a profile, and what can go wrong when it is applied.

/// A profile that is none. Messages say what and why; [`ProfileError::cure`] says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// A name that is no system call.
    #[error("{name:?} is not a system call that this version knows")]
    UnknownSyscall {
        /// As it was given.
        name: String,
        /// The nearest known name.
        nearest: Option<&'static str>,
    },
    /// A call without which no sandbox starts.
    #[error("{0:?} cannot be denied: a sandbox cannot be started or reached without it")]
    Needed(String),
    /// The same call in two lists.
    #[error("system call {0:?} stands in two lists of the profile")]
    Twice(String),
    /// A limited call without an alternative: it would be allowed whatever its arguments are.
    #[error("system call {0:?} is limited to nothing")]
    NoAlternative(String),
    /// A condition that cannot be read.
    #[error("{0:?} is not a condition on arguments")]
    Condition(String),
    /// A path that is not plain.
    #[error("path {0:?} is not an absolute path without \"..\"")]
    Path(String),
    /// More rules than a filter may have instructions.
    #[error("the profile does not fit into a filter: {0}")]
    TooLarge(String),
    /// A processor without a table.
    #[error("there is no system call table for the processor {0:?}")]
    Arch(String),
    /// A compiled program that cannot be read back.
    #[error("the compiled filter is damaged")]
    Damaged,
}

impl ProfileError {
    /// What to do about it.
    pub fn cure(&self) -> String {
        match self {
            Self::UnknownSyscall { nearest: Some(name), .. } => format!("did you mean {name:?}?"),
            Self::UnknownSyscall { nearest: None, .. } => {
                "use the kernel's name, as in section 2 of the manual".to_owned()
            }
            Self::Needed(_) => "leave it out of the list".to_owned(),
            Self::Twice(_) => "name each call once".to_owned(),
            Self::NoAlternative(_) => "give it a condition, or leave it out so that it is refused".to_owned(),
            Self::Condition(_) => {
                "write conditions as \"arg0 == 0x1\", \"arg1 != 0x2\" or \"arg2 & 0xf == 0x3\", joined by \" && \""
                    .to_owned()
            }
            Self::Path(_) => "write the path from \"/\" without detours".to_owned(),
            Self::TooLarge(_) => "use fewer conditions".to_owned(),
            Self::Arch(_) => "run the gateway on x86_64 or aarch64".to_owned(),
            Self::Damaged => "report it: the driver made the filter itself".to_owned(),
        }
    }
}

/// A profile that could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The kernel did not take the filter.
    #[error("the seccomp filter was not installed: {0}")]
    Seccomp(String),
    /// A path rule could not be made: the path is not in the sandbox, or a link stands in it.
    #[error("path {path:?} of the Landlock rules cannot be used: {why}")]
    Path {
        /// The path.
        path: String,
        /// What the kernel says.
        why: String,
    },
    /// The rules were not taken.
    #[error("the Landlock rules were not installed: {0}")]
    Landlock(String),
    /// The plan asks for all of it and this kernel has less.
    #[error(
        "the plan requires its Landlock rules and this kernel enforces them {0}; run Linux 6.12 or newer with Landlock, or do not require it"
    )]
    Partial(crate::Held),
}
