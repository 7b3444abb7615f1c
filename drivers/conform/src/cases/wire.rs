//! Bytes.

use chiton_compute_wire::v1::GetSandboxRequest;

use crate::raw::{garbage, strange_create, strange_get, unary};
use crate::stage::Stage;
use crate::verdict::{Verdict, broken, equal, must};

pub(crate) async fn garbage_is_survived(stage: &Stage) -> Verdict {
    for (what, bytes) in garbage() {
        let wire = stage.connect().await?;
        let asked = unary(&wire.channel, "CreateSandbox", bytes);
        let call = format!("CreateSandbox with {what}");
        if wire.answer(&call, stage.limits().call, asked).await?.is_ok() {
            return Err(broken(call, "a refusal", "OK"));
        }
        must(&format!("GetCapabilities after {what}"), stage.wire.capabilities().await?)?;
    }
    Ok(())
}

pub(crate) async fn unknown_fields_are_tolerated(stage: &Stage) -> Verdict {
    let (wire, limits, sandbox) = (&stage.wire, stage.limits(), stage.sandbox());
    let asked = unary(&wire.channel, "CreateSandbox", strange_create(sandbox.clone()));
    must("CreateSandbox with unknown fields", wire.answer("CreateSandbox", limits.create, asked).await?)?;
    let request = GetSandboxRequest { sandbox_id: sandbox.id.clone(), sandbox_name: sandbox.name.clone() };
    let asked = unary(&wire.channel, "GetSandbox", strange_get(&request));
    must("GetSandbox with unknown fields", wire.answer("GetSandbox", limits.call, asked).await?)?;
    equal("the name of the sandbox that was made so", &stage.got(&sandbox).await?.name, &sandbox.name)
}
