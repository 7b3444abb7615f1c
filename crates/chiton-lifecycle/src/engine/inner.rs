//! The engine's shared state.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use chiton_driver::ComputeDriver;
use chiton_model::{BackendId, Condition, DriverId, Error, ErrorKind, ExtensionName, Principal, SandboxId, nearest};
use futures::channel::oneshot;
use jiff::Timestamp;
use parking_lot::Mutex;

use super::admit::Table;
use super::book::Book;
use super::chain::Instances;
use super::durable::Durable;
use super::permits::Permits;
use super::reach::Unreachable;
use super::requests::Gates;
use super::{Engine, EngineConfig, EngineParts, StartupError};
use crate::extension::Registry;
use crate::journal::{JournalError, OpenOperation, SandboxRecord, Subject, WorkspaceKey};
use crate::policy::Policy;
use crate::runtime::{CancelToken, LifecycleEvent, World};

pub(super) struct Inner {
    pub(super) world: World,
    pub(super) journal: Arc<Durable>,
    pub(super) drivers: BTreeMap<DriverId, Arc<dyn ComputeDriver>>,
    pub(super) registry: Registry,
    pub(super) config: EngineConfig,
    /// Who runs on what.
    pub(super) table: Table,
    /// Extension instances by name and config digest.
    pub(super) instances: Instances,
    /// Permits for hooks, per extension.
    pub(super) permits: Mutex<HashMap<ExtensionName, Permits>>,
    /// Hooks that did not end when they should have, until they do.
    pub(super) still_running: Mutex<HashMap<(Subject, ExtensionName), CancelToken>>,
    /// Rows whose name is free although their row still holds it: their object is gone, or is being undone.
    pub(super) released: Mutex<HashSet<SandboxId>>,
    /// What operations wait for that end in their own time only: shown with the row, stored with nothing.
    pub(super) passing: Mutex<HashMap<SandboxId, Condition>>,
    /// The installation that each driver talks to, while its news have not ended since it was asked.
    pub(super) backends: Mutex<BTreeMap<DriverId, BackendId>>,
    /// Sandboxes and workspaces that nothing may touch, and why.
    pub(super) held: Mutex<HashMap<Subject, String>>,
    /// Interrupted operations of what is held: they go on when it is adopted.
    pub(super) waiting: Mutex<BTreeMap<Subject, OpenOperation>>,
    /// Open obligations.
    pub(super) book: Book,
    /// Requests on their way to C1.
    pub(super) gates: Gates,
    /// Objects and holdings without an owner, and since when (milliseconds since boot).
    pub(super) suspects: Mutex<BTreeMap<String, u64>>,
    /// Drivers whose first snapshot has not arrived.
    pub(super) unlisted: Mutex<BTreeSet<DriverId>>,
    /// Sandboxes of which another driver than their own spoke, for which that was said.
    pub(super) strangers: Mutex<HashSet<(DriverId, SandboxId)>>,
    /// Drivers that can be asked, and since when.
    pub(super) reachable: Mutex<BTreeMap<DriverId, Timestamp>>,
    /// Drivers that cannot be asked.
    pub(super) unreachable: Mutex<BTreeMap<DriverId, Unreachable>>,
    /// Set at shutdown: nothing new begins.
    pub(super) stopping: AtomicBool,
    /// Ends background work.
    pub(super) stop: CancelToken,
}

impl Engine {
    /// Builds an engine. Everything that is wrong is reported at once.
    pub fn new(parts: EngineParts) -> Result<Self, StartupError> {
        let mut errors = Vec::new();
        let mut drivers = BTreeMap::new();
        for driver in parts.drivers {
            let id = driver.capabilities().id.clone();
            if drivers.insert(id.clone(), driver).is_some() {
                errors.push(
                    Error::already_exists(format!("two drivers have the id {:?}", id.as_str()))
                        .cure("give each an id of its own"),
                );
            }
        }
        if !drivers.contains_key(&parts.config.default_driver) {
            errors.push(
                Error::not_found(format!(
                    "the default driver {:?} is not configured",
                    parts.config.default_driver.as_str()
                ))
                .cure("set [compute] default_driver to one of the configured drivers"),
            );
        }
        let instances = Instances::default();
        for extension in &parts.config.extensions {
            if let Err(error) = instances.configured(&parts.registry, extension) {
                errors.push(error);
            }
        }
        if !errors.is_empty() {
            return Err(StartupError(errors));
        }
        let unlisted = drivers.keys().cloned().collect();
        let inner = Inner {
            journal: Arc::new(Durable::new(parts.journal, parts.world.points.clone())),
            world: parts.world,
            drivers,
            registry: parts.registry,
            config: parts.config,
            table: Table::default(),
            instances,
            permits: Mutex::default(),
            still_running: Mutex::default(),
            released: Mutex::default(),
            passing: Mutex::default(),
            backends: Mutex::default(),
            held: Mutex::default(),
            waiting: Mutex::default(),
            book: Book::default(),
            gates: Gates::default(),
            suspects: Mutex::default(),
            unlisted: Mutex::new(unlisted),
            strangers: Mutex::default(),
            reachable: Mutex::default(),
            unreachable: Mutex::default(),
            stopping: AtomicBool::new(false),
            stop: CancelToken::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Inner {
    /// Runs work to its end whatever becomes of the caller: a client that goes away changes nothing.
    pub(super) async fn owned<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let (done, result) = oneshot::channel();
        self.world.executor.spawn(Box::pin(async move {
            drop(done.send(work.await));
        }));
        result.await.unwrap_or_else(|_| Err(Error::internal("the task that owned the request ended early")))
    }

    /// The operator's rules about an extension, as they are now.
    pub(super) fn policy(&self, extension: &ExtensionName) -> Policy {
        self.config
            .extensions
            .iter()
            .find(|configured| configured.name == *extension)
            .map(|configured| configured.policy.clone())
            .or_else(|| self.config.other_policies.get(extension).cloned())
            .unwrap_or_default()
    }

    /// How a driver comes back that an earlier start had: by its name. What no list names may be another at each start.
    fn list_also(&self, id: &DriverId) -> String {
        let all: Vec<&str> = self.drivers.keys().map(DriverId::as_str).chain([id.as_str()]).collect();
        let default = self.config.default_driver.as_str();
        format!("list every driver that has sandboxes: [compute] drivers = {all:?} and default_driver = {default:?}")
    }

    /// A driver that a request names.
    pub(super) fn named_driver(&self, id: &DriverId) -> Result<Arc<dyn ComputeDriver>, Error> {
        self.drivers.get(id).cloned().ok_or_else(|| self.unknown_driver("driver", id.as_str()))
    }

    /// A request names a driver in this field, and there is none.
    pub(super) fn unknown_driver(&self, field: &str, name: &str) -> Error {
        let known = || self.drivers.keys().map(DriverId::as_str);
        let list = known().collect::<Vec<_>>().join(", ");
        let near = nearest(name, known()).map(|near| format!("did you mean {near:?}? ")).unwrap_or_default();
        Error::invalid(field, format!("driver {name:?} is not configured on this gateway"))
            .cure(format!("{near}configured: {list}"))
    }

    /// A driver that a record names.
    pub(super) fn driver(&self, id: &DriverId) -> Result<Arc<dyn ComputeDriver>, Error> {
        self.drivers.get(id).cloned().ok_or_else(|| {
            Error::unavailable(id.as_str(), format!("driver {:?} is not configured", id.as_str()))
                .cure(self.list_also(id))
        })
    }

    /// The installation that a driver talks to: asked once, then remembered until its news end.
    pub(super) async fn backend(&self, id: &DriverId) -> Result<BackendId, Error> {
        if let Some(backend) = self.backends.lock().get(id) {
            return Ok(backend.clone());
        }
        let driver = self.driver(id)?;
        let backend = self.look(&driver, driver.backend_id()).await?;
        self.backends.lock().insert(id.clone(), backend.clone());
        Ok(backend)
    }

    /// Refuses to touch a sandbox that is held.
    pub(super) fn check_held(&self, record: &SandboxRecord) -> Result<(), Error> {
        match self.held.lock().get(&record.subject()) {
            Some(why) => {
                Err(Error::unavailable("sandbox", format!("sandbox {:?} is held: {why}", record.name.as_str()))
                    .cure("restore what is missing, or delete the sandbox with --force"))
            }
            None => Ok(()),
        }
    }

    /// Refuses to touch a workspace that is held.
    pub(super) fn check_held_workspace(&self, key: &WorkspaceKey) -> Result<(), Error> {
        match self.held.lock().get(&Subject::Workspace(key.clone())) {
            Some(why) => {
                Err(Error::unavailable("workspace", format!("workspace {:?} is held: {why}", key.workspace.as_str()))
                    .cure("use another workspace until then"))
            }
            None => Ok(()),
        }
    }

    /// A sandbox's row, or an error that says that there is none.
    pub(super) async fn record(&self, id: &SandboxId) -> Result<SandboxRecord, Error> {
        self.journal
            .sandbox(id)
            .await
            .map_err(store_error)?
            .ok_or_else(|| Error::not_found(format!("there is no sandbox with id {id}")))
    }

    /// Tells the audience that a row changed.
    pub(super) fn changed(&self, record: &SandboxRecord) {
        self.world.audience.tell(LifecycleEvent::Changed(Arc::new(record.clone())));
    }

    /// A permit source for an extension's hooks.
    pub(super) fn permits_of(&self, extension: &ExtensionName, declared: u32) -> Permits {
        let limit = self.policy(extension).concurrency.unwrap_or(declared).max(1);
        let permits = usize::try_from(limit).unwrap_or(usize::MAX);
        self.permits.lock().entry(extension.clone()).or_insert_with(|| Permits::new(permits)).clone()
    }
}

/// The engine itself, when it acts on its own.
pub(super) fn engine_principal() -> Principal {
    Principal { subject: "engine".to_owned(), claims: BTreeMap::new() }
}

/// A failure of the store as an error condition.
pub(super) fn store_error(error: JournalError) -> Error {
    match error {
        JournalError::NameHeld { holder } => Error::already_exists(format!("the name is held by sandbox {holder}")),
        JournalError::WorkspaceGone => Error::conflict("the workspace is being deleted")
            .cure("try again when it is gone, or use another workspace"),
        JournalError::WorkspaceInUse(count) => {
            Error::conflict(format!("the workspace still has {count} sandboxes")).cure("delete them first")
        }
        JournalError::Unreadable(what) => {
            Error::internal(format!("the store holds a record that cannot be read: {what}"))
                .cure("run the version that wrote it, or restore a backup")
        }
        JournalError::Full(what) => Error::new(
            ErrorKind::Exhausted { what: "disk".to_owned() },
            format!("no room is left for the store: {what}"),
        )
        .cure("make room on the data folder's file system and ask again; nothing was stored"),
        JournalError::Failed(what) => Error::unavailable("store", format!("the store failed: {what}"))
            .cure("look at disk space and the kernel log, then restart the gateway"),
    }
}
