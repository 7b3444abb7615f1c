//! What operators look at and do by hand: obligations, orphans, workspaces, extensions.

use std::process::ExitCode;

use chiton_model::Error;
use chiton_proto::v1 as wire;
use jiff::Timestamp;
use serde_json::json;

use super::look::since;
use super::{Context, answer};
use crate::cli::{ObligationsCommand, OrphansCommand, WorkspacesCommand};
use crate::output::{self, Table, age};

pub(super) async fn obligations(cx: &Context, command: ObligationsCommand) -> Result<ExitCode, Error> {
    let mut client = cx.connect().await?;
    match command {
        ObligationsCommand::List => {
            let answer = answer(client.list_obligations(wire::ListObligationsRequest {})).await?;
            if cx.json {
                output::document(&json!(answer.obligations.iter().map(output::obligation).collect::<Vec<_>>()));
                return Ok(ExitCode::SUCCESS);
            }
            let now = Timestamp::now();
            let mut table =
                Table::new(&["ID", "NAME", "EXTENSION", "OWES", "WHY", "AGE", "ATTEMPTS", "NEXT", "LAST ERROR"]);
            for owed in &answer.obligations {
                let why = if owed.status == "open" { &owed.reason } else { &owed.status };
                table.row([
                    &owed.id,
                    &owed.name,
                    &owed.extension,
                    &owed.phase,
                    why,
                    &since(owed.opened_at, now),
                    &owed.attempts.to_string(),
                    &next(owed, now),
                    &owed.last_error,
                ]);
            }
            output::line(&table.text());
        }
        ObligationsCommand::Discharge { id, force } => {
            let request = wire::DischargeObligationRequest { id: id.clone(), force };
            answer(client.discharge_obligation(request)).await?;
            done(cx, "discharged", &id);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How long until the next attempt; of one that was given up there is none.
fn next(owed: &wire::Obligation, now: Timestamp) -> String {
    let at = owed.next_attempt_at.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok());
    match at {
        Some(at) if owed.status == "open" && at > now => format!("in {}", age(now, at)),
        Some(_) if owed.status == "open" => "now".to_owned(),
        _ => "-".to_owned(),
    }
}

pub(super) fn done(cx: &Context, what: &str, subject: &str) {
    if cx.json {
        output::json_line(&json!({ "done": what, "subject": subject }));
    } else {
        output::line(&format!("{what} {subject}"));
    }
}

pub(super) async fn orphans(cx: &Context, command: OrphansCommand) -> Result<ExitCode, Error> {
    let mut client = cx.connect().await?;
    match command {
        OrphansCommand::List => {
            let answer = answer(client.list_orphans(wire::ListOrphansRequest {})).await?;
            if cx.json {
                output::document(&json!(answer.orphans.iter().map(output::orphan).collect::<Vec<_>>()));
                return Ok(output::partial(&answer.failed, cx.json));
            }
            let mut table = Table::new(&["DRIVER", "ID", "STATUS", "VERDICT", "EPOCH"]);
            for orphan in &answer.orphans {
                table.row([&orphan.driver, &orphan.id, &orphan.status, &orphan.verdict, &orphan.epoch]);
            }
            output::line(&table.text());
            return Ok(output::partial(&answer.failed, cx.json));
        }
        OrphansCommand::Adopt(args) => {
            let request = wire::OrphanRequest { driver: args.driver, id: args.id.clone() };
            answer(client.adopt_orphan(request)).await?;
            done(cx, "adopted", &args.id);
        }
        OrphansCommand::Delete(args) => {
            let request = wire::OrphanRequest { driver: args.driver, id: args.id.clone() };
            answer(client.delete_orphan(request)).await?;
            done(cx, "deleted", &args.id);
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn workspaces(cx: &Context, command: WorkspacesCommand) -> Result<ExitCode, Error> {
    let mut client = cx.connect().await?;
    match command {
        WorkspacesCommand::List => {
            let answer = answer(client.list_workspaces(wire::ListWorkspacesRequest {})).await?;
            if cx.json {
                let list = answer
                    .workspaces
                    .iter()
                    .map(|row| json!({ "name": row.name, "driver": row.driver, "ready": row.ready }));
                output::document(&json!(list.collect::<Vec<_>>()));
                return Ok(ExitCode::SUCCESS);
            }
            let mut table = Table::new(&["NAME", "DRIVER", "READY"]);
            for row in &answer.workspaces {
                table.row([&row.name, &row.driver, if row.ready { "yes" } else { "no" }]);
            }
            output::line(&table.text());
        }
        WorkspacesCommand::Delete { name } => {
            answer(client.delete_workspace(wire::DeleteWorkspaceRequest { name: name.clone() })).await?;
            done(cx, "deleted", &name);
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn info(cx: &Context) -> Result<ExitCode, Error> {
    let mut client = cx.connect().await?;
    let info = answer(client.get_info(wire::GetInfoRequest {})).await?;
    if cx.json {
        output::document(&json!({
            "version": info.version, "gateway_id": info.gateway_id, "epoch": info.epoch, "drivers": info.drivers,
            "default_driver": info.default_driver, "extensions": info.extensions, "principal": info.principal,
        }));
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["FACT", "VALUE"]);
    table.row(["version", &info.version]);
    table.row(["gateway", &info.gateway_id]);
    table.row(["epoch", &info.epoch]);
    table.row(["drivers", &info.drivers.join(", ")]);
    table.row(["default driver", &info.default_driver]);
    table.row(["extensions", &info.extensions.join(", ")]);
    table.row(["you are", &info.principal]);
    output::line(&table.text());
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn extensions(cx: &Context) -> Result<ExitCode, Error> {
    let mut client = cx.connect().await?;
    let mut answer = answer(client.list_extensions(wire::ListExtensionsRequest {})).await?;
    // In chain order; those that no new sandbox gets come last.
    answer
        .extensions
        .sort_by_key(|extension| (extension.position.is_none(), extension.position, extension.name.clone()));
    if cx.json {
        output::document(&json!(answer.extensions.iter().map(output::extension).collect::<Vec<_>>()));
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["NAME", "VERSION", "CHAIN", "ACTIVATION", "FAILURE", "SANDBOXES", "SUMMARY"]);
    for extension in &answer.extensions {
        let place = match extension.position {
            Some(position) => (position + 1).to_string(),
            None if extension.draining => "draining".to_owned(),
            None => "-".to_owned(),
        };
        let count = extension.sandboxes.to_string();
        table.row([
            &extension.name,
            &extension.version,
            &place,
            &extension.activation,
            &extension.failure,
            &count,
            &extension.summary,
        ]);
    }
    output::line(&table.text());
    Ok(ExitCode::SUCCESS)
}
