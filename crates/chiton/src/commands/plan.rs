//! `plan` and `explain`.

use std::process::ExitCode;

use chiton_model::Error;
use chiton_proto::v1 as wire;
use serde_json::json;

use super::{Context, answer, create, select};
use crate::cli::{CreateArgs, FindArgs};
use crate::output::{self, Table, escape, one_line};

pub(super) async fn plan(cx: &Context, args: CreateArgs) -> Result<ExitCode, Error> {
    let request = create::request(args)?;
    let plan = answer(cx.connect().await?.plan_sandbox(request)).await?;
    if cx.json {
        output::document(&output::plan(&plan));
        return Ok(ExitCode::SUCCESS);
    }
    let pretty = serde_json::from_str::<serde_json::Value>(&plan.plan)
        .map_or_else(|_| plan.plan.clone(), |plan| output::compact(&plan));
    output::line(&escape(&pretty));
    let chain: Vec<&str> = plan.chain.iter().map(|entry| entry.extension.as_str()).collect();
    output::line(&format!("\nchain: {}", if chain.is_empty() { "none".to_owned() } else { chain.join(" → ") }));
    for writes in &plan.writes {
        output::line(&format!("\n{} writes:", escape(&writes.extension)));
        for write in &writes.writes {
            let before =
                if write.before.is_empty() { String::new() } else { format!("{} → ", one_line(&write.before)) };
            let after = if write.after.is_empty() { "removed" } else { &write.after };
            let over =
                if write.overrides.is_empty() { String::new() } else { format!("  (overrides {})", write.overrides) };
            output::line(&format!("  {} {before}{}{over}", one_line(&write.path), one_line(after)));
        }
    }
    for note in &plan.notes {
        output::line(&format!("note: {}", one_line(note)));
    }
    output::line(&format!("\ndigest {}", plan.digest));
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn explain(cx: &Context, args: &FindArgs) -> Result<ExitCode, Error> {
    let request = wire::GetSandboxRequest { sandbox: Some(select(&args.one)), all: args.all };
    let answer = answer(cx.connect().await?.explain_sandbox(request)).await?;
    if cx.json {
        let sandbox = answer.sandbox.unwrap_or_default();
        output::document(&json!({
            "sandbox": sandbox.id,
            "digest": sandbox.plan_digest,
            "values": answer.values.iter().map(output::explained).collect::<Vec<_>>(),
        }));
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["VALUE", "IS", "SET BY"]);
    let mut lists = Vec::new();
    for values in answer.values.chunk_by(of_one_list) {
        let [value, ..] = values else { continue };
        if values.len() >= LONG {
            let list = value.path.rsplit_once('/').map_or("", |(list, _)| list);
            table.row([list, &format!("{} values, see below", values.len()), &value.writer]);
            lists.push((list, values));
            continue;
        }
        for value in values {
            let by = if value.slot.is_empty() {
                value.writer.clone()
            } else {
                format!("{} (slot {})", value.writer, value.slot)
            };
            table.row([&value.path, &value.value, &by]);
        }
    }
    output::line(&table.text());
    for (list, values) in lists {
        let words: Vec<String> = values
            .iter()
            .map(|value| match serde_json::from_str(&value.value) {
                Ok(serde_json::Value::String(text)) => one_line(&text),
                _ => one_line(&value.value),
            })
            .collect();
        output::line(&format!("\n{}:", one_line(list)));
        for line in output::wrap(&words, ", ", 98) {
            output::line(&format!("  {line}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Lists of as many values are shown apart from the table, side by side.
const LONG: usize = 8;

/// Whether two values stand in one list of plain values and were set by the same.
fn of_one_list(one: &wire::ExplainedValue, next: &wire::ExplainedValue) -> bool {
    let place = |value: &wire::ExplainedValue| {
        let (list, index) = value.path.rsplit_once('/')?;
        index.bytes().all(|byte| byte.is_ascii_digit()).then(|| list.to_owned())
    };
    place(one).is_some()
        && place(one) == place(next)
        && one.writer == next.writer
        && one.slot.is_empty()
        && next.slot.is_empty()
}
