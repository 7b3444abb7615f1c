//! A template for extension authors: copy this folder, rename it, and fill in what you need.
//!
//! An extension is one crate. To put it into a gateway:
//!
//! 1. register it where the binary is composed: `.extension(my_extension::extension())`,
//! 2. list it in the config, where the order is the chain's order: `[compute] extensions = ["noop"]`,
//! 3. give it its config: `[compute.extension."noop"]`, and the operator's rules: `[compute.policy."noop"]`.
//!
//! This one does nothing, in every phase that has effects: a chain of it gives the same plan as no chain at all, and a
//! timeline shows what a call of an extension costs.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

use async_trait::async_trait;
use chiton_lifecycle::extension::{
    Descriptor, Draft, Extension, ExtensionKind, HookContext, RequestContext, SlotValues, StepResult,
};
use chiton_model::{CreateFailure, Error, Phase, Ran, StartReason, StopReason};
use schemars::JsonSchema;
use serde::Deserialize;

/// Your config. `deny_unknown_fields` makes a typing slip an error that names the nearest field; doc comments become the
/// published JSON schema.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// Your extension. One value serves all sandboxes that froze the same config, from several threads at once: keep what
/// belongs to one sandbox in `cx.save`, not here.
#[derive(Debug)]
pub struct Noop;

/// What a distribution registers: the declaration, a check of the config, and how to make an instance from it.
///
/// # Errors
/// When the name is not of the form that the model asks for.
pub fn extension() -> Result<ExtensionKind, Error> {
    // Declare only the phases that you use: no other method is called, and a phase that is not declared costs nothing.
    let phases = [
        Phase::PreparePlan,
        Phase::BeforeCreate,
        Phase::AfterCreate,
        Phase::BeforeStart,
        Phase::AfterReady,
        Phase::BeforeStop,
        Phase::AfterStop,
        Phase::OnCreateFailed,
        Phase::BeforeDelete,
        Phase::AfterDelete,
    ];
    let mut descriptor = Descriptor::new("noop", env!("CARGO_PKG_VERSION"), "Does nothing, in every phase", phases)?;
    // What you cannot do without goes into `needs`: a driver that lacks it is refused before anything is stored.
    //     descriptor.needs.points.insert(Point::Env);
    // Say `true` only if nothing of you can still be on its way once the gateway's process is gone.
    descriptor.local_effects = true;
    // The second argument looks at a config without building anything; the third builds.
    Ok(ExtensionKind::new(descriptor, |_: &Config| Vec::new(), |_| Ok(Noop)))
}

#[async_trait]
impl Extension for Noop {
    /// Write plan fields here, and only here. Must be pure: the same request gives the same writes in any process, so no
    /// clock, no random numbers, no network. For a value that is known only later, declare a slot:
    ///
    /// ```ignore
    /// let address = draft.slot("address");
    /// draft.portable().env("ADDRESS", &address)?;
    /// ```
    async fn prepare_plan(&self, _cx: &RequestContext, _draft: &mut Draft) -> StepResult {
        Ok(())
    }

    /// Allocate here. The object does not exist yet. Return a value for each slot that you declared. May be called again
    /// after a crash: derive external handles from `cx.idempotency_key("…")`, so that a second call finds the first's.
    async fn before_create(&self, _cx: &HookContext) -> StepResult<SlotValues> {
        Ok(SlotValues::new())
    }

    /// The object exists and has not started.
    async fn after_create(&self, _cx: &HookContext) -> StepResult {
        Ok(())
    }

    /// Undoes `before_create` and `after_create` of a create that failed. The object is confirmed absent. Works whether
    /// the action ran or not (`ran` says what is known), twice in a row, and without saved state.
    async fn on_create_failed(&self, _cx: &HookContext, _ran: Ran, _failure: &CreateFailure) -> StepResult {
        Ok(())
    }

    /// Undoes the same of a sandbox that lived. Most extensions call one function from both.
    async fn after_delete(&self, _cx: &HookContext, _ran: Ran) -> StepResult {
        Ok(())
    }

    /// Before each start, the first included.
    async fn before_start(&self, _cx: &HookContext, _reason: StartReason) -> StepResult {
        Ok(())
    }

    /// After each start, when the agent is connected.
    async fn after_ready(&self, _cx: &HookContext, _reason: StartReason) -> StepResult {
        Ok(())
    }

    /// Undoes `before_start` and `after_ready`. The sandbox is confirmed stopped.
    async fn after_stop(&self, _cx: &HookContext, _ran: Ran, _reason: StopReason) -> StepResult {
        Ok(())
    }

    /// A last look while it runs. Owes nothing; a failure becomes a condition and the stop goes on.
    async fn before_stop(&self, _cx: &HookContext, _reason: StopReason) -> StepResult {
        Ok(())
    }

    /// A last look before it goes. Owes nothing.
    async fn before_delete(&self, _cx: &HookContext) -> StepResult {
        Ok(())
    }
}
