//! `gateway`.

use std::process::ExitCode;

use chiton_gateway::Plugins;
use chiton_gateway::config::{Config, ConfigError, Flags, Sources, load};
use chiton_gateway::serve;
use chiton_model::{Error, StoreEpoch};

use crate::cli::{GatewayArgs, SourceArgs};
use crate::output;

/// The configuration that command line, environment and file make together.
pub(super) fn configuration(plugins: &Plugins, args: SourceArgs) -> Result<Config, Vec<ConfigError>> {
    let flags = Flags {
        config: args.config,
        data_dir: args.data_dir,
        listen: args.listen,
        drivers: args.driver,
        driver_socket: args.compute_driver_socket,
    };
    load(&Sources::gather(flags)?, plugins)
}

/// Everything that is wrong with a configuration, each as an error of its own.
pub(super) fn errors(errors: &[ConfigError]) -> Vec<Error> {
    errors
        .iter()
        .map(|error| {
            let place = [error.origin.to_string(), error.key.clone()];
            let message: Vec<&str> = place.iter().map(String::as_str).chain([error.message.as_str()]).collect();
            // What concerns the whole file has no key.
            let message = message.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
            let found = Error::invalid(&error.key, message);
            match &error.cure {
                Some(cure) => found.cure(cure),
                None => found,
            }
        })
        .collect()
}

pub(super) fn run(plugins: &Plugins, args: GatewayArgs, json: bool) -> ExitCode {
    let adopt = match args.adopt_epoch.as_deref().map(StoreEpoch::new).transpose() {
        Ok(adopt) => adopt,
        Err(error) => return output::fail(&error, json),
    };
    let config = match configuration(plugins, args.sources) {
        Ok(config) => config,
        Err(found) => return output::fail_all(&errors(&found), json),
    };
    serve::log(&config);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("gateway").build() {
        Ok(runtime) => runtime,
        Err(error) => return output::fail(&Error::internal(format!("the runtime cannot start: {error}")), json),
    };
    let served = runtime.block_on(serve::serve(config, plugins, adopt, serve::announce));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(found) => output::fail_all(&found, json),
    }
}
