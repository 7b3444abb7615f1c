//! Applying profiles to the calling process.

use std::fmt;
use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::compile::Program;
use crate::error::ApplyError;
use crate::paths::{Landlock, Right, Scope, TcpRule};

/// The newest interface whose file rights are handled. Later ones add rights that no rule here gives, which would refuse
/// what programs use.
const FILES: ABI = ABI::V5;

/// How much of the Landlock rules the kernel holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// All.
    Fully,
    /// What this kernel can.
    Partly,
    /// Nothing.
    Not,
}

impl Held {
    fn word(self) -> &'static str {
        match self {
            Self::Fully => "fully",
            Self::Partly => "partly",
            Self::Not => "not",
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What holds from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enforced {
    /// Instructions of the system call filter.
    pub seccomp_instructions: usize,
    /// The path rules.
    pub landlock: Held,
    /// The kernel's Landlock interface; 0 without one.
    pub landlock_abi: i32,
}

/// What a process is to apply to itself, as it is handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confinement {
    /// System calls, compiled for this machine.
    pub seccomp: Program,
    /// Paths, as the process sees them.
    pub landlock: Landlock,
}

/// Confines the calling thread and all that it starts, for good: paths first, then system calls. Sets `no_new_privs`.
/// To be called by a process with one thread. An error may leave it half confined: it must end then.
pub fn apply(confinement: &Confinement) -> Result<Enforced, ApplyError> {
    let program = &confinement.seccomp;
    let (held, abi) = restrict(&confinement.landlock)?;
    seccompiler::apply_filter(&program.0).map_err(|error| ApplyError::Seccomp(error.to_string()))?;
    Ok(Enforced { seccomp_instructions: program.instructions(), landlock: held, landlock_abi: abi })
}

/// Whether this kernel can enforce all of the rules. Changes nothing.
pub fn enforceable(landlock: &Landlock) -> bool {
    ruleset(landlock, CompatLevel::HardRequirement).is_ok()
}

fn ruleset(landlock: &Landlock, level: CompatLevel) -> Result<RulesetCreated, RulesetError> {
    let mut ruleset = Ruleset::default().set_compatibility(level).handle_access(AccessFs::from_all(FILES))?;
    if landlock.tcp == TcpRule::Nothing {
        ruleset = ruleset.handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)?;
    }
    for scope in &landlock.scopes {
        ruleset = ruleset.scope(match scope {
            Scope::AbstractUnixSockets => landlock::Scope::AbstractUnixSocket,
            Scope::Signals => landlock::Scope::Signal,
        })?;
    }
    ruleset.create()
}

fn restrict(landlock: &Landlock) -> Result<(Held, i32), ApplyError> {
    let level = if landlock.required { CompatLevel::HardRequirement } else { CompatLevel::BestEffort };
    let failed = |error: RulesetError| ApplyError::Landlock(error.to_string());
    if landlock.required && !enforceable(landlock) {
        let some = ruleset(&Landlock { scopes: [].into(), tcp: TcpRule::Unchecked, ..landlock.clone() }, level).is_ok();
        return Err(ApplyError::Partial(if some { Held::Partly } else { Held::Not }));
    }
    let mut created = ruleset(landlock, level).map_err(failed)?;
    for rule in &landlock.rules {
        let opened = open(&rule.path).map_err(|error| ApplyError::Path {
            path: rule.path.clone(),
            why: if error == Errno::LOOP { "a link stands in it".to_owned() } else { error.to_string() },
        })?;
        let rights = rule.rights.iter().map(|right| rights(*right)).fold(BitFlags::EMPTY, |sum, some| sum | some);
        // What only a folder can give is left out where the path is a file; that is no weakening.
        let beneath = PathBeneath::new(opened, rights).set_compatibility(CompatLevel::BestEffort);
        created = created.add_rule(beneath).map_err(failed)?;
    }
    let status = created.restrict_self().map_err(failed)?;
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, kernel_abi } => kernel_abi.unwrap_or(effective_abi as i32),
        _ => 0,
    };
    let held = match status.ruleset {
        RulesetStatus::FullyEnforced => Held::Fully,
        RulesetStatus::PartiallyEnforced => Held::Partly,
        RulesetStatus::NotEnforced => Held::Not,
    };
    Ok((held, abi))
}

/// Opens a rule's path. A former run of the sandbox may have put a link there, which would move the rights to where it
/// points.
fn open(path: &str) -> Result<OwnedFd, Errno> {
    openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS)
}

fn rights(right: Right) -> BitFlags<AccessFs> {
    match right {
        Right::Execute => AccessFs::Execute.into(),
        Right::Read => AccessFs::ReadFile | AccessFs::ReadDir,
        Right::Write => AccessFs::WriteFile | AccessFs::Truncate,
        Right::Change => {
            AccessFs::MakeReg
                | AccessFs::MakeDir
                | AccessFs::MakeSym
                | AccessFs::MakeFifo
                | AccessFs::MakeSock
                | AccessFs::RemoveFile
                | AccessFs::RemoveDir
                | AccessFs::Refer
        }
        Right::Devices => AccessFs::IoctlDev.into(),
    }
}
