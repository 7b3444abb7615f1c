//! `config check` and `config show`.

use std::process::ExitCode;

use chiton_gateway::Plugins;
use chiton_gateway::config::{Chosen, Config, Drivers, NoDriver, default_config_text};
use chiton_model::Error;
use chiton_proto::v1 as wire;
use serde_json::json;

use super::gateway::{configuration, errors};
use super::{Context, answer, on_runtime};
use crate::cli::{ConfigCommand, SourceArgs};
use crate::output::{self, Table};

pub(super) fn run(plugins: &Plugins, cx: &Context, command: ConfigCommand) -> ExitCode {
    match command {
        ConfigCommand::Check(args) => check(plugins, cx, args),
        ConfigCommand::Show { default: true, .. } => {
            output::line(default_config_text().trim_end());
            ExitCode::SUCCESS
        }
        ConfigCommand::Show { sources, origin, .. } => {
            let named = sources.config.is_some()
                || sources.data_dir.is_some()
                || !sources.listen.is_empty()
                || !sources.driver.is_empty()
                || sources.compute_driver_socket.is_some();
            if named { show_sources(plugins, cx, sources, origin) } else { show_running(cx, origin) }
        }
    }
}

/// What a look at the machine gave, in words.
pub(super) fn detected(chosen: &Chosen) -> String {
    let found = chosen.detected.as_deref().unwrap_or("as configured");
    format!("no driver is configured: here and now {} would be used ({found})", chosen.default_driver)
}

/// The drivers of a start here and now; none when they are configured, and a start needs no look at the machine.
fn looked(plugins: &Plugins, config: &Config) -> Option<Result<Chosen, NoDriver>> {
    matches!(config.compute.drivers, Drivers::Detect(_)).then(|| config.choose(plugins))
}

/// A file is as sound on a machine without any driver: it may be meant for another, or for later. So that is said, and is
/// no failure.
fn check(plugins: &Plugins, cx: &Context, args: SourceArgs) -> ExitCode {
    let config = match configuration(plugins, args) {
        Ok(config) => config,
        Err(found) => return output::fail_all(&errors(&found), cx.json),
    };
    let looked = looked(plugins, &config);
    if cx.json {
        let mut answer = json!({ "ok": true });
        if let Some(looked) = looked {
            answer["detected"] = match looked {
                Ok(chosen) => json!({ "driver": chosen.default_driver.as_str(), "found": chosen.detected }),
                Err(none) => {
                    let tried = none
                        .tried
                        .iter()
                        .map(|(kind, error)| json!({ "driver": kind, "message": error.message, "cure": error.cure }));
                    json!({ "driver": null, "tried": tried.collect::<Vec<_>>() })
                }
            };
        }
        output::document(&answer);
        return ExitCode::SUCCESS;
    }
    output::line("the configuration is sound");
    match looked {
        None => {}
        Some(Ok(chosen)) => output::line(&detected(&chosen)),
        Some(Err(none)) => output::note(&Error::from(none).message),
    }
    ExitCode::SUCCESS
}

fn show_sources(plugins: &Plugins, cx: &Context, args: SourceArgs, origin: bool) -> ExitCode {
    match configuration(plugins, args) {
        Ok(config) => {
            let shown = match looked(plugins, &config) {
                None => config.origins().to_vec(),
                Some(Ok(chosen)) => chosen.origins(&config),
                Some(Err(none)) => {
                    output::note(&Error::from(none).message);
                    config.origins().to_vec()
                }
            };
            let values = shown.into_iter().map(|shown| (shown.key, shown.value, shown.origin.to_string()));
            print(cx.json, origin, &values.collect::<Vec<_>>());
            ExitCode::SUCCESS
        }
        Err(found) => output::fail_all(&errors(&found), cx.json),
    }
}

fn show_running(cx: &Context, origin: bool) -> ExitCode {
    on_runtime(cx.json, async {
        let mut client = cx.connect().await?;
        let answer = answer(client.get_config(wire::GetConfigRequest {})).await?;
        let values: Vec<_> = answer.values.into_iter().map(|value| (value.key, value.value, value.origin)).collect();
        print(cx.json, origin, &values);
        Ok(ExitCode::SUCCESS)
    })
}

fn print(json: bool, origin: bool, values: &[(String, String, String)]) {
    if json {
        let list: Vec<_> =
            values.iter().map(|(key, value, origin)| json!({ "key": key, "value": value, "origin": origin })).collect();
        output::document(&json!(list));
    } else if origin {
        let mut table = Table::new(&["KEY", "VALUE", "SET BY"]);
        for (key, value, origin) in values {
            table.row([key, value, origin]);
        }
        output::line(&table.text());
    } else {
        for (key, value, _) in values {
            output::line(&format!("{key} = {value}"));
        }
    }
}
