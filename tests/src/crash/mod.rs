//! A gateway that is killed over and over while much is asked of it, and the look at the machine between: whatever the
//! kills interrupted, everything on the machine is owned by a sandbox, undone, or owed by a listed obligation.
//!
//! - [`platform`]: what to look for on a driver; the rest is the same for all; `containers`: on container engines
//! - [`process`]: the program under test
//! - [`report`]: what a run found
//! - [`leftovers`]: what is on the machine, looked for without asking the gateway
//! - `load`: mixed operations from several clients; `audit`: the look; `run`: kills, restarts, and the end

mod audit;
mod containers;
pub mod leftovers;
mod load;
pub mod platform;
pub mod process;
pub mod report;
mod run;

use std::path::PathBuf;
use std::time::Duration;

pub use report::Report;
pub use run::run;

const LEASES: &str = "leases";
const NETNS: &str = "netns";
const EFFECTS: &str = "effects";

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
    /// At one in so many kills the engine that the driver drives is killed, too, and started again; 0: never. It must be the
    /// run's own.
    pub engine_kills: u64,
    /// How long a create or start whose answer was lost may still land on an engine; nothing of it is released before.
    pub late: Duration,
    /// At the end, waits until nothing can land any more, and everything is released; it does so in any case when that is
    /// soon.
    pub wait_late: bool,
    /// Says on standard error what it does.
    pub verbose: bool,
}

/// The gateway's config: every extension has effects of its own, except the first, which only writes into plans.
fn config(folder: &std::path::Path, platform: &dyn platform::Platform, late: Duration) -> String {
    let folder = folder.display();
    let late = late.as_secs();
    let (driver, range, driver_block) = (platform.id(), platform.range(), platform.config());
    format!(
        r#"[compute]
drivers = ["{driver}"]
late_effects = "{late}s"
extensions = ["fleet-labels", "address-lease", "netns", "fault", "noop"]
[compute.extension."fleet-labels"]
labels = {{ fleet = "crash" }}
[compute.extension."address-lease"]
range = "{range}"
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
