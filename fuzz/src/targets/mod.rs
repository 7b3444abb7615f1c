//! The targets.

mod agent_file;
mod agent_tar;
mod cli_tar;
mod cli_words;
mod config;
mod driver_config;
mod frames;
mod image_layer;
mod marks;
mod monitor;
mod paper;
mod plan;
mod requests;
mod rows;
mod status;
mod tars;
mod words;

/// One decoder, or some that read the same kind of bytes.
#[derive(Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// What it reads, and where that comes from.
    pub about: &'static str,
    /// Panics when a property does not hold for these bytes.
    pub run: fn(&[u8]),
    /// Inputs to begin with: sound ones.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words that mean something in an input.
    pub words: &'static [&'static str],
    /// The longest input, in bytes.
    pub longest: usize,
    /// How many inputs a short run has: about a second of an unoptimized build.
    pub short: u64,
    /// The memory that an input may take: so many bytes for each of its own, and so many besides.
    pub memory: (usize, usize),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    agent_file::TARGET,
    agent_tar::TARGET,
    cli_tar::TARGET,
    cli_words::TARGET,
    config::TARGET,
    driver_config::TARGET,
    frames::TARGET,
    image_layer::TARGET,
    marks::TARGET,
    monitor::TARGET,
    plan::TARGET,
    requests::TARGET,
    rows::TARGET,
    status::TARGET,
    words::TARGET,
];

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
