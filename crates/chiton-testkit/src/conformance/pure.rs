//! What has no effects: validators, plans, slots, the config.

use chiton_model::Phase;
use serde_json::{Value, json};

use super::Rule;
use super::kit::{Found, Kit};
use super::rig::{Fault, Ill, Moment};
use super::stage::{Setting, Stage};

/// So many instances make the plan: a hash map's order differs between two of them with near certainty.
const INSTANCES: u64 = 8;

/// The plan of the same request, as JSON, or what refused it.
fn plan(stage: &Stage) -> Option<Result<Value, String>> {
    let (engine, principal, request) = (stage.lab.engine(), stage.lab.request().principal, stage.plain_request());
    let preview = stage.lab.run(async move { engine.plan(&principal, &request).await })?;
    Some(preview.map(|preview| preview.plan.plan).map_err(|error| error.to_string()))
}

/// Same input, same output, no effect, nothing saved.
pub(super) fn purity(kit: &Kit, phase: Phase) -> Found {
    let mut found = Found::default();
    if phase == Phase::ApproveStop {
        let mut stage = kit.stage(&Setting::default(), "");
        stage.rig.arm(Fault { phase, nth: 1, moment: Moment::After, ill: Ill::Repeat });
        if stage.start() {
            stage.play();
        }
        found.add(stage.end());
        return found;
    }
    let mut first = None;
    for seed in 0..INSTANCES {
        let place = "a plan of the same request was made by several instances, several times each";
        let mut stage = kit.stage(&Setting { seed, ..Setting::default() }, place);
        let before = stage.rig.held();
        if stage.start() {
            for _ in 0..2 {
                let Some(next) = plan(&stage) else { break };
                let same = first.get_or_insert_with(|| next.clone());
                if *same != next {
                    stage.rig.find(Rule::Pure, format!("{}", Difference(same, &next)));
                }
            }
        }
        let after = stage.rig.held();
        if after != before {
            stage.rig.find(Rule::Pure, format!("before the plans it held {before:?}, after them {after:?}"));
        }
        found.add(stage.end());
        if !found.findings.is_empty() {
            break;
        }
    }
    found
}

/// Where two answers part.
struct Difference<'a>(&'a Result<Value, String>, &'a Result<Value, String>);

impl std::fmt::Display for Difference<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0, self.1) {
            (Ok(one), Ok(other)) => match parted(one, other, "") {
                Some((path, one, other)) => write!(f, "at {path:?} one plan says {one}, another {other}"),
                None => f.write_str("two plans differ"),
            },
            (one, other) => write!(f, "one answer is {one:?}, another {other:?}"),
        }
    }
}

fn parted<'a>(one: &'a Value, other: &'a Value, path: &str) -> Option<(String, &'a Value, &'a Value)> {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let mut keys = one.keys().chain(other.keys());
            keys.find_map(|key| {
                let (one, other) = (one.get(key).unwrap_or(&Value::Null), other.get(key).unwrap_or(&Value::Null));
                parted(one, other, &format!("{path}/{key}"))
            })
        }
        _ if one == other => None,
        _ => Some((path.to_owned(), one, other)),
    }
}

/// Slots exactly as declared; what is filled is compared wherever `before_create` runs.
pub(super) fn slots(kit: &Kit) -> Found {
    let mut found = Found::default();
    let mut stage = kit.stage(&Setting::default(), "nothing was done to it");
    if stage.start() {
        stage.play();
        let declared = stage.rig.declared();
        if !declared.is_empty() && !stage.takes_part(Phase::BeforeCreate) {
            let what = format!("prepare_plan declares slots {declared:?} and before_create is not among its phases");
            stage.rig.find(Rule::Slots, what);
        }
    }
    found.add(stage.end());
    found
}

/// The config is accepted, an unknown field is not, and neither checking nor building changes the world.
pub(super) fn config(kit: &Kit) -> Found {
    let mut found = Found::default();
    let stage = kit.stage(&Setting::default(), "its config was checked and an instance built");
    let before = stage.rig.held();
    let issues = kit.kind().check(&stage.bench.config);
    if !issues.is_empty() {
        stage.rig.find(Rule::Config, format!("the kit's config is not accepted: {issues:?}"));
    }
    let mut unknown = stage.bench.config.clone();
    unknown["a-field-that-the-kit-made-up"] = json!(1);
    if kit.kind().check(&unknown).is_empty() {
        stage.rig.find(Rule::Config, "a field that it does not know is accepted");
    }
    if kit.kind().build(&stage.bench.config).is_err() && issues.is_empty() {
        stage.rig.find(Rule::Config, "the config passes the check and no instance can be built from it");
    }
    let after = stage.rig.held();
    if after != before {
        stage.rig.find(Rule::Config, format!("before it held {before:?}, after it {after:?}"));
    }
    found.add(stage.rig.take());
    found
}
