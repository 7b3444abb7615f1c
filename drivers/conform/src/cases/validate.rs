//! Looks at what is to be made.

use crate::stage::Stage;
use crate::verdict::{Verdict, ensure, equal, must};

pub(crate) async fn changes_nothing(stage: &Stage) -> Verdict {
    let sandbox = stage.sandbox();
    must("ValidateSandboxCreate", stage.wire.validate(Some(sandbox.clone())).await?)?;
    equal("how often the list has a sandbox that was only looked at", &stage.listed(&sandbox.id).await?, &0)?;
    // What was accepted can be made.
    must("CreateSandbox of what was accepted", stage.create(&sandbox).await?)
}

pub(crate) async fn refuses_malformed(stage: &Stage) -> Verdict {
    let nothing = stage.wire.validate(None).await?;
    ensure(nothing.is_err(), "ValidateSandboxCreate without a sandbox", "a refusal", "OK")?;
    let mut sandbox = stage.sandbox();
    "../conform".clone_into(&mut sandbox.id);
    let path = stage.wire.validate(Some(sandbox)).await?;
    ensure(path.is_err(), "ValidateSandboxCreate with the id \"../conform\"", "a refusal", "OK")
}
