//! `sandbox list`, `get` and `watch`.

use std::process::ExitCode;

use chiton_client::{Client, from_status};
use chiton_model::Error;
use chiton_proto::v1 as wire;
use chiton_proto::v1::watch_sandboxes_event::Event;
use jiff::Timestamp;
use serde_json::json;

use super::{Context, answer, select, selector};
use crate::cli::{FindArgs, ListArgs, WatchArgs};
use crate::output::{self, Table, age, escape, one_line};

/// Every page of a listing.
async fn pages(client: &mut Client, mut request: wire::ListSandboxesRequest) -> Result<Vec<wire::Sandbox>, Error> {
    let mut sandboxes = Vec::new();
    loop {
        let page = answer(client.list_sandboxes(request.clone())).await?;
        sandboxes.extend(page.sandboxes);
        if page.next_page_token.is_empty() {
            return Ok(sandboxes);
        }
        request.page_token = page.next_page_token;
    }
}

/// Every sandbox of a workspace that holds its name.
pub(super) async fn all(client: &mut Client, workspace: &str) -> Result<Vec<wire::Sandbox>, Error> {
    let request =
        wire::ListSandboxesRequest { workspace: workspace.to_owned(), ..wire::ListSandboxesRequest::default() };
    pages(client, request).await
}

pub(super) fn since(at: Option<prost_types::Timestamp>, now: Timestamp) -> String {
    at.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok()).map_or_else(|| "-".to_owned(), |at| age(at, now))
}

pub(super) async fn list(cx: &Context, args: ListArgs) -> Result<ExitCode, Error> {
    let request = wire::ListSandboxesRequest {
        workspace: args.workspace.unwrap_or_default(),
        all: args.all,
        labels: args.label.into_iter().collect(),
        ..wire::ListSandboxesRequest::default()
    };
    let sandboxes = pages(&mut cx.connect().await?, request).await?;
    if cx.json {
        output::document(&json!(sandboxes.iter().map(output::sandbox).collect::<Vec<_>>()));
        return Ok(ExitCode::SUCCESS);
    }
    let now = Timestamp::now();
    let mut table = Table::new(&["NAME", "ID", "WORKSPACE", "PHASE", "DRIVER", "AGE", "NOTES"]);
    for sandbox in &sandboxes {
        let mut notes = Vec::new();
        if sandbox.obligations > 0 {
            notes.push(format!("{} obligations", sandbox.obligations));
        }
        if !sandbox.held.is_empty() {
            notes.push("held".to_owned());
        }
        if let Some(code) = sandbox.exit.as_ref().and_then(|exit| exit.code) {
            notes.push(format!("exit {code}"));
        }
        let created = since(sandbox.created_at, now);
        table.row([
            &sandbox.name,
            &sandbox.id,
            &sandbox.workspace,
            &sandbox.phase,
            &sandbox.driver,
            &created,
            &notes.join(", "),
        ]);
    }
    output::line(&table.text());
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn get(cx: &Context, args: &FindArgs) -> Result<ExitCode, Error> {
    let request = wire::GetSandboxRequest { sandbox: Some(select(&args.one)), all: args.all };
    let sandbox = answer(cx.connect().await?.get_sandbox(request)).await?;
    if cx.json {
        output::document(&output::sandbox(&sandbox));
    } else {
        output::line(&block(&sandbox, Timestamp::now()));
    }
    Ok(ExitCode::SUCCESS)
}

/// A sandbox as a block of lines.
fn block(sandbox: &wire::Sandbox, now: Timestamp) -> String {
    let spec = sandbox.spec.clone().unwrap_or_default();
    let mut lines = Vec::new();
    let mut put = |name: &str, value: &str| {
        if !value.is_empty() {
            lines.push(format!("{name:<12} {}", one_line(value)));
        }
    };
    put("name", &sandbox.name);
    put("id", &sandbox.id);
    put("workspace", &sandbox.workspace);
    put("phase", &sandbox.phase);
    put("driver", &sandbox.driver);
    put("image", &spec.image);
    put("command", &spec.command.join(" "));
    put("age", &since(sandbox.created_at, now));
    put("principal", &sandbox.principal);
    put("plan", &sandbox.plan_digest);
    let chain: Vec<&str> = sandbox.chain.iter().map(|entry| entry.extension.as_str()).collect();
    put("chain", &chain.join(" → "));
    let mut slots: Vec<_> = sandbox.slots.iter().collect();
    slots.sort();
    for (name, value) in slots {
        put("slot", &format!("{name} = {value}"));
    }
    if let Some(exit) = &sandbox.exit {
        put(
            "exit",
            &format!("{} ({})", exit.code.map_or_else(|| "unknown".to_owned(), |code| code.to_string()), exit.reason),
        );
    }
    put("failure", &sandbox.failure);
    put("held", &sandbox.held);
    put("operation", &sandbox.operation);
    if sandbox.obligations > 0 {
        put("obligations", &sandbox.obligations.to_string());
    }
    for condition in &sandbox.conditions {
        put(
            "condition",
            &format!("{}={} {}: {}", condition.r#type, condition.status, condition.reason, condition.message),
        );
    }
    lines.join("\n")
}

pub(super) async fn watch(cx: &Context, args: WatchArgs) -> Result<ExitCode, Error> {
    let mut client = cx.connect().await?;
    let sandbox = args.name.map(|name| selector(&name, &args.workspace, args.id));
    let request = wire::WatchSandboxesRequest { sandbox };
    let mut events = answer(client.watch_sandboxes(request)).await?;
    while let Some(event) = events.message().await.map_err(|status| from_status(&status))? {
        let Some(event) = event.event else { continue };
        if cx.json {
            output::json_line(&match &event {
                Event::Reset(_) => json!({ "event": "reset" }),
                Event::Changed(sandbox) => json!({ "event": "changed", "sandbox": output::sandbox(sandbox) }),
                Event::Removed(id) => json!({ "event": "removed", "id": id }),
                Event::SnapshotEnd(_) => json!({ "event": "snapshot_end" }),
            });
            continue;
        }
        match event {
            Event::Changed(sandbox) => {
                output::line(&format!("{:<24} {:<13} {}", escape(&sandbox.name), sandbox.phase, sandbox.id));
            }
            Event::Removed(id) => output::line(&format!("{:<24} {:<13} {id}", "-", "gone")),
            Event::Reset(_) | Event::SnapshotEnd(_) => {}
        }
    }
    Ok(ExitCode::SUCCESS)
}
