//! Configuration: flags over environment over file over defaults, every error at once, every origin kept.
//!
//! A gateway with a wrong setting must not start, and whoever wrote it should have to look only once. So loading is a
//! pure function of its sources, in three steps that each go on after an error: the sources become one tree whose values
//! know where they were set, the tree is held against the one table of known keys, and each section is
//! decoded. Tables that belong to drivers and extensions are checked by them, through [`Catalog`], before any of them
//! is constructed; what they find is reported at the line it is about.
//!
//! Which driver runs when the operator named none is a question to the machine and no part of loading: [`Config::choose`]
//! asks it, once for each start.

mod catalog;
mod compute;
mod defaults;
mod detect;
mod drivers;
mod duration;
mod error;
mod external;
mod gateway;
mod keys;
mod policy;
mod processes;
mod reader;
mod secrets;
mod shape;
mod sources;
mod supervisor;
mod tree;
mod types;

#[cfg(test)]
mod tests;

pub use defaults::default_config_text;
pub use detect::{Chosen, NoDriver};
pub use error::{ConfigError, Origin};
pub use external::EXTERNAL_KIND;
pub use gateway::default_socket;
pub use reader::Shown;
pub use sources::{Flags, MAX_FILE, Sources, read};
pub use types::{
    Catalog, ComputeConfig, Config, DriverConfig, Drivers, GatewayConfig, Listener, LogConfig, LogFormat,
    MetricsListen, ProcessConfig, SecretRef, SecretSource, SupervisorConfig,
};

use std::time::Duration;

use reader::{Notes, Section};
use tree::Node;

/// Makes a configuration, or says everything that is wrong: by line in the file, then environment, then flags.
pub fn load(sources: &Sources, catalog: &dyn Catalog) -> Result<Config, Vec<ConfigError>> {
    let mut notes = Notes::default();
    let mut root = match &sources.file {
        None => Node::table(Origin::Default),
        Some((path, text)) if text.len() > MAX_FILE => return Err(vec![sources::too_large(path)]),
        Some((path, text)) => match tree::parse(path, text) {
            Ok(root) => root,
            Err(error) => {
                notes.errors.push(error);
                Node::table(Origin::Default)
            }
        },
    };
    let file_is_sound = notes.errors.is_empty();
    shape::check(&mut root, "", "", &mut notes.errors);
    sources::overlay(&mut root, sources, &mut notes.errors);
    external::write_out(&mut root, sources, &catalog.driver_kinds(), &mut notes.errors);
    // Without the file nearly everything else would be a false alarm.
    let config = if file_is_sound { decode(&root, sources, catalog, &mut notes) } else { None };
    notes.errors.sort_by(|a, b| a.origin.cmp(&b.origin));
    match config {
        Some(config) if notes.errors.is_empty() => Ok(config),
        _ => Err(notes.errors),
    }
}

fn decode(root: &Node, sources: &Sources, catalog: &dyn Catalog, notes: &mut Notes) -> Option<Config> {
    let root = Section::root(root);
    let gateway = gateway::gateway(&root, sources, notes);
    let compute = compute::compute(&root, catalog, notes);
    let secrets = secrets::secrets(&root, sources, notes);
    let log = gateway::log(&root, notes);
    let interval = |notes: &mut Notes, section: &str, key: &str, default| {
        root.section(section).duration(notes, key, default, gateway::SHORTEST_INTERVAL)
    };
    let reconcile_interval = interval(notes, "reconcile", "interval", Duration::from_mins(5));
    let sweep_interval = interval(notes, "sweep", "interval", Duration::from_mins(5));
    let sweep_grace = interval(notes, "sweep", "grace", Duration::from_mins(10));
    let listen = gateway.as_ref().map_or(&[][..], |gateway| &gateway.listen);
    let metrics = gateway::metrics(&root, sources, listen, notes);
    let supervisor = supervisor::supervisor(&root, sources, notes);
    let mut shown = std::mem::take(&mut notes.shown);
    shown.sort_by(|a, b| a.key.cmp(&b.key));
    Some(Config {
        gateway: gateway?,
        compute: compute?,
        secrets,
        log,
        reconcile_interval,
        sweep_interval,
        sweep_grace,
        supervisor: supervisor?,
        metrics,
        shown,
    })
}
