//! Calls at all.

use tonic::Code;

use crate::stage::Stage;
use crate::verdict::{Answer, Stop, Verdict, broken, must};

pub(crate) async fn answers(stage: &Stage) -> Verdict {
    must("GetCapabilities", stage.wire.capabilities().await?).map(drop)
}

pub(crate) async fn has_every_call(stage: &Stage) -> Verdict {
    let (wire, id) = (&stage.wire, uuid::Uuid::new_v4().to_string());
    let (list, get, validate, create, stop, start, delete) = tokio::join!(
        wire.list(),
        wire.get(&id, "absent"),
        wire.validate(None),
        wire.create(None),
        wire.stop(&id, "absent"),
        wire.start(&id, "absent", None),
        wire.delete(&id, "absent"),
    );
    has("ListSandboxes", list)?;
    has("GetSandbox", get)?;
    has("ValidateSandboxCreate", validate)?;
    has("CreateSandbox", create)?;
    has("StopSandbox", stop)?;
    has("StartSandbox", start)?;
    has("DeleteSandbox", delete)
}

/// Whether an answer comes in time is the matter of others.
fn has<T>(call: &str, answer: Verdict<Answer<T>>) -> Verdict {
    match answer {
        Ok(Err(status)) if status.code() == Code::Unimplemented => {
            Err(broken(call, "any answer but UNIMPLEMENTED", format!("UNIMPLEMENTED {:?}", status.message())))
        }
        Err(Stop::NotHere(why, by)) => Err(Stop::NotHere(why, by)),
        Ok(_) | Err(Stop::Broken(_)) => Ok(()),
    }
}
