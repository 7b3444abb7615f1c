//! Texts that are not as people write them by hand, and long ones.

use std::sync::Arc;

use chiton_driver::{Feature, PlanRequest};

use crate::life::Life;
use crate::look::Output;
use crate::stage::{Stage, sandbox_id};
use crate::verdict::{Failure, Stop, Verdict, ensure, equal, tells};

const STRANGE: [&str; 8] = [
    "ü 漢字 🦀 \u{202e}",
    "tab\tline\nreturn\r",
    "\u{1b}[31m\u{7f}\u{1}\u{8}",
    "'\"\\$HOME `id` $(id) %s {{.}} ${X}",
    "",
    " before and after ",
    "=a=b",
    "--",
];

/// Runs it, or finds that it is refused with a text that names what and a cure: by the plan, or by a create or start that
/// is certain to have done nothing.
async fn run_or_refused(life: &Life, request: &PlanRequest) -> Verdict<Option<Output>> {
    match life.plan(request).await {
        Err(Stop::Failed(failure)) => {
            let Failure::Refused { error, .. } = *failure else { return Err(Stop::Failed(failure)) };
            return tells(&error, &[]).map(|()| None);
        }
        other => drop(other?),
    }
    let id = sandbox_id()?;
    let call = life.call(request, &id).await?;
    let made = match life.try_create(&call).await? {
        Ok(()) => life.try_start(&call).await?,
        error => error,
    };
    match made {
        Err(chiton_driver::CallError::NotRun(error) | chiton_driver::CallError::Failed(error)) => {
            life.delete(&id).await?;
            ensure(
                error.message.len() < 2000,
                "a refusal",
                "a text for people",
                format!("{} bytes", error.message.len()),
            )?;
            Ok(None)
        }
        made => {
            made.map_err(|error| Failure::Call { call: "create or start".to_owned(), error })?;
            let (_, output) = life.ending(&id).await?;
            life.delete(&id).await?;
            Ok(Some(output))
        }
    }
}

pub(crate) async fn env_arrives_as_it_is(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    life.needs(Feature::Logs)?;
    for value in STRANGE {
        let mut request = life.script("printf '<%s>' \"$STRANGE\"");
        request.env.insert("STRANGE".to_owned(), value.to_owned());
        if let Some(output) = run_or_refused(&life, &request).await? {
            equal("the variable", &output.text(), &format!("<{value}>"))?;
        }
    }
    stage.nothing_left().await
}

pub(crate) async fn arguments_arrive_as_they_are(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    life.needs(Feature::Logs)?;
    let mut request = life.script("for word; do printf '<%s>' \"$word\"; done");
    request.command.push("sh".to_owned());
    request.command.extend(STRANGE.map(ToOwned::to_owned));
    let wanted = format!("<{}>", STRANGE.join("><"));
    if let Some(output) = run_or_refused(&life, &request).await? {
        equal("the arguments", &output.text(), &wanted)?;
    }
    stage.nothing_left().await
}

pub(crate) async fn nul_is_refused(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let mut request = life.sleeper();
    request.env.insert("NUL".to_owned(), "a\0b".to_owned());
    tells(&life.refused("a NUL in a variable", &request).await?, &[])?;
    let mut request = life.sleeper();
    request.env.insert("NAME=VALUE".to_owned(), "x".to_owned());
    tells(&life.refused("a \"=\" in a variable's name", &request).await?, &[])?;
    let mut request = life.sleeper();
    request.command.push("a\0b".to_owned());
    tells(&life.refused("a NUL in an argument", &request).await?, &[])?;
    stage.nothing_left().await
}

pub(crate) async fn long_ones_arrive_whole(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    life.needs(Feature::Logs)?;
    // The kernel's limit for one string is 128 KiB, with the name and its end (MAX_ARG_STRLEN).
    for (length, must) in [(100 << 10, true), (128 << 10, false)] {
        let mut request = life.script("echo ${#LONG}");
        request.env.insert("LONG".to_owned(), "e".repeat(length));
        match run_or_refused(&life, &request).await? {
            Some(output) if must => equal("a long variable's length", &output.text(), &format!("{length}\n"))?,
            // A shell that could not be started with it says nothing.
            Some(output) => ensure(
                output.text() == format!("{length}\n") || output.text().is_empty(),
                "a variable that is too long",
                "the whole of it, or nothing",
                output.shown(),
            )?,
            None => ensure(!must, "a variable of 100 KiB", "taken", "refused")?,
        }
    }
    let mut request = life.script("n=0; for word; do n=$((n + ${#word})); done; echo $# $n");
    request.command.push("sh".to_owned());
    request.command.extend((0..16).map(|_| "a".repeat(64 << 10)));
    if let Some(output) = run_or_refused(&life, &request).await? {
        equal("16 arguments of 64 KiB", &output.text(), &format!("16 {}\n", 1 << 20))?;
    }
    stage.nothing_left().await
}
