//! `timeline`: where an operation's time went, as a waterfall whose parts sum to the whole.

use std::process::ExitCode;

use chiton_model::Error;
use chiton_proto::v1 as wire;
use serde_json::json;

use super::{Context, answer, select};
use crate::cli::FindArgs;
use crate::output::{self, micros, one_line};

/// Characters of a bar.
const WIDTH: u64 = 40;

pub(super) async fn run(cx: &Context, args: &FindArgs) -> Result<ExitCode, Error> {
    let request = wire::GetSandboxRequest { sandbox: Some(select(&args.one)), all: args.all };
    let answer = answer(cx.connect().await?.get_timeline(request)).await?;
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
    operation.total_us.saturating_sub(steps_us(operation))
}

fn steps_us(operation: &wire::Operation) -> u64 {
    operation.steps.iter().fold(0, |sum, step| sum.saturating_add(step.took_us))
}

/// What the parts sum to: the total, unless the operation has none yet because it runs.
fn whole(operation: &wire::Operation) -> u64 {
    operation.total_us.max(steps_us(operation))
}

fn waterfall(operation: &wire::Operation) -> String {
    let total = whole(operation).max(1);
    let reason = if operation.reason.is_empty() { String::new() } else { format!(" ({})", operation.reason) };
    let mut lines = vec![format!("{}{reason} {} {}", operation.kind, operation.state, micros(whole(operation)))];
    let width =
        operation.steps.iter().map(|step| step.name.chars().count()).max().unwrap_or(0).max("engine and store".len());
    for step in &operation.steps {
        let lead = scaled(step.begin_us.min(total), total).min(WIDTH - 1);
        let long = scaled(step.took_us.min(total), total).clamp(1, WIDTH - lead);
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

/// A share of the total in characters. In 128 bits: times come from outside.
fn scaled(part: u64, total: u64) -> u64 {
    u64::try_from(u128::from(part) * u128::from(WIDTH) / u128::from(total)).unwrap_or(WIDTH)
}

fn cells(count: u64) -> usize {
    usize::try_from(count).unwrap_or(0)
}
