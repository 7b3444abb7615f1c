//! `conform driver`: the contract's cases against a driver behind a socket.

use std::process::ExitCode;

use chiton_gateway::Plugins;
use chiton_model::Error;

use crate::cli::ConformArgs;
use crate::output;

pub(super) fn run(_: &Plugins, args: &ConformArgs, json: bool) -> ExitCode {
    let message = format!("the suite that would judge the driver at {:?} is not in this build", args.socket.path());
    output::fail(&Error::unsupported("conform", "conform", message).cure("run a later build"), json)
}
