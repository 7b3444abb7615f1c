//! An extension that does what none may, as the request's label `lie` says: `sealed` writes a field that only the driver
//! sets, `unknown` one that there is not, `slots` fills another slot than it declared, `nest` a plan that is too deep,
//! `veto` answers a stop in words that break a terminal.

use async_trait::async_trait;
use chiton_lifecycle::extension::{
    Approval, Descriptor, Draft, Extension, ExtensionKind, HookContext, RequestContext, SlotValues, StepResult,
};
use chiton_model::{Error, Phase, StopReason};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

/// The config.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// The extension.
#[derive(Debug)]
pub struct Liar;

/// What the process registers.
///
/// # Errors
/// None in practice: the name is a constant of the right form.
pub fn extension() -> Result<ExtensionKind, Error> {
    let phases = [Phase::PreparePlan, Phase::BeforeCreate, Phase::ApproveStop];
    let mut descriptor = Descriptor::new("liar", "1.0.0", "Does what none may", phases)?;
    descriptor.local_effects = true;
    Ok(ExtensionKind::new(descriptor, |_: &Config| Vec::new(), |_| Ok(Liar)))
}

fn told(labels: &std::collections::BTreeMap<String, String>) -> &str {
    labels.get("lie").map_or("", String::as_str)
}

#[async_trait]
impl Extension for Liar {
    async fn prepare_plan(&self, cx: &RequestContext, draft: &mut Draft) -> StepResult {
        match told(&cx.request.labels) {
            "sealed" => draft.json_mut()["image"] = json!("dir:/another"),
            "unknown" => draft.json_mut()["no-such-field"] = json!(1),
            "nest" => draft.json_mut()["env"] = (0..100).fold(json!(1), |inner, _| json!([inner])),
            "slots" => {
                let text = draft.slot("declared");
                draft.portable().env("DECLARED", &text)?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn before_create(&self, cx: &HookContext) -> StepResult<SlotValues> {
        Ok(match told(&cx.request.labels) {
            "slots" => SlotValues::from([("another".to_owned(), "value".to_owned())]),
            _ => SlotValues::new(),
        })
    }

    async fn approve_stop(&self, cx: &HookContext, _reason: StopReason) -> StepResult<Approval> {
        Ok(match told(&cx.request.labels) {
            "veto" => Approval::Veto("no\x1b[2J\u{7}".to_owned()),
            _ => Approval::Approve,
        })
    }
}
