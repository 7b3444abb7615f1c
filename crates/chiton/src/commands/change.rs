//! `sandbox start`, `stop` and `delete`.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;

use chiton_client::{Client, from_status};
use chiton_model::Error;
use chiton_model::condition::kinds;
use chiton_proto::v1 as wire;

use super::{Context, answer, request_id, select, selector};
use crate::cli::{ChangeArgs, DeleteArgs};
use crate::output::{self, one_line};
use crate::wait;

pub(super) async fn start(cx: &Context, args: &ChangeArgs) -> Result<ExitCode, Error> {
    let mut client = cx.connect().await?;
    let request = wire::SandboxRequest { sandbox: Some(select(&args.one)), request_id: request_id() };
    let answer = answer(client.start_sandbox(request)).await?;
    finish(cx, &mut client, answer, args.no_wait).await
}

pub(super) async fn stop(cx: &Context, args: &ChangeArgs) -> Result<ExitCode, Error> {
    let mut client = cx.connect().await?;
    let request = wire::SandboxRequest { sandbox: Some(select(&args.one)), request_id: request_id() };
    let answer = answer(client.stop_sandbox(request)).await?;
    finish(cx, &mut client, answer, args.no_wait).await
}

pub(super) async fn delete(cx: &Context, args: DeleteArgs) -> Result<ExitCode, Error> {
    let mut client = cx.connect().await?;
    let selectors = if args.all {
        let all = super::look::all(&mut client, &args.workspace).await?;
        if all.is_empty() || !(args.yes || confirmed(all.len(), &args.workspace)?) {
            return Ok(ExitCode::SUCCESS);
        }
        all.iter().map(|sandbox| selector(&sandbox.id, "", true)).collect()
    } else {
        args.names.iter().map(|name| selector(name, &args.workspace, args.id)).collect::<Vec<_>>()
    };
    // All are begun before the first is waited for.
    let (mut answers, mut failures) = (Vec::new(), Vec::new());
    for sandbox in selectors {
        let request =
            wire::DeleteSandboxRequest { sandbox: Some(sandbox), request_id: request_id(), force: args.force };
        match client.delete_sandbox(request).await {
            Ok(answer) => answers.push(answer.into_inner()),
            Err(status) => failures.push(from_status(&status)),
        }
    }
    for answer in answers {
        if let Err(error) = finish(cx, &mut client, answer, args.no_wait).await {
            failures.push(error);
        }
    }
    if failures.is_empty() { Ok(ExitCode::SUCCESS) } else { Ok(output::fail_all(&failures, cx.json)) }
}

fn confirmed(count: usize, workspace: &str) -> Result<bool, Error> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::invalid(
            "yes",
            format!("delete --all would delete {count} sandboxes and nobody can be asked"),
        )
        .cure("add --yes"));
    }
    eprint!("delete all {count} sandboxes of workspace {workspace:?}? [y/N] ");
    drop(std::io::stderr().flush());
    let mut answer = String::new();
    drop(std::io::stdin().lock().read_line(&mut answer));
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn finish(
    cx: &Context,
    client: &mut Client,
    answer: wire::OperationResponse,
    no_wait: bool,
) -> Result<ExitCode, Error> {
    let mut sandbox = answer.sandbox.unwrap_or_default();
    if !no_wait && !answer.operation.is_empty() {
        let outcome = wait::outcome(client, &answer.operation).await?;
        // A delete that met a create is that create's unwinding: its failure is what was asked for.
        let undone =
            outcome.operation.as_ref().is_some_and(|operation| operation.kind == "create") && outcome.sandbox.is_none();
        match wait::settle(outcome) {
            Ok(after) => {
                "Deleted".clone_into(&mut sandbox.phase);
                sandbox = after.unwrap_or(sandbox);
            }
            Err(_) if undone => "Deleted".clone_into(&mut sandbox.phase),
            Err(error) => return Err(error),
        }
    }
    for left in sandbox.conditions.iter().filter(|condition| condition.r#type == kinds::OBJECT_LEFT) {
        output::note(&one_line(&left.message));
    }
    if cx.json {
        output::json_line(&output::sandbox(&sandbox));
    } else {
        output::line(&format!("{} {}", sandbox.name, sandbox.phase));
    }
    Ok(ExitCode::SUCCESS)
}
