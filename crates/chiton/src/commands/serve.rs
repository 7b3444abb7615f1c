//! `driver serve`: a driver that is built in, on a socket, for a gateway of another process.

use std::process::ExitCode;
use std::time::Duration;

use chiton_compute_serve::{Listen, ServeOptions, announce};
use chiton_gateway::Plugins;
use chiton_gateway::config::{Config, Drivers, EXTERNAL_KIND, Flags, Origin, Sources, load};
use chiton_gateway::serve::log;
use chiton_model::{DriverId, Error, NetworkMode, NetworkSpec, nearest};
use serde_json::{Value, json};

use super::gateway::errors;
use crate::cli::{AgentKind, ServeArgs};
use crate::output;

pub(super) fn run(plugins: &Plugins, args: &ServeArgs, json: bool) -> ExitCode {
    let (config, options) = match prepared(plugins, args) {
        Ok(prepared) => prepared,
        Err(errors) => return output::fail_all(&errors, json),
    };
    log(&config);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("driver").build() {
        Ok(runtime) => runtime,
        Err(error) => return output::fail(&Error::internal(format!("the runtime cannot start: {error}")), json),
    };
    let served = runtime.block_on(chiton_compute_serve::serve(config, plugins, options, announce));
    runtime.shutdown_timeout(Duration::from_secs(1));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(errors) => output::fail_all(&errors, json),
    }
}

fn prepared(plugins: &Plugins, args: &ServeArgs) -> Result<(Config, ServeOptions), Vec<Error>> {
    let one = |error: Error| vec![error];
    kind(plugins, &args.driver).map_err(one)?;
    let name = args.name.clone().unwrap_or_else(|| args.driver.clone());
    DriverId::new(name.as_str()).map_err(one)?;
    let flags = Flags {
        config: args.config.clone(),
        data_dir: args.data_dir.clone(),
        drivers: vec![args.driver.clone()],
        ..Flags::default()
    };
    let mut config =
        Sources::gather(flags).and_then(|sources| load(&sources, plugins)).map_err(|found| errors(&found))?;
    // A table or a variable that is meant for a gateway may make an external driver of any name.
    if let Drivers::Listed { drivers, .. } = &config.compute.drivers
        && drivers.iter().any(|driver| driver.kind == EXTERNAL_KIND)
    {
        return Err(one(external()));
    }
    own_folders(&mut config, &name);
    agent(&mut config, plugins, args)?;
    let supervisor = args.agent == AgentKind::Openshell;
    let options = ServeOptions {
        name,
        listen: args.listen.as_ref().map_or(Listen::Systemd, |socket| Listen::Unix(socket.path().to_owned())),
        peers: args.peer_uid.iter().copied().collect(),
        delegate: args.delegate,
        // A supervisor calls its gateway over the network.
        network: NetworkSpec {
            mode: if supervisor { NetworkMode::Bridge } else { NetworkMode::None },
            ..NetworkSpec::default()
        },
        supervisor,
    };
    Ok((config, options))
}

fn external() -> Error {
    Error::invalid("driver", "an external driver is behind a socket already")
        .cure("give the gateway that socket itself")
}

/// Where nobody says otherwise, it keeps out of the folders of a gateway of the same user.
fn own_folders(config: &mut Config, name: &str) {
    let by_default =
        |key: &str| config.origins().iter().any(|shown| shown.key == key && matches!(shown.origin, Origin::Default));
    let (data, run) = (by_default("gateway.data_dir"), by_default("gateway.run_dir"));
    let folders = &mut config.gateway;
    for (folder, by_default) in [(&mut folders.data_dir, data), (&mut folders.run_dir, run)] {
        if by_default {
            *folder = folder.join("served").join(name);
        }
    }
}

/// What the command line says about the agent, in the base driver's own table.
fn agent(config: &mut Config, plugins: &Plugins, args: &ServeArgs) -> Result<(), Vec<Error>> {
    let Drivers::Listed { drivers, .. } = &mut config.compute.drivers else { return Ok(()) };
    let mut wrong = Vec::new();
    for driver in drivers {
        let Value::Object(table) = &mut driver.options else { continue };
        let word = match args.agent {
            AgentKind::Chiton => "chiton",
            AgentKind::Openshell => "openshell",
            AgentKind::None => "none",
        };
        table.insert("agent".to_owned(), json!(word));
        if args.agent == AgentKind::Openshell {
            let supervisor = table.entry("supervisor").or_insert_with(|| json!({}));
            // A gateway of another make tells a token once, and starts its sandboxes again after a reboot.
            if let Value::Object(supervisor) = &mut *supervisor {
                supervisor.entry("keep_tokens").or_insert_with(|| json!(true));
            }
            if let Some(bin) = &args.supervisor_bin {
                supervisor["bin"] = json!(bin);
            }
            if let Some(image) = &args.supervisor_image {
                supervisor["image"] = json!(image);
            }
            if let Some(endpoint) = &args.endpoint {
                supervisor["endpoint"] = json!(endpoint);
            }
        }
        let Some(kind) = plugins.driver_kind(&driver.kind) else { continue };
        for issue in (kind.check)(&driver.options) {
            let key = format!("compute.driver.{}{}", driver.id, issue.pointer.replace('/', "."));
            let error = Error::invalid(&key, format!("{key}: {}", issue.message));
            wrong.push(issue.cure.into_iter().fold(error, Error::cure));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// A kind that can be served: one that is built in and is not itself a driver behind a socket.
fn kind(plugins: &Plugins, name: &str) -> Result<(), Error> {
    let kinds = || plugins.drivers().iter().map(|kind| kind.kind).filter(|kind| *kind != EXTERNAL_KIND);
    if kinds().any(|kind| kind == name) {
        return Ok(());
    }
    if name == EXTERNAL_KIND {
        return Err(external());
    }
    let known = kinds().collect::<Vec<_>>().join(", ");
    let cure =
        nearest(name, kinds()).map_or_else(|| format!("known: {known}"), |near| format!("did you mean {near:?}?"));
    Err(Error::invalid("driver", format!("unknown driver kind {name:?}")).cure(cure))
}
