//! `config check` and `config show`.

use std::process::ExitCode;

use chiton_gateway::Plugins;
use chiton_gateway::config::default_config_text;
use chiton_proto::v1 as wire;
use serde_json::json;

use super::gateway::{configuration, errors};
use super::{Context, answer, on_runtime};
use crate::cli::{ConfigCommand, GatewayArgs};
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
                || !sources.driver.is_empty();
            if named { show_sources(plugins, cx, sources, origin) } else { show_running(cx, origin) }
        }
    }
}

fn check(plugins: &Plugins, cx: &Context, args: GatewayArgs) -> ExitCode {
    match configuration(plugins, args) {
        Ok(_) if cx.json => {
            output::document(&json!({ "ok": true }));
            ExitCode::SUCCESS
        }
        Ok(_) => {
            output::line("the configuration is sound");
            ExitCode::SUCCESS
        }
        Err(found) => output::fail_all(&errors(&found), cx.json),
    }
}

fn show_sources(plugins: &Plugins, cx: &Context, args: GatewayArgs, origin: bool) -> ExitCode {
    match configuration(plugins, args) {
        Ok(config) => {
            let values =
                config.origins().iter().map(|shown| (shown.key.clone(), shown.value.clone(), shown.origin.to_string()));
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
