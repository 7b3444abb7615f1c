//! `doctor`: what this machine offers, what state the store is in, what is missing, and the cure. Changes nothing.

use std::process::ExitCode;

use chiton_gateway::compose::store_folder;
use chiton_gateway::{Finding, Plugins};
use chiton_model::Error;
use chiton_store::{Level, StoreFinding, examine};
use serde_json::json;

use super::backup::configured;
use crate::cli::{DoctorArgs, FolderArgs};
use crate::output::{self, one_line};

/// What every driver finds, by kind.
pub(super) fn look(plugins: &Plugins) -> Vec<(&'static str, Vec<Finding>)> {
    plugins.drivers().iter().map(|kind| (kind.kind, (kind.doctor)(&json!({})))).collect()
}

/// What is missing, as lines.
pub(super) fn missing(found: &[(&'static str, Vec<Finding>)]) -> Vec<String> {
    let bad = found.iter().flat_map(|(_, findings)| findings).filter(|finding| !finding.ok);
    bad.map(|finding| format!("{}: {}\n  cure: {}", finding.check, finding.detail, finding.cure)).collect()
}

pub(super) fn run(plugins: &Plugins, args: &DoctorArgs, json: bool) -> ExitCode {
    let drivers = look(plugins);
    let folder = FolderArgs { config: args.config.clone(), data_dir: args.data_dir.clone() };
    let (config, store) = match configured(plugins, &folder) {
        Ok(config) => (Vec::new(), examine(&store_folder(&config.gateway.data_dir))),
        // Without a configuration only a folder that is named can be looked at.
        Err(errors) => (errors, args.data_dir.iter().flat_map(|folder| examine(&store_folder(folder))).collect()),
    };
    let sound = missing(&drivers).is_empty()
        && config.is_empty()
        && store.iter().all(|finding: &StoreFinding| finding.level != Level::Bad);
    if json {
        let by_kind: serde_json::Map<_, _> =
            drivers.iter().map(|(kind, findings)| ((*kind).to_owned(), json!(findings))).collect();
        output::document(&json!({ "ok": sound, "drivers": by_kind, "config": config, "store": store }));
    } else {
        print(&drivers, &config, &store);
        output::line(if sound { "nothing is missing" } else { "something is missing or wrong" });
    }
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(drivers: &[(&'static str, Vec<Finding>)], config: &[Error], store: &[StoreFinding]) {
    let say = |mark: &str, check: &str, detail: &str, cure: &str| {
        output::line(&format!("  {mark:7}  {}: {}", one_line(check), one_line(detail)));
        if !cure.is_empty() {
            output::line(&format!("           cure: {}", one_line(cure)));
        }
    };
    for (kind, findings) in drivers {
        output::line(&format!("driver {kind}"));
        for finding in findings {
            // What works and could do more says how.
            let mark = match (finding.ok, finding.cure.is_empty()) {
                (true, true) => "ok",
                (true, false) => "note",
                (false, _) => "MISSING",
            };
            say(mark, &finding.check, &finding.detail, &finding.cure);
        }
    }
    if !config.is_empty() {
        output::fail_all(config, false);
    }
    if !store.is_empty() {
        output::line("store");
    }
    for finding in store {
        let mark = match finding.level {
            Level::Fine => "ok",
            Level::Note => "NOTE",
            Level::Bad => "BAD",
        };
        say(mark, finding.check, &finding.detail, &finding.cure);
    }
}
