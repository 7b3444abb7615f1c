//! The whole gateway being put together, from bottom to top, in one place.

mod guests;
mod required;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chiton_driver::ComputeDriver;
use chiton_lifecycle::journal::Journal;
use chiton_lifecycle::runtime::{LifecycleEvent, Secrets, World};
use chiton_lifecycle::{Engine, EngineParts};
use chiton_model::{DriverId, Error, StoreEpoch};
use chiton_store::{SqliteStore, StoreOptions};
use futures::future::join_all;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::broadcast;

use crate::api::{Api, Configured};
use crate::audit::AuditFile;
use crate::config::{Chosen, Config, DriverConfig, EXTERNAL_KIND};
use crate::metrics::Metrics;
use crate::plugin::{AgentFolder, BuiltDriver, GuestServer, Listen, Plugins, context};
use crate::processes;
use crate::sessions::Sessions;
use crate::world::{
    AgentSessions, HookThreads, Hub, MachineClock, MachineEntropy, MachineExecutor, SecretStore, StoredTokens,
};

/// The deadline of a call that makes something: an engine may work on it for that long at least.
const SAFE_LATE_EFFECTS: Duration = Duration::from_mins(1);

/// A gateway that is ready to serve.
pub struct Gateway {
    pub(crate) api: Api,
    pub(crate) engine: Engine,
    pub(crate) audit: AuditFile,
    guests: Mutex<Option<Box<dyn GuestServer>>>,
    tokens: Arc<StoredTokens>,
    // Ends the hooks' threads when everything else is gone.
    pub(crate) _hooks: HookThreads,
}

impl Gateway {
    /// Its engine, for whoever embeds a gateway without serving it.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Its sessions with agents, for the same.
    pub fn sessions(&self) -> &Sessions {
        &self.api.sessions
    }

    /// Where agents of another make dial, if a driver brings such.
    pub fn guests(&self) -> Option<Listen> {
        self.guests.lock().as_ref().map(|guests| guests.listen())
    }

    /// What the engine tells from now on.
    pub fn events(&self) -> broadcast::Receiver<LifecycleEvent> {
        self.api.hub.subscribe()
    }

    /// Ends it: running operations are drained, and what was audited is in its file.
    pub async fn close(&self) {
        self.engine.shutdown().await;
        let guests = self.guests.lock().take();
        if let Some(guests) = guests {
            guests.drain().await;
        }
        // It asks the engine, and the engine's world asks it: nothing of either would ever end.
        self.tokens.detach();
        if let Err(error) = self.audit.open().await {
            // The next start writes what is missing.
            tracing::error!(%error, "the audit file is behind the store");
        }
    }
}

/// What somebody who embeds a gateway puts around its parts.
#[derive(Clone, Default)]
pub struct Around {
    /// Around each driver, when it is made.
    pub driver: Option<Arc<dyn Fn(BuiltDriver) -> BuiltDriver + Send + Sync>>,
    /// In place of the operator's secrets.
    pub secrets: Option<Arc<dyn Secrets>>,
    /// How long a failed create's row is kept, in place of the engine's default.
    pub keep_errors: Option<Duration>,
}

/// Puts a gateway together and takes up what an earlier one left. To be called on a tokio runtime.
///
/// # Errors
/// Everything that is wrong, each with its cure.
pub async fn compose(config: &Config, plugins: &Plugins, adopt: Option<StoreEpoch>) -> Result<Gateway, Vec<Error>> {
    compose_around(config, plugins, adopt, &Around::default()).await
}

/// As [`compose`], with something around its parts.
///
/// # Errors
/// Everything that is wrong, each with its cure.
pub async fn compose_around(
    config: &Config,
    plugins: &Plugins,
    adopt: Option<StoreEpoch>,
    around: &Around,
) -> Result<Gateway, Vec<Error>> {
    let one = |error: Error| vec![error];
    let chosen = choose(config, plugins).await.map_err(one)?;
    folder(&config.gateway.data_dir).map_err(one)?;
    folder(&config.gateway.run_dir).map_err(one)?;
    let options = StoreOptions::new(store_folder(&config.gateway.data_dir))
        .map_err(|error| one(Error::unavailable("store", format!("the kernel's boot id cannot be read: {error}"))))?;
    let store = Arc::new(SqliteStore::open(options).map_err(|error| one(error.into()))?);
    let journal: Arc<dyn Journal> = Arc::clone(&store) as _;

    let audit = AuditFile::new(&config.gateway.data_dir, Arc::clone(&journal));
    let (drivers, folders) = drivers(&chosen.drivers, config, plugins, &*journal, around).await?;
    required::wait(&chosen.drivers, &drivers).await?;
    let guests = guests::brought_by(&drivers, &folders);
    let mut registry = plugins.extensions.clone();
    processes::register(config, &mut registry).await?;
    let tokens = Arc::new(StoredTokens::default());
    let sessions = Sessions::new(Arc::clone(&tokens) as _);
    let metrics = Arc::new(Metrics::default());
    let hub = Hub::new(Arc::clone(&metrics));
    let hooks = HookThreads::start()
        .map_err(|error| one(Error::internal(format!("the hooks' threads cannot start: {error}"))))?;

    let world = World {
        clock: Arc::new(MachineClock),
        entropy: Arc::new(MachineEntropy),
        executor: Arc::new(MachineExecutor { engine: Handle::current(), hooks: hooks.handle() }),
        agents: Arc::new(AgentSessions { sessions: sessions.clone(), folders }),
        secrets: around.secrets.clone().unwrap_or_else(|| Arc::new(SecretStore(config.secrets.clone()))),
        audience: Arc::new(hub.clone()),
        points: plugins.points.clone(),
    };
    let mut behaviour = config.engine(chosen.default_driver.clone());
    behaviour.adopt_epoch = adopt;
    behaviour.keep_errors = around.keep_errors.unwrap_or(behaviour.keep_errors);
    if behaviour.late_effects < SAFE_LATE_EFFECTS {
        tracing::warn!(late_effects = ?behaviour.late_effects,
            "compute.late_effects is shorter than a call to an engine may take: what lands later than that is not waited for");
    }
    let parts = EngineParts { world, journal, drivers, registry, config: behaviour };
    let engine = Engine::new(parts).map_err(|errors| errors.0)?;
    tokens.attach(engine.clone());
    // Before recovery: agents of another make dial again, and some of what goes on waits for them.
    let guests = guests::serve(guests, config, plugins, &tokens, &sessions, &engine).await.map_err(one)?;
    let events = hub.subscribe();
    engine.recover().await.map_err(|errors| errors.0)?;
    audit.open().await.map_err(one)?;
    tokio::spawn(audit.clone().follow(events));

    let shown = chosen.origins(config).into_iter().map(|shown| (shown.key, shown.value, shown.origin.to_string()));
    let api = Api {
        engine: engine.clone(),
        store,
        sessions,
        hub,
        metrics,
        started_at: Timestamp::now(),
        configured: Arc::new(configured(&chosen.drivers)),
        config: Arc::new(shown.collect()),
    };
    Ok(Gateway { api, engine, audit, guests: Mutex::new(guests), tokens, _hooks: hooks })
}

/// Where the store is in a data folder.
pub fn store_folder(data_dir: &Path) -> PathBuf {
    data_dir.join("store")
}

type Drivers = (Vec<Arc<dyn ComputeDriver>>, BTreeMap<DriverId, Arc<AgentFolder>>);

/// The drivers of this start; a look at the machine happens beside the runtime.
async fn choose(config: &Config, plugins: &Plugins) -> Result<Chosen, Error> {
    let (config, plugins) = (config.clone(), plugins.clone());
    let chosen = tokio::task::spawn_blocking(move || config.choose(&plugins)).await;
    let chosen = chosen.map_err(|_| Error::internal("the look for a driver ended early"))??;
    if let Some(found) = &chosen.detected {
        tracing::info!(driver = %chosen.default_driver, found, "no driver is configured: one was detected");
    }
    Ok(chosen)
}

/// Builds the drivers, all at once: one that has to be waited for delays a start by itself alone.
async fn drivers(
    chosen: &[DriverConfig],
    config: &Config,
    plugins: &Plugins,
    journal: &dyn Journal,
    around: &Around,
) -> Result<Drivers, Vec<Error>> {
    let gateway = journal.info().gateway;
    let built = chosen.iter().map(|wanted| {
        let kind = plugins.driver_kind(&wanted.kind).copied();
        let missing = format!("no driver of kind {:?} is compiled in", wanted.kind);
        let (data_dir, run_dir) = (&config.gateway.data_dir, &config.gateway.run_dir);
        let (guests, options) = (config.supervisor.listen.clone(), wanted.options.clone());
        let context = context(wanted.id.clone(), gateway.clone(), data_dir, run_dir, guests, options);
        let work = move || {
            let kind = kind.ok_or_else(|| Error::not_found(missing))?;
            folder(&context.state_dir)?;
            folder(&context.run_dir)?;
            (kind.build)(context)
        };
        let building = tokio::task::spawn_blocking(work);
        async { building.await.unwrap_or_else(|_| Err(Error::internal("a driver could not be made: its maker ended"))) }
    });
    // All begin before the first is waited for.
    let building: Vec<_> = built.collect();
    let (mut drivers, mut folders, mut errors) = (Vec::new(), BTreeMap::new(), Vec::new());
    for (wanted, built) in chosen.iter().zip(join_all(building).await) {
        match built {
            Ok(built) => {
                let built = around.driver.as_ref().map_or_else(|| built.clone(), |around| around(built.clone()));
                if let Some(folder) = built.agent_folder {
                    folders.insert(wanted.id.clone(), folder);
                }
                drivers.push(built.driver);
            }
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok((drivers, folders)) } else { Err(errors) }
}

/// What drivers' tables say and the drivers themselves do not.
fn configured(drivers: &[DriverConfig]) -> BTreeMap<DriverId, Configured> {
    let text = |driver: &DriverConfig, key: &str| Some(driver.options.get(key)?.as_str()?.to_owned());
    let said = |driver: &DriverConfig| {
        // Of another kind it may be an engine's.
        let socket = if driver.kind == EXTERNAL_KIND { text(driver, "socket") } else { None };
        (driver.id.clone(), Configured { agent: text(driver, "agent"), socket })
    };
    drivers.iter().map(said).collect()
}

/// Makes a folder of ours, for nobody else to look into.
fn folder(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        Error::unavailable("gateway", format!("the folder {path:?} cannot be made: {error}"))
            .cure("run as a user who may write there, or choose another: --data-dir")
    })
}
