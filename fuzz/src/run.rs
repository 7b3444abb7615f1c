//! From a seed to inputs, and what happens when one fails.
//!
//! A run is a function of target, seed and number of inputs: the same three give the same inputs, in this process or in
//! another, as long as target and starting inputs are the same. Input number n is reached by making the n before it,
//! which a replay does too.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use peak_alloc::PeakAlloc;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng as _};

use crate::behaviour;
use crate::mutate::mutate;
use crate::targets::Target;

/// The longest that one input may take, on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(10);
/// Inputs that are kept besides those that a run begins with.
const KEPT: usize = 2_000;

/// When a run ends.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// After so many inputs.
    pub inputs: u64,
    /// After this time.
    pub time: Duration,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// The target's name.
    pub target: &'static str,
    /// The seed.
    pub seed: u64,
    /// How many inputs were run.
    pub inputs: u64,
    /// How many ways there were in which one was answered.
    pub behaviours: usize,
    /// How long it took.
    pub took: Duration,
    /// The most memory that one input took, in bytes, if the program counts it.
    pub peak: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.inputs * 1_000 / u64::try_from(self.took.as_millis().max(1)).unwrap_or(u64::MAX);
        write!(
            f,
            "{:<12} seed {} inputs {:>9} ({rate}/s) behaviours {:>5} peak {} KiB",
            self.target,
            self.seed,
            self.inputs,
            self.behaviours,
            self.peak >> 10
        )
    }
}

/// An input for which a property does not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What the target said.
    pub what: String,
    /// The target's name.
    pub target: &'static str,
    /// The seed.
    pub seed: u64,
    /// Which input of the run it was, from 0.
    pub number: u64,
    /// The input.
    pub input: Vec<u8>,
}

impl Failure {
    /// Puts the input into a file below the temporary folder, from where it can be run again alone.
    pub fn keep(&self) -> std::io::Result<PathBuf> {
        let folder = std::env::temp_dir().join("chiton-fuzz");
        fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{}-{}-{}", self.target, self.seed, self.number));
        fs::write(&path, &self.input)?;
        Ok(path)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, target, seed, number, input } = self;
        writeln!(f, "{target}: input {number} of seed {seed}: {what}")?;
        writeln!(f, "  input ({} bytes): {}", input.len(), shown(input))?;
        write!(f, "  again: cargo run -p chiton-fuzz -- {target} --seed {seed} --inputs {}", number + 1)?;
        match self.keep() {
            Ok(path) => write!(f, "\n  alone: cargo run -p chiton-fuzz -- {target} --input {}", path.display()),
            Err(error) => write!(f, "\n  the input could not be kept: {error}"),
        }
    }
}

fn shown(input: &[u8]) -> String {
    let mut text = input[..input.len().min(400)].escape_ascii().to_string();
    if input.len() > 400 {
        text.push('…');
    }
    text
}

/// Runs one input. Gives its behaviour and the memory that it took, or what the target said.
pub fn once(target: &Target, input: &[u8]) -> Result<(u64, usize), String> {
    behaviour::take();
    PeakAlloc.reset_peak_usage();
    let before = PeakAlloc.current_usage();
    let begin = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let (took, peak) = (begin.elapsed(), PeakAlloc.peak_usage().saturating_sub(before));
    if let Err(panic) = result {
        let text = panic.downcast_ref::<String>().cloned();
        return Err(text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default());
    }
    let allowed = target.memory.0 * input.len() + target.memory.1;
    if peak > allowed {
        return Err(format!("an input of {} bytes took {peak} bytes of memory, allowed are {allowed}", input.len()));
    }
    if took > PATIENCE {
        return Err(format!("an input of {} bytes took {took:?}", input.len()));
    }
    Ok((behaviour::take(), peak))
}

/// Runs a target from a seed.
pub fn run(target: &'static Target, seed: u64, limit: Limit) -> Result<Report, Box<Failure>> {
    let begin = Instant::now();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut kept: Vec<Vec<u8>> = (target.seeds)();
    kept.push(Vec::new());
    let given = kept.len();
    let (mut behaviours, mut most, mut number) = (HashSet::new(), 0, 0_u64);
    while number < limit.inputs && begin.elapsed() < limit.time {
        #[expect(clippy::single_match_else, reason = "what is given and what is made are of equal rank")]
        let input = match usize::try_from(number).ok().filter(|number| *number < given) {
            Some(nth) => kept[nth].clone(),
            None => {
                // Newer ones a little more often: they are what was reached last.
                let from = if rng.random_ratio(1, 3) { kept.len().saturating_sub(64) } else { 0 };
                let mut input = kept[rng.random_range(from..kept.len())].clone();
                mutate(&mut input, &kept, target.words, target.longest, &mut rng);
                input
            }
        };
        let (behaviour, peak) = once(target, &input)
            .map_err(|what| Box::new(Failure { what, target: target.name, seed, number, input: input.clone() }))?;
        most = most.max(peak);
        if behaviours.insert(behaviour) && number >= given as u64 && kept.len() < given + KEPT {
            kept.push(input);
        }
        number += 1;
    }
    Ok(Report {
        target: target.name,
        seed,
        inputs: number,
        behaviours: behaviours.len(),
        took: begin.elapsed(),
        peak: most,
    })
}
