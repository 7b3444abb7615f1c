//! `driver serve`: a driver that is built in, on a socket, for a gateway of another process.

use std::process::ExitCode;

use chiton_gateway::Plugins;
use chiton_gateway::config::EXTERNAL_KIND;
use chiton_model::{Error, nearest};

use crate::cli::ServeArgs;
use crate::output;

pub(super) fn run(plugins: &Plugins, args: &ServeArgs, json: bool) -> ExitCode {
    match serve(plugins, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::fail(&error, json),
    }
}

fn serve(plugins: &Plugins, args: &ServeArgs) -> Result<(), Error> {
    kind(plugins, &args.driver)?;
    let socket = args.listen.as_ref().map_or_else(|| "a socket of systemd's".to_owned(), ToString::to_string);
    let message = format!("serving driver {:?} on {socket} is not in this build", args.driver);
    Err(Error::unsupported(&args.driver, "serve", message)
        .cure("run the driver in the gateway: chiton gateway --driver"))
}

/// A kind that can be served: one that is built in and is not itself a driver behind a socket.
fn kind(plugins: &Plugins, name: &str) -> Result<(), Error> {
    let kinds = || plugins.drivers().iter().map(|kind| kind.kind).filter(|kind| *kind != EXTERNAL_KIND);
    if kinds().any(|kind| kind == name) {
        return Ok(());
    }
    if name == EXTERNAL_KIND {
        return Err(Error::invalid("driver", "an external driver is behind a socket already")
            .cure("give the gateway that socket itself"));
    }
    let known = kinds().collect::<Vec<_>>().join(", ");
    let cure =
        nearest(name, kinds()).map_or_else(|| format!("known: {known}"), |near| format!("did you mean {near:?}?"));
    Err(Error::invalid("driver", format!("unknown driver kind {name:?}")).cure(cure))
}
