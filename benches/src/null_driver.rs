//! A driver whose platform is a map: what is left of a create is the engine and the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use chiton_driver::{
    CallResult, Capabilities, ComputeDriver, CreateCall, DefaultPlan, DriverEvent, Feature, FieldRule, Identity,
    Locality, Observed, ObservedStatus, PlanRequest, Point, PortableWrite, Rule, StartCall,
};
use chiton_gateway::{BuiltDriver, DriverContext, DriverKind};
use chiton_model::{BackendId, DriverId, Error, GatewayId, SandboxId, StoreEpoch};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use serde_json::{Value, json};

pub(crate) fn kind() -> DriverKind {
    // It makes no sandboxes: of use to whoever names it only.
    let probe = |_: &Value| Err(Error::unavailable("null", "it is chosen by name only").cure("name it: --driver null"));
    DriverKind { kind: "null", early: |_| None, check: |_| Vec::new(), build, doctor: |_| Vec::new(), probe }
}

#[expect(clippy::unnecessary_wraps, reason = "the form of every driver's constructor")]
fn build(context: DriverContext) -> Result<BuiltDriver, Error> {
    let driver = NullDriver::new(context.id, context.gateway);
    Ok(BuiltDriver { driver: Arc::new(driver), agent_folder: None })
}

pub(crate) struct NullDriver {
    capabilities: Arc<Capabilities>,
    rules: Vec<FieldRule>,
    gateway: GatewayId,
    objects: Mutex<BTreeMap<SandboxId, Observed>>,
}

impl NullDriver {
    pub(crate) fn new(id: DriverId, gateway: GatewayId) -> Self {
        let capabilities = Arc::new(Capabilities {
            id,
            kind: "null".to_owned(),
            version: "0".to_owned(),
            default_image: "none".to_owned(),
            gateway_manages_lifecycle: false,
            locality: Locality::Local,
            points: BTreeSet::from([Point::Label]),
            limits: BTreeSet::new(),
            networks: BTreeSet::new(),
            features: BTreeSet::from([Feature::TwoPhaseStart]),
            plan_schema: 1,
            agent: false,
        });
        let rules = vec![FieldRule::new("/labels", Rule::MergeMap)];
        Self { capabilities, rules, gateway, objects: Mutex::default() }
    }

    fn set(&self, call: &CreateCall, status: ObservedStatus) {
        let Identity { sandbox, epoch, commit, .. } = call.identity.clone();
        self.hold(sandbox, status, epoch, commit);
    }

    /// As if it had been created.
    pub(crate) fn hold(&self, id: SandboxId, status: ObservedStatus, epoch: StoreEpoch, commit: u64) {
        let gateway = self.gateway.clone();
        self.objects.lock().insert(id.clone(), Observed { id, status, attempt: None, gateway, epoch, commit });
    }
}

#[async_trait]
impl ComputeDriver for NullDriver {
    fn capabilities(&self) -> Arc<Capabilities> {
        Arc::clone(&self.capabilities)
    }

    async fn backend_id(&self) -> CallResult<BackendId> {
        Ok(BackendId("null".to_owned()))
    }

    async fn default_plan(&self, request: &PlanRequest) -> Result<DefaultPlan, Error> {
        let plan =
            json!({ "image": request.image, "labels": request.labels, "env": request.env, "command": request.command });
        Ok(DefaultPlan { plan, slots: BTreeMap::new(), from_request: Vec::new(), from_image: Vec::new() })
    }

    fn field_rules(&self) -> &[FieldRule] {
        &self.rules
    }

    fn plan_schema(&self) -> Value {
        json!({})
    }

    fn write_portable(&self, plan: &mut Value, write: &PortableWrite) -> Result<(), Error> {
        let PortableWrite::Label { key, value } = write else {
            return Err(Error::unsupported("null", "other", "only labels are offered"));
        };
        plan["labels"][key] = json!(value);
        Ok(())
    }

    async fn validate(&self, _plan: &Value) -> Result<(), Error> {
        Ok(())
    }

    async fn create(&self, call: &CreateCall) -> CallResult<()> {
        self.set(call, ObservedStatus::Created);
        Ok(())
    }

    async fn start(&self, call: &StartCall) -> CallResult<()> {
        self.set(call, ObservedStatus::Running);
        Ok(())
    }

    async fn stop(&self, _id: &SandboxId) -> CallResult<()> {
        Ok(())
    }

    async fn delete(&self, id: &SandboxId) -> CallResult<()> {
        self.objects.lock().remove(id);
        Ok(())
    }

    async fn get(&self, id: &SandboxId) -> CallResult<Option<Observed>> {
        Ok(self.objects.lock().get(id).cloned())
    }

    async fn list(&self) -> CallResult<Vec<Observed>> {
        Ok(self.objects.lock().values().cloned().collect())
    }

    fn watch(&self) -> BoxStream<'static, DriverEvent> {
        futures::stream::iter([DriverEvent::SnapshotEnd]).chain(futures::stream::pending()).boxed()
    }
}
