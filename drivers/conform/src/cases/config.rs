//! The driver's own block of a request.

use serde_json::json;
use tonic::Code;

use crate::ask::Ask as _;
use crate::stage::Stage;
use crate::verdict::{Verdict, broken};

/// No driver has it.
const UNKNOWN: &str = "conform_no_such_key";

async fn refusal(stage: &Stage) -> Verdict<tonic::Status> {
    let sandbox = stage.sandbox().config(&json!({ UNKNOWN: true }));
    let codes = [Code::InvalidArgument, Code::FailedPrecondition];
    stage.refused("an unknown key of driver_config", &sandbox, &codes).await
}

pub(crate) async fn unknown_keys_are_refused(stage: &Stage) -> Verdict {
    refusal(stage).await.map(drop)
}

pub(crate) async fn refusals_name_a_key(stage: &Stage) -> Verdict {
    let status = refusal(stage).await?;
    // Decoders say "unknown field `x`, expected one of `a`, `b`", or the like.
    if status.message().contains(UNKNOWN) {
        return Ok(());
    }
    Err(broken("the refusal's text", format!("{UNKNOWN:?} in it"), format!("{:?}", status.message())))
}
