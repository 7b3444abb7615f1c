//! What the commands do.

mod backup;
mod change;
mod config;
mod conform;
mod copy;
mod create;
mod demo;
mod doctor;
mod drivers;
mod exec;
mod gateway;
mod image;
mod local_tar;
#[cfg(feature = "fuzzing")]
pub(crate) use local_tar::unpack as unpack_archive;
mod logs;
mod look;
mod operate;
mod plan;
mod serve;
mod timeline;
mod volume;

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::Duration;

use chiton_client::{Client, connect, discover, from_status};
use chiton_gateway::Plugins;
use chiton_model::Error;
use chiton_proto::v1 as wire;
use clap::CommandFactory as _;
use tonic::{Response, Status};

use crate::cli::{Cli, Command, ConformCommand, DriverCommand, OneArgs, SandboxCommand};
use crate::output;

/// What every command that talks to a gateway knows.
pub(crate) struct Context {
    gateway: Option<String>,
    json: bool,
}

impl Context {
    /// A connection to the gateway.
    async fn connect(&self) -> Result<Client, Error> {
        connect(&discover(self.gateway.as_deref())?).await
    }
}

/// Selects by name, or by id.
fn select(one: &OneArgs) -> wire::SandboxSelector {
    selector(&one.name, &one.workspace, one.id)
}

fn selector(name: &str, workspace: &str, by_id: bool) -> wire::SandboxSelector {
    use wire::sandbox_selector::By;
    let by = if by_id { By::Id(name.to_owned()) } else { By::Name(name.to_owned()) };
    wire::SandboxSelector { by: Some(by), workspace: workspace.to_owned() }
}

/// How long a gateway may take to answer, or to begin an answer that streams. What it does for an answer has shorter
/// deadlines of its own; this one is for a gateway that hangs.
const ANSWER_DEADLINE: Duration = Duration::from_mins(2);

/// Waits for an answer, but not for ever.
pub(crate) async fn answer<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
    match tokio::time::timeout(ANSWER_DEADLINE, call).await {
        Ok(answer) => answer.map(Response::into_inner).map_err(|status| from_status(&status)),
        Err(_) => Err(Error::deadline(format!("the gateway did not answer within {} s", ANSWER_DEADLINE.as_secs()))
            .cure("look at the gateway's log; what was asked for may still happen")),
    }
}

/// The pairs of a repeated option. The same name twice is a slip that would lose a value.
fn unique<M: FromIterator<(String, String)>>(option: &str, pairs: Vec<(String, String)>) -> Result<M, Error> {
    let mut seen = HashSet::new();
    if let Some((key, _)) = pairs.iter().find(|(key, _)| !seen.insert(key)) {
        return Err(Error::invalid(option, format!("--{option} {key:?} is given twice")).cure("give it once"));
    }
    Ok(pairs.into_iter().collect())
}

/// A fresh id that makes a repeat of this very request harmless.
fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Runs a command on a runtime that is as small as a client needs.
fn on_runtime(json: bool, work: impl Future<Output = Result<ExitCode, Error>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::fail(&Error::internal(format!("the runtime cannot start: {error}")), json),
    };
    let code = match runtime.block_on(work) {
        Ok(code) => code,
        Err(error) => output::fail(&error, json),
    };
    // A read of standard input cannot be cancelled; it must not keep the process.
    runtime.shutdown_background();
    code
}

/// Runs the command line.
pub(crate) fn run(plugins: &Plugins, cli: Cli) -> ExitCode {
    let json = cli.json;
    let cx = Context { gateway: cli.gateway, json };
    match cli.command {
        Command::Demo => demo::run(plugins, json),
        Command::Gateway(args) => gateway::run(plugins, args, json),
        Command::Config(command) => config::run(plugins, &cx, command),
        Command::Backup(args) => on_runtime(json, backup::save(plugins, &cx, args)),
        Command::Restore(args) => backup::restore(plugins, &args, json),
        Command::Doctor(args) => doctor::run(plugins, &args, json),
        Command::Completions { shell } => {
            // Through memory: the generator panics if it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "chiton", &mut script);
            output::put(String::from_utf8_lossy(&script).trim_end());
            ExitCode::SUCCESS
        }
        Command::Sandbox(SandboxCommand::Exec(args)) => exec::run(&cx, args),
        Command::Sandbox(command) => on_runtime(json, async {
            match command {
                SandboxCommand::Create(args) => create::run(&cx, args).await,
                SandboxCommand::List(args) => look::list(&cx, args).await,
                SandboxCommand::Get(args) => look::get(&cx, &args).await,
                SandboxCommand::Watch(args) => look::watch(&cx, args).await,
                SandboxCommand::Cp(args) => copy::run(&cx, args).await,
                SandboxCommand::Logs(args) => logs::run(&cx, args).await,
                SandboxCommand::Stop(args) => change::stop(&cx, &args).await,
                SandboxCommand::Start(args) => change::start(&cx, &args).await,
                SandboxCommand::Delete(args) => change::delete(&cx, args).await,
                SandboxCommand::Exec(_) => Err(Error::internal("exec is run elsewhere")),
            }
        }),
        Command::Plan(args) => on_runtime(json, plan::plan(&cx, args)),
        Command::Explain(args) => on_runtime(json, plan::explain(&cx, &args)),
        Command::Timeline(args) => on_runtime(json, timeline::run(&cx, &args)),
        Command::Obligations(command) => on_runtime(json, operate::obligations(&cx, command)),
        Command::Orphans(command) => on_runtime(json, operate::orphans(&cx, command)),
        Command::Volume(command) => on_runtime(json, volume::run(&cx, command)),
        Command::Image(command) => on_runtime(json, image::run(&cx, command)),
        Command::Workspaces(command) => on_runtime(json, operate::workspaces(&cx, command)),
        Command::Info => on_runtime(json, operate::info(&cx)),
        Command::Extensions => on_runtime(json, operate::extensions(&cx)),
        Command::Drivers(args) => on_runtime(json, drivers::run(&cx, args)),
        Command::Driver(DriverCommand::Serve(args)) => serve::run(plugins, &args, json),
        Command::Conform(ConformCommand::Driver(args)) => on_runtime(json, conform::run(&args, json)),
    }
}
