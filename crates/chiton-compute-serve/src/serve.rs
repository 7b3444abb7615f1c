//! The life of a served driver: put together, recovered, then heard; drained at the end.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chiton_compute_wire::names::SERVICE;
use chiton_compute_wire::v1::compute_driver_server::ComputeDriverServer;
use chiton_driver::ComputeDriver;
use chiton_gateway::Plugins;
use chiton_gateway::compose::{Around, compose_around};
use chiton_gateway::config::{Config, Drivers};
use chiton_lifecycle::policy::Activation;
use chiton_model::{DriverId, Error, NetworkSpec};
use chiton_socket::{Access, PeerListener};
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::credentials::Credentials;
use crate::gone::{self, Gone};
use crate::request::Reading;
use crate::served::Served;
use crate::service::{Driver, Service, Turns};

/// How long open connections get to end once everything else has.
const CLOSE: Duration = Duration::from_secs(2);
/// How often health follows whether the base driver can be reached; the engine itself notices by the driver's news.
const HEALTH: Duration = Duration::from_secs(2);
/// A failed create's row is there until somebody deletes it.
const KEEP_ERRORS: Duration = Duration::from_hours(24 * 365 * 100);

/// Where calls are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A socket at this path.
    Unix(PathBuf),
    /// The socket that systemd hands over.
    Systemd,
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Systemd => f.write_str("systemd"),
        }
    }
}

/// How a driver is served.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// What it calls itself.
    pub name: String,
    /// Where.
    pub listen: Listen,
    /// The users who may call; none is our own and root.
    pub peers: BTreeSet<u32>,
    /// Whether requests may set options of the base driver, in a block of its id, when extensions stand around it.
    pub delegate: bool,
    /// The network of its sandboxes.
    pub network: NetworkSpec,
    /// Whether a supervisor of the caller's make starts the main process in its sandboxes.
    pub supervisor: bool,
}

/// The base driver: the one that the configuration names.
fn base(config: &Config) -> Result<DriverId, Error> {
    match &config.compute.drivers {
        Drivers::Listed { drivers, default } if drivers.len() == 1 => Ok(default.clone()),
        _ => {
            Err(Error::invalid("compute.drivers", "one base driver is served, and one only")
                .cure("name it: --driver KIND"))
        }
    }
}

/// Serves until SIGTERM or SIGINT, then drains. `ready` is called once calls are taken: after recovery.
///
/// # Errors
/// Everything that keeps it from starting.
pub async fn serve(
    config: Config,
    plugins: &Plugins,
    options: ServeOptions,
    ready: impl FnOnce(&Listen),
) -> Result<(), Vec<Error>> {
    let one = |error: Error| vec![error];
    let signals =
        |kind| signal(kind).map_err(|error| one(Error::internal(format!("signals cannot be caught: {error}"))));
    let (mut terminate, mut interrupt) = (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);
    let base = base(&config).map_err(one)?;
    // Bound before anything else, so that two drivers on one socket do not both recover. Who connects waits.
    let listener = bind(&options).map_err(one)?;
    let (driver, draining) = put_together(&config, plugins, &options, base).await?;
    // Beyond the drain: what is deleted by then is written down, too.
    let _absences = AbortOnDropHandle::new(tokio::spawn(gone::follow(Arc::clone(&driver), driver.gateway.events())));
    let service = Service(Arc::clone(&driver));
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(chiton_compute_wire::DESCRIPTORS)
        .build_v1()
        .map_err(|error| one(Error::internal(format!("reflection cannot be served: {error}"))))?;
    let watching = tokio::spawn(report(health.clone(), Arc::clone(&driver)));
    let server = Server::builder()
        .add_service(health_service)
        .add_service(reflection)
        .add_service(ComputeDriverServer::new(service));
    let closing = draining.clone().cancelled_owned();
    let mut answering = tokio::spawn(server.serve_with_incoming_shutdown(listener.incoming(), closing));
    ready(&options.listen);
    // Nobody listening on the notify socket is the usual case outside systemd.
    drop(sd_notify::notify(&[sd_notify::NotifyState::Ready]));
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
        _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
        _ = &mut answering => tracing::error!("the server ended"),
    }
    drop(sd_notify::notify(&[sd_notify::NotifyState::Stopping]));
    watching.abort();
    set(&health, ServingStatus::NotServing).await;
    // Calls under way are answered and watches end; what they began goes on until it is done or the drain's time is up.
    draining.cancel();
    driver.gateway.close().await;
    if !answering.is_finished() {
        drop(tokio::time::timeout(CLOSE, answering).await);
    }
    Ok(())
}

fn bind(options: &ServeOptions) -> Result<PeerListener, Error> {
    let peers = if options.peers.is_empty() { chiton_socket::own_and_root() } else { options.peers.clone() };
    let access = Access {
        who: "driver",
        cure: "choose another socket: --listen unix:///run/NAME/driver.sock",
        allowed: Arc::new(peers),
        private: true,
    };
    match &options.listen {
        Listen::Unix(path) => PeerListener::bind(path, &access),
        Listen::Systemd => PeerListener::from_systemd(&access)?.ok_or_else(|| {
            Error::invalid("listen", "systemd handed no socket to this process")
                .cure("start it by its socket unit, or name a socket: --listen unix:///run/NAME/driver.sock")
        }),
    }
}

async fn put_together(
    config: &Config,
    plugins: &Plugins,
    options: &ServeOptions,
    base: DriverId,
) -> Result<(Arc<Driver>, CancellationToken), Vec<Error>> {
    let credentials = Credentials::default();
    let (handed, relays) = (credentials.clone(), config.gateway.run_dir.join("relays"));
    let agent = Arc::new(AtomicBool::new(false));
    let has_agent = Arc::clone(&agent);
    let found: Arc<OnceLock<Arc<dyn ComputeDriver>>> = Arc::default();
    let asked = Arc::clone(&found);
    let around = Around {
        driver: Some(Arc::new(move |built| {
            // Chiton's agent dials a folder of the driver's; no other does.
            let _ = asked.set(Arc::clone(&built.driver));
            has_agent.store(built.agent_folder.is_some(), Ordering::Relaxed);
            Served::around(built, handed.clone(), relays.clone())
        })),
        secrets: Some(Arc::new(credentials.clone())),
        keep_errors: Some(KEEP_ERRORS),
    };
    let gateway = compose_around(config, plugins, None, &around).await?;
    let calling = found.get().cloned().ok_or_else(|| vec![Error::internal("the base driver was not made")])?;
    let manages = calling.capabilities().gateway_manages_lifecycle;
    let gone = Gone::open(&config.gateway.data_dir, Timestamp::now()).map_err(|error| vec![error])?;
    let chain = &config.compute.extensions;
    let on_request = chain.iter().filter(|one| matches!(one.policy.activation, Activation::OnRequest(_)));
    let on_request: BTreeSet<_> = on_request.map(|one| one.name.clone()).collect();
    // As the engine has it: also of extensions in processes of their own.
    let known = gateway.engine().extensions().await.map_err(|error| vec![error])?;
    let listed = known.iter().filter(|extension| extension.position.is_some());
    let phases: BTreeSet<_> = listed.flat_map(|extension| extension.descriptor.phases.iter().copied()).collect();
    let draining = CancellationToken::new();
    let driver = Driver {
        gateway,
        name: options.name.clone(),
        credentials,
        gone,
        reading: Reading {
            base,
            name: options.name.clone(),
            on_request,
            composed: !chain.is_empty(),
            delegate: options.delegate,
            network: options.network.clone(),
            supervisor: options.supervisor,
        },
        chiton_agent: agent.load(Ordering::Relaxed),
        // Known now: one behind a socket was dialled when the engine recovered.
        manages,
        phases: phases.into_iter().map(|phase| phase.as_str().to_owned()).collect(),
        calling,
        draining: draining.clone(),
        turns: Turns::default(),
    };
    Ok((Arc::new(driver), draining))
}

async fn set(health: &HealthReporter, status: ServingStatus) {
    for service in ["", SERVICE] {
        health.set_service_status(service, status).await;
    }
}

/// Says that it does not serve while its platform cannot be reached.
async fn report(health: HealthReporter, driver: Arc<Driver>) {
    let mut said = None;
    loop {
        let reached = driver.engine().unreachable_driver(&driver.reading.base).is_none();
        if said != Some(reached) {
            set(&health, if reached { ServingStatus::Serving } else { ServingStatus::NotServing }).await;
            said = Some(reached);
        }
        tokio::time::sleep(HEALTH).await;
    }
}

/// Says on standard error where calls are taken: one line that scripts may wait for.
pub fn announce(listen: &Listen) {
    // A closed standard error does not keep it from serving.
    drop(writeln!(std::io::stderr(), "serving on {listen}"));
}
