//! From a profile to the kernel's filter program.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::check::{Alternative, Check};
use crate::error::ProfileError;
use crate::seccomp::{Errno, Seccomp};
use crate::table::{Row, TABLE};

/// A processor with a table of system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

impl Arch {
    /// That of this program.
    pub fn current() -> Result<Self, ProfileError> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::X86_64),
            "aarch64" => Ok(Self::Aarch64),
            other => Err(ProfileError::Arch(other.to_owned())),
        }
    }

    fn target(self) -> TargetArch {
        match self {
            Self::X86_64 => TargetArch::x86_64,
            Self::Aarch64 => TargetArch::aarch64,
        }
    }

    /// `AUDIT_ARCH_…` of linux/audit.h.
    fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    fn number(self, row: &Row) -> Option<u32> {
        match self {
            Self::X86_64 => row.1,
            Self::Aarch64 => row.2,
        }
    }

    /// A call's number here.
    pub fn syscall(self, name: &str) -> Option<u32> {
        let index = TABLE.binary_search_by_key(&name, |row| row.0).ok()?;
        self.number(&TABLE[index])
    }
}

/// A compiled profile, for one processor. As text it is 16 hexadecimal digits an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program(pub(crate) BpfProgram);

// Instructions of the classic packet filter (linux/bpf_common.h), the fields of `struct seccomp_data` and the answers
// (linux/seccomp.h).
const LOAD_WORD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_NOT_LESS: u16 = 0x35;
const RETURN: u16 = 0x06;
const NUMBER_OFFSET: u32 = 0;
const ARCH_OFFSET: u32 = 4;
const ANSWER_KILL: u32 = 0x8000_0000;
const ANSWER_ERRNO: u32 = 0x0005_0000;
const ANSWER_ALLOW: u32 = 0x7fff_0000;
/// The most instructions that the kernel takes.
const LONGEST: usize = 4096;

/// What becomes of a call by its number alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Answer(u32),
    LookAtArguments,
}

impl Seccomp {
    /// Compiles it.
    ///
    /// The kernel runs a new filter once for every number to learn which are always allowed, so that a long one makes
    /// each start slower: numbers are found by bisection, and only the calls that are limited get to the rules.
    pub fn compile(&self, arch: Arch) -> Result<Program, ProfileError> {
        self.check()?;
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for (name, alternatives) in &self.limited {
            if let Some(number) = arch.syscall(name) {
                let compiled: Result<Vec<_>, _> = alternatives.iter().map(rule).collect();
                rules.insert(number.into(), compiled?);
            }
        }
        let refusal = SeccompAction::Errno(self.default.number());
        let filter = SeccompFilter::new(rules, refusal, SeccompAction::Allow, arch.target()).map_err(too_large)?;
        let limited = BpfProgram::try_from(filter).map_err(too_large)?;
        let mut program = vec![
            statement(LOAD_WORD, ARCH_OFFSET),
            sock_filter { code: JUMP_IF_EQUAL, jt: 1, jf: 0, k: arch.audit() },
            statement(RETURN, ANSWER_KILL),
            statement(LOAD_WORD, NUMBER_OFFSET),
        ];
        program.extend(bisect(&self.ranges(arch), 0));
        program.extend(limited);
        if program.len() > LONGEST {
            return Err(ProfileError::TooLarge(format!("{} instructions", program.len())));
        }
        Ok(Program(program))
    }

    /// Where verdicts begin, in order; each holds up to the next. The last one is for numbers that are in no table,
    /// which those of the x32 ABI are too.
    fn ranges(&self, arch: Arch) -> Vec<(u32, Verdict)> {
        let verdicts: BTreeMap<u32, Verdict> = TABLE
            .iter()
            .filter_map(|row| {
                let verdict = if self.allow.contains(row.0) {
                    Verdict::Answer(ANSWER_ALLOW)
                } else if self.limited.contains_key(row.0) {
                    Verdict::LookAtArguments
                } else if self.absent.contains(row.0) {
                    Verdict::Answer(ANSWER_ERRNO | Errno::NotImplemented.number())
                } else {
                    Verdict::Answer(ANSWER_ERRNO | self.default.number())
                };
                Some((arch.number(row)?, verdict))
            })
            .collect();
        let unknown = Verdict::Answer(ANSWER_ERRNO | Errno::NotImplemented.number());
        let end = verdicts.last_key_value().map_or(0, |(last, _)| last + 1);
        let mut ranges: Vec<(u32, Verdict)> = Vec::new();
        for number in 0..=end {
            let verdict = verdicts.get(&number).copied().unwrap_or(unknown);
            if ranges.last().is_none_or(|(_, before)| *before != verdict) {
                ranges.push((number, verdict));
            }
        }
        ranges
    }
}

/// Finds a number's range and answers. `after` is how many instructions follow before those that look at arguments.
fn bisect(ranges: &[(u32, Verdict)], after: usize) -> BpfProgram {
    // A program of more than `LONGEST` instructions is refused before it is used.
    let distance = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    match ranges {
        [] => Vec::new(),
        [(_, Verdict::Answer(answer))] => vec![statement(RETURN, *answer)],
        [(_, Verdict::LookAtArguments)] => vec![statement(JUMP, distance(after))],
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let right = bisect(high, after);
            let left = bisect(low, after + right.len());
            let mut program = match u8::try_from(left.len()) {
                Ok(left) => vec![sock_filter { code: JUMP_IF_NOT_LESS, jt: left, jf: 0, k: high[0].0 }],
                // Conditional jumps are short.
                Err(_) => vec![
                    sock_filter { code: JUMP_IF_NOT_LESS, jt: 0, jf: 1, k: high[0].0 },
                    statement(JUMP, distance(left.len())),
                ],
            };
            program.extend(left);
            program.extend(right);
            program
        }
    }
}

fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn too_large(error: impl std::fmt::Display) -> ProfileError {
    ProfileError::TooLarge(error.to_string())
}

fn rule(alternative: &Alternative) -> Result<SeccompRule, ProfileError> {
    let conditions = alternative.checks().iter().map(|check| {
        let (arg, operator, value) = match *check {
            Check::Equal { arg, value } => (arg, SeccompCmpOp::Eq, value),
            Check::Differs { arg, value } => (arg, SeccompCmpOp::Ne, value),
            Check::Masked { arg, mask, value } => (arg, SeccompCmpOp::MaskedEq(mask.into()), value),
        };
        SeccompCondition::new(arg, SeccompCmpArgLen::Dword, operator, value.into())
    });
    conditions.collect::<Result<Vec<_>, _>>().and_then(SeccompRule::new).map_err(too_large)
}

impl Program {
    /// How many instructions it has.
    pub fn instructions(&self) -> usize {
        self.0.len()
    }

    fn word(instruction: &sock_filter) -> u64 {
        u64::from(instruction.code) << 48
            | u64::from(instruction.jt) << 40
            | u64::from(instruction.jf) << 32
            | u64::from(instruction.k)
    }

    fn read(text: &str) -> Option<Self> {
        if text.is_empty() || !text.is_ascii() || !text.len().is_multiple_of(16) {
            return None;
        }
        let words = text.as_bytes().chunks(16).map(|digits| {
            let word = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
            let [high, low, jt, jf, k @ ..] = word.to_be_bytes();
            Some(sock_filter { code: u16::from_be_bytes([high, low]), jt, jf, k: u32::from_be_bytes(k) })
        });
        words.collect::<Option<_>>().map(Self)
    }
}

impl Serialize for Program {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(self.0.len() * 16);
        for instruction in &self.0 {
            write!(text, "{:016x}", Self::word(instruction)).map_err(serde::ser::Error::custom)?;
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Program {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::read(&text).ok_or_else(|| serde::de::Error::custom(ProfileError::Damaged))
    }
}
