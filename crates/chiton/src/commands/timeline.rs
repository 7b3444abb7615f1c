//! `timeline`: where an operation's time went, as a waterfall whose parts sum to the whole.

use std::process::ExitCode;

use chiton_client::from_status;
use chiton_model::Error;
use chiton_proto::v1 as wire;
use serde_json::json;

use super::{Context, select};
use crate::cli::OneArgs;
use crate::output::{self, micros, one_line};

/// Characters of a bar.
const WIDTH: u64 = 40;

pub(super) async fn run(cx: &Context, args: &OneArgs) -> Result<ExitCode, Error> {
    let request = wire::GetSandboxRequest { sandbox: Some(select(args)), all: args.all };
    let answer = cx.connect().await?.get_timeline(request).await.map_err(|status| from_status(&status))?.into_inner();
    if cx.json {
        let sandbox = answer.sandbox.unwrap_or_default();
        let operations: Vec<_> = answer.operations.iter().map(output::operation).collect();
        output::document(&json!({ "sandbox": sandbox.id, "operations": operations }));
        return Ok(ExitCode::SUCCESS);
    }
    for operation in &answer.operations {
        output::line(&waterfall(operation));
    }
    Ok(ExitCode::SUCCESS)
}

/// Microseconds of an operation in which no step ran.
pub(crate) fn remainder(operation: &wire::Operation) -> u64 {
    let steps: u64 = operation.steps.iter().map(|step| step.took_us).sum();
    operation.total_us.saturating_sub(steps)
}

fn waterfall(operation: &wire::Operation) -> String {
    let total = operation.total_us.max(1);
    let reason = if operation.reason.is_empty() { String::new() } else { format!(" ({})", operation.reason) };
    let mut lines = vec![format!("{}{reason} {} {}", operation.kind, operation.state, micros(operation.total_us))];
    let width =
        operation.steps.iter().map(|step| step.name.chars().count()).max().unwrap_or(0).max("engine and store".len());
    for step in &operation.steps {
        let lead = step.begin_us.min(total) * WIDTH / total;
        let long = (step.took_us * WIDTH).div_ceil(total).clamp(1, WIDTH - lead.min(WIDTH - 1));
        let bar = format!("{}{}", " ".repeat(cells(lead)), "█".repeat(cells(long)));
        let error = if step.error.is_empty() { String::new() } else { format!("  {}", one_line(&step.error)) };
        lines.push(format!("  {:<width$}  {:>12}  {bar}{error}", one_line(&step.name), micros(step.took_us)));
    }
    lines.push(format!("  {:<width$}  {:>12}", "engine and store", micros(remainder(operation))));
    if let Some(error) = &operation.error {
        lines.push(format!("  failed: {}", one_line(&error.message)));
    }
    lines.join("\n")
}

fn cells(count: u64) -> usize {
    usize::try_from(count).unwrap_or(0)
}
