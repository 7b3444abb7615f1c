//! A gateway that is killed over and over while much is asked of it, and the look at the machine between: whatever the
//! kills interrupted, everything on the machine is owned by a sandbox, undone, or owed by a listed obligation.
//!
//! - [`platform`]: what to look for on a driver; the rest is the same for all
//! - [`process`]: the program under test
//! - [`report`]: what a run found
//! - [`leftovers`]: what is on the machine, looked for without asking the gateway
//! - `load`: mixed operations from several clients; `audit`: the look; `run`: kills, restarts, and the end

mod audit;
pub mod leftovers;
mod load;
pub mod platform;
pub mod process;
pub mod report;
mod run;

use std::path::PathBuf;

pub use report::Report;
pub use run::run;

const LEASES: &str = "leases";
const NETNS: &str = "netns";
const EFFECTS: &str = "effects";

/// How long an engine on this machine may work on a create whose caller was killed.
const LATE: &str = "5s";

/// What a run is to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The gateway: a distribution with the extensions of this crate.
    pub program: PathBuf,
    /// The driver's id.
    pub driver: String,
    /// How often the gateway is killed.
    pub kills: u64,
    /// Decides every choice. What the machine does in the meantime is its own.
    pub seed: u64,
    /// The world is looked at after every so many kills.
    pub audit_every: u64,
    /// Says on standard error what it does.
    pub verbose: bool,
}

/// The gateway's config: every extension has effects of its own, except the first, which only writes into plans.
fn config(folder: &std::path::Path, driver: &str, driver_block: &str) -> String {
    let folder = folder.display();
    format!(
        r#"[compute]
drivers = ["{driver}"]
late_effects = "{LATE}"
extensions = ["fleet-labels", "address-lease", "netns", "fault", "noop"]
[compute.extension."fleet-labels"]
labels = {{ fleet = "crash" }}
[compute.extension."address-lease"]
range = "10.88.0.2-10.88.0.254"
folder = "{folder}/{LEASES}"
[compute.extension."netns"]
folder = "{folder}/{NETNS}"
[compute.extension."fault"]
folder = "{folder}"
[compute.policy."address-lease"]
reconcile = "authoritative"
[compute.policy."netns"]
reconcile = "authoritative"
[compute.policy."fault"]
deadline = "500ms"
[reconcile]
interval = "1s"
[sweep]
interval = "1s"
grace = "1s"
[log]
format = "json"
{driver_block}"#
    )
}
