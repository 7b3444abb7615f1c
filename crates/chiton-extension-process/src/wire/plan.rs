//! Writes to a plan: recorded in the extension's process, carried out in the gateway's.

use std::sync::Arc;

use chiton_driver::{Capabilities, Point, PortableWrite};
use chiton_lifecycle::extension::{Draft, PortableWriter, StepError, StepResult};
use chiton_model::{DriverId, Error};
use parking_lot::Mutex;
use serde_json::Value;

use super::document;
use crate::proto::{
    KeyValue, MountOp, PlanWriteOp, PortableOp, PrepareHookResponse, SlotDeclaration, plan_write_op, portable_op,
};

/// More writes than anybody means; each may cost a comparison of the plan.
const MOST_WRITES: usize = 4096;

/// A plan of more values is no plan.
const MOST_VALUES: usize = 100_000;

/// Notes what a `prepare_plan` writes. Portable writes are carried out by the driver, which is in the gateway: in the draft
/// they show only afterwards.
pub(crate) struct Recorder {
    driver: Arc<Capabilities>,
    so_far: Mutex<SoFar>,
}

struct SoFar {
    plan: Value,
    writes: Vec<PlanWriteOp>,
}

impl SoFar {
    /// Takes in what was written to the document itself since the last time.
    fn catch_up(&mut self, plan: &Value) {
        if *plan == self.plan {
            return;
        }
        let patch = json_patch::diff(&self.plan, plan);
        // A patch is a list of operations on JSON values; it has a text.
        let patch_json = serde_json::to_string(&patch).unwrap_or_default();
        self.writes.push(PlanWriteOp { write: Some(plan_write_op::Write::PatchJson(patch_json)) });
        self.plan = plan.clone();
    }
}

impl Recorder {
    pub(crate) fn new(plan: Value, driver: Arc<Capabilities>) -> Self {
        Self { driver, so_far: Mutex::new(SoFar { plan, writes: Vec::new() }) }
    }

    /// Everything that was written and declared.
    pub(crate) fn answer(&self, draft: &Draft) -> PrepareHookResponse {
        let mut so_far = self.so_far.lock();
        so_far.catch_up(draft.json());
        let slots = draft.slots().map(|(name, default)| SlotDeclaration {
            name: name.to_owned(),
            default_value: default.map(ToOwned::to_owned),
        });
        PrepareHookResponse { failure: None, writes: std::mem::take(&mut so_far.writes), slots: slots.collect() }
    }
}

impl PortableWriter for Recorder {
    fn driver(&self) -> DriverId {
        self.driver.id.clone()
    }

    fn write(&self, plan: &mut Value, write: &PortableWrite) -> Result<(), Error> {
        let (point, op) = portable(write);
        if !self.driver.points.contains(&point) {
            let id = self.driver.id.as_str();
            let message = format!("driver {id:?} does not offer the point {:?}", point.as_str());
            return Err(Error::unsupported(id, point.as_str(), message));
        }
        let mut so_far = self.so_far.lock();
        so_far.catch_up(plan);
        so_far.writes.push(PlanWriteOp { write: Some(plan_write_op::Write::Portable(PortableOp { point: Some(op) })) });
        Ok(())
    }
}

fn pair(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: value.to_owned() }
}

fn portable(write: &PortableWrite) -> (Point, portable_op::Point) {
    use portable_op::Point as Op;
    match write {
        PortableWrite::Env { name, value } => (Point::Env, Op::Env(pair(name, value))),
        PortableWrite::Label { key, value } => (Point::Label, Op::Label(pair(key, value))),
        PortableWrite::Annotation { key, value } => (Point::Annotation, Op::Annotation(pair(key, value))),
        PortableWrite::Mount { source, target, read_only } => {
            let (source, target) = (source.clone(), target.clone());
            (Point::Mount, Op::Mount(MountOp { source, target, read_only: *read_only }))
        }
        PortableWrite::Device { path } => (Point::Device, Op::Device(path.clone())),
        PortableWrite::Network { address } => (Point::Network, Op::Network(address.clone())),
        PortableWrite::Resource { name, quantity } => (Point::Resource, Op::Resource(pair(name, quantity))),
    }
}

/// Carries out what a process asked for. Whether it may is the engine's to say, which compares the plan before and after.
pub(crate) fn apply(answer: PrepareHookResponse, draft: &mut Draft) -> StepResult {
    if answer.writes.len() > MOST_WRITES || answer.slots.len() > MOST_WRITES {
        return Err(StepError::fatal(format!("it answered with more than {MOST_WRITES} writes or slots")));
    }
    for slot in &answer.slots {
        // Its marker is in what it writes.
        match &slot.default_value {
            Some(default) => draft.slot_or(&slot.name, default),
            None => draft.slot(&slot.name),
        };
    }
    for PlanWriteOp { write } in answer.writes {
        match write {
            Some(plan_write_op::Write::PatchJson(text)) => patch(&text, draft)?,
            Some(plan_write_op::Write::Portable(PortableOp { point: Some(op) })) => carry_out(op, draft)?,
            _ => return Err(StepError::fatal("it answered with a kind of write that this gateway does not know")),
        }
    }
    Ok(())
}

fn patch(text: &str, draft: &mut Draft) -> StepResult {
    let wrong = |why: String| StepError::fatal(format!("its patch cannot be applied: {why}"));
    let patch: json_patch::Patch = document("patch_json", text)
        .and_then(|value| serde_json::from_value(value).map_err(|e| e.to_string()))
        .map_err(wrong)?;
    if patch.0.len() > MOST_WRITES {
        return Err(wrong(format!("it has more than {MOST_WRITES} operations")));
    }
    for operation in patch.0 {
        // A few copies of a thing into itself would fill the memory; the sum of texts limits everything else.
        if matches!(operation, json_patch::PatchOperation::Copy(_)) && values(draft.json()) > MOST_VALUES {
            return Err(wrong(format!("it copies within a plan of more than {MOST_VALUES} values")));
        }
        json_patch::patch(draft.json_mut(), &[operation]).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(())
}

fn values(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(values).sum::<usize>() + 1,
        Value::Object(entries) => entries.values().map(values).sum::<usize>() + 1,
        _ => 1,
    }
}

fn carry_out(op: portable_op::Point, draft: &mut Draft) -> StepResult {
    use portable_op::Point as Op;
    let portable = draft.portable();
    match op {
        Op::Env(KeyValue { key, value }) => portable.env(&key, &value),
        Op::Label(KeyValue { key, value }) => portable.label(&key, &value),
        Op::Annotation(KeyValue { key, value }) => portable.annotation(&key, &value),
        Op::Mount(MountOp { source, target, read_only }) => portable.mount(&source, &target, read_only),
        Op::Device(path) => portable.device(&path),
        Op::Network(address) => portable.network(&address),
        Op::Resource(KeyValue { key, value }) => portable.resource(&key, &value),
    }
}
