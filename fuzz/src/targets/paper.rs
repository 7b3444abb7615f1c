//! A driver that has rules for its plans and makes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use chiton_driver::{
    CallError, CallResult, Capabilities, ComputeDriver, CreateCall, DefaultPlan, DriverEvent, FieldRule, Locality,
    Observed, PlanRequest, PortableWrite, StartCall,
};
use chiton_model::{BackendId, DriverId, Error, SandboxId};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde_json::Value;

/// The driver.
pub(super) struct Paper {
    capabilities: Arc<Capabilities>,
    rules: Vec<FieldRule>,
}

impl Paper {
    pub(super) fn new(rules: Vec<FieldRule>) -> Self {
        let capabilities = Arc::new(Capabilities {
            id: DriverId::new("paper").expect("valid"),
            kind: "paper".to_owned(),
            version: "1.0.0".to_owned(),
            default_image: String::new(),
            gateway_manages_lifecycle: false,
            locality: Locality::Local,
            points: BTreeSet::new(),
            limits: BTreeSet::new(),
            networks: BTreeSet::new(),
            features: BTreeSet::new(),
            plan_schema: 1,
            agent: false,
        });
        Self { capabilities, rules }
    }
}

fn nothing<T>() -> CallResult<T> {
    Err(CallError::NotRun(Error::internal("this driver only has rules")))
}

#[async_trait]
impl ComputeDriver for Paper {
    fn capabilities(&self) -> Arc<Capabilities> {
        Arc::clone(&self.capabilities)
    }
    async fn backend_id(&self) -> CallResult<BackendId> {
        nothing()
    }
    async fn default_plan(&self, _: &PlanRequest) -> Result<DefaultPlan, Error> {
        nothing().map_err(CallError::into_error)
    }
    fn field_rules(&self) -> &[FieldRule] {
        &self.rules
    }
    fn plan_schema(&self) -> Value {
        Value::Null
    }
    fn write_portable(&self, _: &mut Value, _: &PortableWrite) -> Result<(), Error> {
        Ok(())
    }
    async fn validate(&self, _: &Value) -> Result<(), Error> {
        Ok(())
    }
    async fn create(&self, _: &CreateCall) -> CallResult<()> {
        nothing()
    }
    async fn start(&self, _: &StartCall) -> CallResult<()> {
        nothing()
    }
    async fn stop(&self, _: &SandboxId) -> CallResult<()> {
        nothing()
    }
    async fn delete(&self, _: &SandboxId) -> CallResult<()> {
        nothing()
    }
    async fn get(&self, _: &SandboxId) -> CallResult<Option<Observed>> {
        nothing()
    }
    async fn list(&self) -> CallResult<Vec<Observed>> {
        nothing()
    }
    fn watch(&self) -> BoxStream<'static, DriverEvent> {
        futures::stream::pending().boxed()
    }
}
