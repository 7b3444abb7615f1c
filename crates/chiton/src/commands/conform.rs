//! `conform driver`: the contract's cases against a driver behind a socket.

use std::path::Path;
use std::process::ExitCode;

use chiton_driver_conform::{Declared, Group, Options, Report, Restart, run as conform};
use chiton_model::Error;

use crate::cli::{CaseGroup, ConformArgs, ReportForm};
use crate::output;

/// Wrong usage, as the parser has it.
const WRONG_USAGE: u8 = 2;

pub(super) async fn run(args: &ConformArgs, json: bool) -> Result<ExitCode, Error> {
    let options = match options(args) {
        Ok(options) => options,
        Err(error) => {
            output::fail(&error, json);
            return Ok(ExitCode::from(WRONG_USAGE));
        }
    };
    let form = args.report.or(json.then_some(ReportForm::Json));
    // A table grows as the cases end; a document is written when all have.
    let live = form.is_none();
    let report = conform(options, |result| {
        if live {
            output::line(&result.to_string());
        }
    })
    .await?;
    let document = match form {
        None => format!("\n{}", report.summary()),
        Some(ReportForm::Json) => report.json()?,
        Some(ReportForm::Junit) => report.junit()?,
    };
    match &args.output {
        Some(path) => write(path, &document, &report)?,
        None if form == Some(ReportForm::Json) => output::put(&output::escape_json(&document)),
        None => output::line(&document),
    }
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn options(args: &ConformArgs) -> Result<Options, Error> {
    let mut options = Options::new(args.socket.path());
    options.filter.clone_from(&args.only);
    options.image = args.image.clone().unwrap_or_default();
    options.workspace.clone_from(&args.workspace);
    options.strict = args.strict;
    options.restart = args.restart_command.clone().map(Restart::Command);
    if !args.group.is_empty() {
        options.groups = args
            .group
            .iter()
            .map(|group| match group {
                CaseGroup::Wire => Group::Wire,
                CaseGroup::Behaviour => Group::Behaviour,
            })
            .collect();
    }
    if !args.command.is_empty() {
        options.command.clone_from(&args.command);
    }
    if args.no_shell {
        options.shell.clear();
    }
    if !args.peer_uid.is_empty() {
        options.peers = args.peer_uid.iter().copied().collect();
    }
    if let Some(path) = &args.declare {
        options.declared = Declared::read(path).map_err(|error| Error::invalid("declare", error.to_string()))?;
    }
    Ok(options)
}

/// The report as a file, and for people the totals.
fn write(path: &Path, document: &str, report: &Report) -> Result<(), Error> {
    std::fs::write(path, format!("{document}\n")).map_err(|error| {
        Error::invalid("output", format!("the report cannot be written to {path:?}: {error}"))
            .cure("name a file in a folder that you may write to")
    })?;
    output::note(&format!("{}, written to {}", report.totals(), path.display()));
    Ok(())
}
