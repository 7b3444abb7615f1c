//! A driver whose objects are symbolic links: real effects that outlive the gateway, at next to no cost, so that what is
//! measured over it is the engine and the store and not the machine's containers.
//!
//! `FOLDER/ID` points to `STATUS:EPOCH:COMMIT`; a change is a rename of a new link over the old one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chiton_driver::{
    CallError, CallResult, Capabilities, ComputeDriver, CreateCall, DefaultPlan, DriverEvent, Feature, FieldRule,
    Locality, Observed, ObservedStatus, PlanRequest, Point, PortableWrite, Rule, StartCall,
};
use chiton_gateway::{BuiltDriver, DriverContext, DriverKind};
use chiton_lifecycle::extension::{ConfigIssue, decode_config};
use chiton_model::{BackendId, Error, ExitStatus, GatewayId, SandboxId, StoreEpoch};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

/// `[compute.driver.links]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// How long a create takes, in milliseconds; the object is there from the beginning. Default: 0.
    create_ms: u64,
}

/// The driver, as a distribution registers it.
#[must_use]
pub fn kind() -> DriverKind {
    // It makes no sandboxes: of use to whoever names it only.
    let probe =
        |_: &Value| Err(Error::unavailable("links", "it is chosen by name only").cure("name it: --driver links"));
    DriverKind { kind: "links", early: |_| None, check, build, doctor: |_| Vec::new(), probe }
}

fn check(options: &Value) -> Vec<ConfigIssue> {
    decode_config::<Config>(options).err().into_iter().collect()
}

fn build(context: DriverContext) -> Result<BuiltDriver, Error> {
    let config: Config =
        decode_config(&context.config).map_err(|issue| Error::invalid(issue.pointer, issue.message))?;
    let folder = context.state_dir.join("objects");
    let unusable =
        |error: io::Error| Error::unavailable("links", format!("the folder {folder:?} is unusable: {error}"));
    fs::create_dir_all(&folder).map_err(unusable)?;
    let capabilities = Arc::new(Capabilities {
        id: context.id,
        kind: "links".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        default_image: "none".to_owned(),
        gateway_manages_lifecycle: false,
        locality: Locality::Local,
        points: BTreeSet::from([Point::Label, Point::Env, Point::Network]),
        limits: BTreeSet::new(),
        networks: BTreeSet::new(),
        features: BTreeSet::from([Feature::TwoPhaseStart]),
        plan_schema: 1,
        agent: false,
    });
    let rules = vec![
        FieldRule::new("/labels", Rule::MergeMap),
        FieldRule::new("/env", Rule::MergeMap),
        FieldRule::new("/address", Rule::SetOnce),
    ];
    let create_takes = Duration::from_millis(config.create_ms);
    let driver = Links { capabilities, rules, gateway: context.gateway, folder, create_takes };
    Ok(BuiltDriver { driver: Arc::new(driver), agent_folder: None })
}

struct Links {
    capabilities: Arc<Capabilities>,
    rules: Vec<FieldRule>,
    gateway: GatewayId,
    folder: PathBuf,
    create_takes: Duration,
}

fn unknown(error: &io::Error) -> CallError {
    CallError::Unknown(Error::internal(format!("the folder of objects: {error}")))
}

/// Reads `STATUS:EPOCH:COMMIT`.
fn parse(text: &str) -> Option<(ObservedStatus, StoreEpoch, u64)> {
    let mut parts = text.splitn(3, ':');
    let status = match parts.next()? {
        "created" => ObservedStatus::Created,
        "running" => ObservedStatus::Running,
        "exited" => ObservedStatus::Exited(ExitStatus { code: None, reason: "Exited".to_owned(), at: None }),
        _ => return None,
    };
    Some((status, StoreEpoch::new(parts.next()?).ok()?, parts.next()?.parse().ok()?))
}

impl Links {
    fn set(&self, id: &SandboxId, status: &str, epoch: &StoreEpoch, commit: u64) -> io::Result<()> {
        // Not an id, so that a listing passes it over when a crash leaves it.
        let draft = self.folder.join(format!(".{id}"));
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::os::unix::fs::symlink(format!("{status}:{epoch}:{commit}"), &draft)?;
        fs::rename(draft, self.folder.join(id.as_str()))
    }

    fn look(&self, id: SandboxId) -> io::Result<Option<Observed>> {
        let text = match fs::read_link(self.folder.join(id.as_str())) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let (status, epoch, commit) =
            parse(&text.to_string_lossy()).ok_or_else(|| io::Error::other(format!("{text:?} is not an object")))?;
        Ok(Some(Observed { id, status, attempt: None, gateway: self.gateway.clone(), epoch, commit }))
    }

    fn all(&self) -> io::Result<Vec<Observed>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            if let Ok(id) = SandboxId::new(entry?.file_name().to_string_lossy()) {
                found.extend(self.look(id)?);
            }
        }
        Ok(found)
    }
}

#[async_trait]
impl ComputeDriver for Links {
    fn capabilities(&self) -> Arc<Capabilities> {
        Arc::clone(&self.capabilities)
    }

    async fn backend_id(&self) -> CallResult<BackendId> {
        Ok(BackendId(format!("links:{}", self.folder.display())))
    }

    async fn default_plan(&self, request: &PlanRequest) -> Result<DefaultPlan, Error> {
        let plan = json!({ "image": request.image, "labels": request.labels, "env": request.env, "command": request.command,
            "address": null });
        Ok(DefaultPlan { plan, slots: BTreeMap::new(), from_request: Vec::new(), from_image: Vec::new() })
    }

    fn field_rules(&self) -> &[FieldRule] {
        &self.rules
    }

    fn plan_schema(&self) -> Value {
        json!({ "type": "object" })
    }

    fn write_portable(&self, plan: &mut Value, write: &PortableWrite) -> Result<(), Error> {
        match write {
            PortableWrite::Label { key, value } => plan["labels"][key] = json!(value),
            PortableWrite::Env { name, value } => plan["env"][name] = json!(value),
            PortableWrite::Network { address } => plan["address"] = json!(address),
            other => return Err(Error::unsupported("links", "point", format!("{other:?} is not offered"))),
        }
        Ok(())
    }

    async fn validate(&self, _plan: &Value) -> Result<(), Error> {
        Ok(())
    }

    async fn create(&self, call: &CreateCall) -> CallResult<()> {
        let identity = &call.identity;
        let made = self.set(&identity.sandbox, "created", &identity.epoch, identity.commit);
        made.map_err(|error| unknown(&error))?;
        if !self.create_takes.is_zero() {
            tokio::time::sleep(self.create_takes).await;
        }
        Ok(())
    }

    async fn start(&self, call: &StartCall) -> CallResult<()> {
        let identity = &call.identity;
        let set = self.set(&identity.sandbox, "running", &identity.epoch, identity.commit);
        set.map_err(|error| unknown(&error))
    }

    async fn stop(&self, id: &SandboxId) -> CallResult<()> {
        let stopped = match self.look(id.clone()) {
            Ok(Some(object)) if object.status == ObservedStatus::Running => {
                self.set(id, "exited", &object.epoch, object.commit)
            }
            other => other.map(drop),
        };
        stopped.map_err(|error| unknown(&error))
    }

    async fn delete(&self, id: &SandboxId) -> CallResult<()> {
        match fs::remove_file(self.folder.join(id.as_str())) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(unknown(&error)),
            _ => Ok(()),
        }
    }

    async fn get(&self, id: &SandboxId) -> CallResult<Option<Observed>> {
        self.look(id.clone()).map_err(|error| unknown(&error))
    }

    async fn list(&self) -> CallResult<Vec<Observed>> {
        self.all().map_err(|error| unknown(&error))
    }

    fn watch(&self) -> BoxStream<'static, DriverEvent> {
        // Nothing changes by itself; the snapshot is what a listing says.
        let mut events: Vec<DriverEvent> =
            self.all().unwrap_or_default().into_iter().map(DriverEvent::Changed).collect();
        events.push(DriverEvent::SnapshotEnd);
        futures::stream::iter(events).chain(futures::stream::pending()).boxed()
    }
}
