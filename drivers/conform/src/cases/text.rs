//! Text in any script.

use chiton_compute_wire::v1::DriverSandbox;
use tonic::Code;

use crate::ask::{Ask as _, ordered};
use crate::stage::Stage;
use crate::verdict::{Verdict, equal, refused};

/// Two bytes, three bytes, four bytes, a combining letter, and one that turns the direction.
const SCRIPTS: &str = "größe-工作-🦀-e\u{301}-שלום";

/// Made and kept as it was, or refused as malformed. What is kept is told as far as the driver tells it.
async fn kept_or_refused(stage: &Stage, what: &str, asked: DriverSandbox) -> Verdict {
    if let Err(status) = stage.create(&asked).await? {
        return refused::<()>(&format!("CreateSandbox with {what}"), Err(status), &[Code::InvalidArgument]).map(drop);
    }
    let told = stage.got(&asked).await?;
    equal(&format!("the name, after a create with {what}"), &told.name, &asked.name)?;
    let (Some(told), Some(asked)) = (told.spec, asked.spec) else { return Ok(()) };
    if !told.command.is_empty() {
        equal("the command", &told.command, &asked.command)?;
    }
    // Drivers may add variables and labels of their own.
    for (name, value) in ordered(&asked.environment) {
        if let Some(found) = told.environment.get(name) {
            equal(&format!("the variable {name}"), found, value)?;
        }
    }
    let (Some(told), Some(asked)) = (told.template, asked.template) else { return Ok(()) };
    for (name, value) in ordered(&asked.labels) {
        if !told.labels.is_empty() {
            equal(&format!("the label {name:?}"), &told.labels.get(name), &Some(value))?;
        }
    }
    Ok(())
}

pub(crate) async fn unicode_in_names(stage: &Stage) -> Verdict {
    let mut sandbox = stage.sandbox();
    sandbox.name = format!("{}-{SCRIPTS}", sandbox.name);
    kept_or_refused(stage, "Unicode in its name", sandbox).await
}

pub(crate) async fn control_characters_in_names(stage: &Stage) -> Verdict {
    for odd in ["\n", "\x1b[31m", "\0", "\u{85}"] {
        let mut sandbox = stage.sandbox();
        sandbox.name = format!("{}{odd}x", sandbox.name);
        kept_or_refused(stage, &format!("{odd:?} in its name"), sandbox).await?;
    }
    Ok(())
}

pub(crate) async fn unicode_in_labels(stage: &Stage) -> Verdict {
    let sandbox = stage.sandbox().label("conform.test/text", SCRIPTS).label("conform.test/plain", "plain");
    kept_or_refused(stage, "Unicode in a label", sandbox).await
}

pub(crate) async fn unicode_in_processes(stage: &Stage) -> Verdict {
    let mut command = stage.run.options.command.clone();
    command.push(SCRIPTS.to_owned());
    let sandbox = stage.sandbox().command(command).variable("CONFORM_TEXT", SCRIPTS);
    kept_or_refused(stage, "Unicode in its command and a variable", sandbox).await
}
