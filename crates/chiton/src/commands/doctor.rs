//! `doctor`: what this machine offers to the drivers that are configured, or to every kind when none is; what state the
//! store is in, what is missing, and the cure. Changes nothing.

use std::process::ExitCode;

use chiton_gateway::compose::store_folder;
use chiton_gateway::config::{Chosen, Config, Drivers, EXTERNAL_KIND, NoDriver};
use chiton_gateway::{Finding, Plugins};
use chiton_model::{DriverId, Error};
use chiton_store::{Level, StoreFinding, examine};
use serde_json::{Value, json};

use super::backup::configured;
use super::config::detected;
use crate::cli::{DoctorArgs, FolderArgs};
use crate::output::{self, one_line};

/// What one driver finds.
struct Look {
    id: String,
    kind: String,
    /// Whether a gateway would use it; what another one lacks is told and is no fault.
    used: bool,
    findings: Vec<Finding>,
}

impl Look {
    fn title(&self) -> String {
        let kind = if self.id == self.kind { String::new() } else { format!(", kind {}", self.kind) };
        let unused = if self.used { "" } else { " (not used: none is configured, and another can run)" };
        format!("driver {}{kind}{unused}", self.id)
    }
}

/// What is missing, as lines.
pub(super) fn missing<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Vec<String> {
    let bad = findings.into_iter().filter(|finding| !finding.ok);
    bad.map(|finding| format!("{}: {}\n  cure: {}", finding.check, finding.detail, finding.cure)).collect()
}

/// The drivers that are configured, or every kind when none is; and what was detected in that case.
fn look(plugins: &Plugins, config: Option<&Config>) -> (Vec<Look>, Option<Result<Chosen, NoDriver>>) {
    let find =
        |kind: &str, options: &Value| plugins.driver_kind(kind).map(|kind| (kind.doctor)(options)).unwrap_or_default();
    let Some(config) = config else {
        // What is wrong with the configuration is told; the machine can be looked at all the same. An external driver is
        // nowhere without its config.
        let every = plugins.drivers().iter().filter(|kind| kind.kind != EXTERNAL_KIND).map(|kind| Look {
            id: kind.kind.to_owned(),
            kind: kind.kind.to_owned(),
            used: true,
            findings: (kind.doctor)(&json!({})),
        });
        return (every.collect(), None);
    };
    let (drivers, choice) = match &config.compute.drivers {
        Drivers::Listed { drivers, .. } => (drivers, None),
        Drivers::Detect(candidates) => (candidates, Some(config.choose(plugins))),
    };
    let used = |id: &DriverId| match &choice {
        Some(Ok(chosen)) => chosen.default_driver == *id,
        // Any of them would do, and none does.
        Some(Err(_)) | None => true,
    };
    let looks = drivers.iter().map(|driver| Look {
        id: driver.id.to_string(),
        kind: driver.kind.clone(),
        used: used(&driver.id),
        findings: find(&driver.kind, &driver.options),
    });
    (looks.collect(), choice)
}

pub(super) fn run(plugins: &Plugins, args: &DoctorArgs, json: bool) -> ExitCode {
    let folder = FolderArgs { config: args.config.clone(), data_dir: args.data_dir.clone() };
    let configured = configured(plugins, &folder);
    let (drivers, choice) = look(plugins, configured.as_ref().ok());
    let (config, store) = match configured {
        Ok(config) => (Vec::new(), examine(&store_folder(&config.gateway.data_dir))),
        // Without a configuration only a folder that is named can be looked at.
        Err(errors) => (errors, args.data_dir.iter().flat_map(|folder| examine(&store_folder(folder))).collect()),
    };
    let none = match &choice {
        Some(Err(none)) => Some(Error::from(none.clone())),
        _ => None,
    };
    let sound = missing(drivers.iter().filter(|look| look.used).flat_map(|look| &look.findings)).is_empty()
        && none.is_none()
        && config.is_empty()
        && store.iter().all(|finding: &StoreFinding| finding.level != Level::Bad);
    if json {
        let by_id: serde_json::Map<_, _> = drivers.iter().map(|look| (look.id.clone(), json!(look.findings))).collect();
        let used: Vec<&str> = drivers.iter().filter(|look| look.used).map(|look| look.id.as_str()).collect();
        let detected = choice.and_then(Result::ok).and_then(|chosen| chosen.detected);
        // Where none can run, none is used.
        let used = if none.is_some() { Vec::new() } else { used };
        output::document(&json!({
            "ok": sound, "drivers": by_id, "used": used, "detected": detected, "config": config, "store": store,
        }));
    } else {
        print(&drivers, &config, &store);
        match (&none, choice) {
            (Some(error), _) => {
                output::fail(error, false);
            }
            (None, Some(Ok(chosen))) => output::line(&detected(&chosen)),
            _ => {}
        }
        output::line(if sound { "nothing is missing" } else { "something is missing or wrong" });
    }
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(drivers: &[Look], config: &[Error], store: &[StoreFinding]) {
    let say = |mark: &str, check: &str, detail: &str, cure: &str| {
        output::line(&format!("  {mark:7}  {}: {}", one_line(check), one_line(detail)));
        if !cure.is_empty() {
            output::line(&format!("           cure: {}", one_line(cure)));
        }
    };
    for look in drivers {
        output::line(&look.title());
        for finding in &look.findings {
            // What works and could do more says how.
            let mark = match (finding.ok, finding.cure.is_empty()) {
                (true, true) => "ok",
                (true, false) => "note",
                (false, _) if look.used => "MISSING",
                (false, _) => "missing",
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
