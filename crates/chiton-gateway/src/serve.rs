//! A gateway's life: compose, listen, tell systemd, serve until a signal, drain.

use std::collections::BTreeSet;
use std::future::IntoFuture as _;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use chiton_model::{Error, StoreEpoch};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::Peer;
use crate::compose::compose;
use crate::config::{Config, Listener, LogFormat, MetricsListen};
use crate::http::{Readiness, metrics_answer, routes};
use crate::listen::Door;
use crate::plugin::Plugins;

/// How long open connections get to end once everything else has.
const CLOSE: Duration = Duration::from_secs(2);

/// Starts logging as configured. A second call in one process is an error of the caller and changes nothing.
pub fn log(config: &Config) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_new(&config.log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr);
    drop(match config.log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    });
}

/// Serves until SIGTERM or SIGINT, then drains. `ready` is called with the sockets once requests are taken.
///
/// # Errors
/// Everything that keeps it from starting.
pub async fn serve(
    config: Config,
    plugins: &Plugins,
    adopt: Option<StoreEpoch>,
    ready: impl FnOnce(&[Listener]),
) -> Result<(), Vec<Error>> {
    let one = |error: Error| vec![error];
    let signals =
        |kind| signal(kind).map_err(|error| one(Error::internal(format!("signals cannot be caught: {error}"))));
    let (mut terminate, mut interrupt) = (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);
    // Bound before anything else, so that two gateways on one socket do not both recover.
    let own = rustix::process::getuid().as_raw();
    let allowed: BTreeSet<u32> = config.gateway.allow_uids.iter().copied().chain([0, own]).collect();
    let allowed = Arc::new(allowed);
    let mut sockets = Vec::new();
    for Listener::Unix(path) in &config.gateway.listen {
        sockets.push(Door::bind(path, &allowed).map_err(one)?);
    }
    let gateway = compose(&config, plugins, adopt).await?;
    let readiness = Readiness::default();
    let router = routes(gateway.api.clone(), readiness.clone()).await.map_err(one)?;
    let (close, closing) = watch::channel(false);
    let mut servers = JoinSet::new();
    for socket in sockets {
        let service = router.clone().into_make_service_with_connect_info::<Peer>();
        let server = axum::serve(socket, service).with_graceful_shutdown(closed(closing.clone()));
        servers.spawn(server.into_future());
    }
    if let Some(listen) = &config.metrics {
        let (metrics, engine) = (Arc::clone(&gateway.api.metrics), gateway.engine.clone());
        let text = move || async move { metrics_answer(metrics.text(&engine)) };
        let router = axum::Router::new().route("/metrics", axum::routing::get(text));
        metrics_server(listen, router, &allowed, closing.clone(), &mut servers).await.map_err(one)?;
    }
    readiness.set(true);
    ready(&config.gateway.listen);
    // Nobody listening on the notify socket is the usual case outside systemd.
    drop(sd_notify::notify(&[sd_notify::NotifyState::Ready]));

    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: shutting down"),
        _ = interrupt.recv() => tracing::info!("SIGINT: shutting down"),
    }
    readiness.set(false);
    drop(sd_notify::notify(&[sd_notify::NotifyState::Stopping]));
    gateway.close().await;
    close.send_replace(true);
    // A client that watches for ever does not keep the process.
    drop(tokio::time::timeout(CLOSE, async { while servers.join_next().await.is_some() {} }).await);
    Ok(())
}

async fn closed(mut closing: watch::Receiver<bool>) {
    drop(closing.wait_for(|closed| *closed).await);
}

async fn metrics_server(
    listen: &MetricsListen,
    router: axum::Router,
    allowed: &Arc<BTreeSet<u32>>,
    closing: watch::Receiver<bool>,
    servers: &mut JoinSet<std::io::Result<()>>,
) -> Result<(), Error> {
    match listen {
        MetricsListen::Unix(path) => {
            let socket = Door::bind(path, allowed)?;
            servers.spawn(axum::serve(socket, router).with_graceful_shutdown(closed(closing)).into_future());
        }
        MetricsListen::Tcp(address) => {
            let listener = tokio::net::TcpListener::bind(address).await.map_err(|error| {
                Error::unavailable("metrics", format!("cannot listen on {address}: {error}"))
                    .cure("choose another address: [metrics] listen")
            })?;
            servers.spawn(axum::serve(listener, router).with_graceful_shutdown(closed(closing)).into_future());
        }
    }
    Ok(())
}

/// Says on standard error where the gateway listens: one line that scripts may wait for.
pub fn announce(sockets: &[Listener]) {
    let list: Vec<String> = sockets.iter().map(ToString::to_string).collect();
    // A closed standard error does not keep the gateway from serving.
    drop(writeln!(std::io::stderr(), "listening on {}", list.join(", ")));
}
