//! `drivers`: what the gateway's drivers are, offer, and whether they can be reached.

use std::process::ExitCode;

use chiton_model::{Error, nearest};
use chiton_proto::v1 as wire;
use jiff::Timestamp;
use serde_json::json;

use super::look::since;
use super::{Context, answer};
use crate::cli::{DriversArgs, DriversCommand};
use crate::output::{self, Table, one_line};

pub(super) async fn run(cx: &Context, args: DriversArgs) -> Result<ExitCode, Error> {
    let drivers = answer(cx.connect().await?.list_drivers(wire::ListDriversRequest {})).await?.drivers;
    match args.command.unwrap_or(DriversCommand::List(args.list)) {
        DriversCommand::List(_) if cx.json => {
            output::document(&json!(drivers.iter().map(output::driver).collect::<Vec<_>>()));
        }
        DriversCommand::List(list) => output::line(&table(&drivers, list.wide, Timestamp::now()).text()),
        DriversCommand::Get { id } => {
            let driver = drivers.iter().find(|driver| driver.id == id).ok_or_else(|| unknown(&id, &drivers))?;
            if cx.json {
                output::document(&output::driver(driver));
            } else {
                output::line(&block(driver, Timestamp::now()));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn unknown(id: &str, drivers: &[wire::Driver]) -> Error {
    let known = || drivers.iter().map(|driver| driver.id.as_str());
    let near = nearest(id, known()).map(|near| format!("did you mean {near:?}? ")).unwrap_or_default();
    let known: Vec<&str> = known().collect();
    Error::not_found(format!("driver {id:?} is not configured on this gateway"))
        .cure(format!("{near}configured: {}", known.join(", ")))
}

/// What it calls itself, and whether that was said by another process.
fn kind(driver: &wire::Driver) -> String {
    match (driver.kind.as_str(), driver.socket.is_empty()) {
        (kind, true) => kind.to_owned(),
        ("external", false) => "external".to_owned(),
        (kind, false) => format!("{kind} (external)"),
    }
}

/// Whether it can be reached, and since when.
fn reach(driver: &wire::Driver, now: Timestamp) -> String {
    let word = if driver.unavailable.is_empty() { "reachable" } else { "unreachable" };
    driver.since.map_or_else(|| word.to_owned(), |at| format!("{word} for {}", since(Some(at), now)))
}

/// The same in one line with why not and the cure.
fn state(driver: &wire::Driver, now: Timestamp) -> String {
    let parts = [reach(driver, now), driver.unavailable.clone(), driver.cure.clone()];
    let mut parts = parts.iter().filter(|part| !part.is_empty());
    let first = parts.next().cloned().unwrap_or_default();
    let rest: Vec<&str> = parts.map(String::as_str).collect();
    if rest.is_empty() { first } else { format!("{first}: {}", rest.join("; ")) }
}

fn table(drivers: &[wire::Driver], wide: bool, now: Timestamp) -> Table {
    let narrow = ["ID", "KIND", "VERSION", "DEFAULT", "AGENT", "SANDBOXES"];
    let offers = ["POINTS", "LIMITS", "NETWORKS", "FEATURES"];
    let headings: Vec<&str> =
        if wide { [&narrow[..], &offers, &["STATE"]].concat() } else { [&narrow[..], &["STATE"]].concat() };
    let mut table = Table::new(&headings);
    for driver in drivers {
        let default = if driver.is_default { "yes" } else { "" };
        let sandboxes = driver.sandboxes.to_string();
        let state = state(driver, now);
        let kind = &*kind(driver);
        let (id, version, agent) = (&*driver.id, &*driver.version, &*driver.agent);
        if wide {
            let joined =
                [&driver.points, &driver.limits, &driver.networks, &driver.features].map(|words| words.join(","));
            let [points, limits, networks, features] = joined.each_ref().map(String::as_str);
            table.row([id, kind, version, default, agent, &sandboxes, points, limits, networks, features, &state]);
        } else {
            table.row([id, kind, version, default, agent, &sandboxes, &state]);
        }
    }
    table
}

/// A driver as a block of lines.
fn block(driver: &wire::Driver, now: Timestamp) -> String {
    let mut lines = Vec::new();
    let mut put = |name: &str, value: &str| {
        if !value.is_empty() {
            lines.push(format!("{name:<13} {}", one_line(value)));
        }
    };
    put("id", &driver.id);
    put("kind", &kind(driver));
    put("socket", &driver.socket);
    put("version", &driver.version);
    put("default", if driver.is_default { "yes" } else { "no" });
    put("agent", &driver.agent);
    put("sandboxes", &driver.sandboxes.to_string());
    put("state", &reach(driver, now));
    put("why", &driver.unavailable);
    put("cure", &driver.cure);
    put("backend", &driver.backend);
    put("image", &driver.default_image);
    put("lifecycle", if driver.gateway_manages_lifecycle { "stopped and started with the gateway" } else { "" });
    put("points", &driver.points.join(", "));
    put("limits", &driver.limits.join(", "));
    put("networks", &driver.networks.join(", "));
    put("features", &driver.features.join(", "));
    for rule in &driver.field_rules {
        put("field", &format!("{} {}", rule.path, rule.rule));
    }
    lines.join("\n")
}
