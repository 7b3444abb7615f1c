//! `doctor`: what this machine offers, what is missing, and the cure.

use std::process::ExitCode;

use chiton_gateway::{Finding, Plugins};
use serde_json::json;

use super::gateway::{configuration, errors};
use crate::cli::{DoctorArgs, GatewayArgs};
use crate::output::{self, one_line};

/// What every driver finds, by kind.
pub(super) fn look(plugins: &Plugins) -> Vec<(&'static str, Vec<Finding>)> {
    plugins.drivers.values().map(|kind| (kind.kind, (kind.doctor)(&json!({})))).collect()
}

/// What is missing, as lines.
pub(super) fn missing(found: &[(&'static str, Vec<Finding>)]) -> Vec<String> {
    let bad = found.iter().flat_map(|(_, findings)| findings).filter(|finding| !finding.ok);
    bad.map(|finding| format!("{}: {}\n  cure: {}", finding.check, finding.detail, finding.cure)).collect()
}

pub(super) fn run(plugins: &Plugins, args: &DoctorArgs, json: bool) -> ExitCode {
    let found = look(plugins);
    let config = args.config.clone().map(|config| {
        let args = GatewayArgs {
            config: Some(config),
            data_dir: None,
            listen: Vec::new(),
            driver: Vec::new(),
            adopt_epoch: None,
        };
        configuration(plugins, args).map(drop).map_err(|found| errors(&found))
    });
    let sound = missing(&found).is_empty() && config.as_ref().is_none_or(Result::is_ok);
    if json {
        let drivers: serde_json::Map<_, _> =
            found.iter().map(|(kind, findings)| ((*kind).to_owned(), json!(findings))).collect();
        let config = config.map(|config| config.err().unwrap_or_default());
        output::document(&json!({ "ok": sound, "drivers": drivers, "config": config }));
    } else {
        for (kind, findings) in &found {
            output::line(&format!("driver {kind}"));
            for finding in findings {
                let mark = if finding.ok { "ok     " } else { "MISSING" };
                output::line(&format!("  {mark}  {}: {}", one_line(&finding.check), one_line(&finding.detail)));
                if !finding.ok {
                    output::line(&format!("           cure: {}", one_line(&finding.cure)));
                }
            }
        }
        if let Some(Err(errors)) = &config {
            output::fail_all(errors, false);
        }
        output::line(if sound { "this machine has what is needed" } else { "something is missing" });
    }
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
