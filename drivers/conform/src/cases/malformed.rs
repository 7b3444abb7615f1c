//! Requests that are none.

use tonic::Code;

use crate::ask::Ask as _;
use crate::stage::Stage;
use crate::verdict::{Verdict, equal, must, refused};

const INVALID: &[Code] = &[Code::InvalidArgument];

/// Longer than any name.
const LONG: usize = 10_000;

pub(crate) async fn no_sandbox(stage: &Stage) -> Verdict {
    refused("CreateSandbox without a sandbox", stage.wire.create(None).await?, INVALID).map(drop)
}

pub(crate) async fn no_spec(stage: &Stage) -> Verdict {
    let mut sandbox = stage.sandbox();
    sandbox.spec = None;
    stage.refused("no spec", &sandbox, INVALID).await.map(drop)
}

async fn id_is_refused(stage: &Stage, id: &str, what: &str) -> Verdict {
    let mut sandbox = stage.sandbox();
    id.clone_into(&mut sandbox.id);
    stage.refused(what, &sandbox, INVALID).await.map(drop)
}

pub(crate) async fn looks_with_odd_ids(stage: &Stage) -> Verdict {
    for id in ["../conform", "/", "..", "conform\0x", "a\nb", &"i".repeat(LONG)] {
        // Malformed or not there: both are true.
        let looked = stage.wire.get(id, "absent").await?;
        let shown: String = id.chars().take(20).collect();
        refused(&format!("GetSandbox of the id {shown:?}"), looked, &[Code::InvalidArgument, Code::NotFound])?;
    }
    Ok(())
}

pub(crate) async fn empty_id(stage: &Stage) -> Verdict {
    let mut sandbox = stage.sandbox();
    sandbox.id.clear();
    // Some drivers find a sandbox by its name then, which is nobody's harm; only creates are asked.
    stage.refused("an empty id", &sandbox, INVALID).await.map(drop)
}

pub(crate) async fn ids_that_are_paths(stage: &Stage) -> Verdict {
    for id in ["../conform", "conform/../../x", "/conform", "conform/x", ".", ".."] {
        id_is_refused(stage, id, &format!("the id {id:?}")).await?;
    }
    Ok(())
}

pub(crate) async fn ids_with_control_characters(stage: &Stage) -> Verdict {
    for id in ["conform\0x", "conform\nx", "conform\x1b[31mx", "conform\x7fx", "\t"] {
        id_is_refused(stage, id, &format!("the id {id:?}")).await?;
    }
    Ok(())
}

pub(crate) async fn nul_in_processes(stage: &Stage) -> Verdict {
    let mut command = stage.run.options.command.clone();
    command.push("a\0b".to_owned());
    stage.refused("NUL in the command", &stage.sandbox().command(command), INVALID).await?;
    stage.refused("NUL in a variable", &stage.sandbox().variable("CONFORM", "a\0b"), INVALID).await.map(drop)
}

pub(crate) async fn names_of_ten_kilobytes(stage: &Stage) -> Verdict {
    id_is_refused(stage, &"i".repeat(LONG), "an id of ten kilobytes").await?;
    let mut sandbox = stage.sandbox();
    sandbox.name = "n".repeat(LONG);
    let created = stage.create(&sandbox).await?;
    if created.is_err() {
        return refused("CreateSandbox with a name of ten kilobytes", created, INVALID).map(drop);
    }
    let found = stage.got(&sandbox).await?.name.len();
    equal("the length of the name that was taken", &found, &LONG)
}

pub(crate) async fn odd_ids_are_survived(stage: &Stage) -> Verdict {
    for id in
        ["größe", "工作", "🦀", "%s%n%x", "$(reboot)", "' OR 1=1 --", "con", "-rf", "a b", "\u{202e}x", "${jndi:x}"]
    {
        let mut sandbox = stage.sandbox();
        id.clone_into(&mut sandbox.id);
        stage.note(&sandbox);
        // Whether it can be an id is the driver's matter; that it answers is not.
        let created = stage.create(&sandbox).await?;
        let looked = stage.wire.get(id, &sandbox.name).await?;
        if created.is_ok() {
            must(&format!("GetSandbox of the id {id:?}, which was made"), looked)?;
        }
        must(&format!("GetCapabilities after the id {id:?}"), stage.wire.capabilities().await?)?;
    }
    Ok(())
}
