//! A gateway of this run's own, and the calls that are measured.

use std::error::Error;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use chiton_client::{Client, connect, discover};
use chiton_proto::agent::v1 as agent;
use chiton_proto::v1 as wire;

pub(crate) type Done<T> = Result<T, Box<dyn Error>>;

pub(crate) struct Gateway {
    child: Child,
    pub(crate) program: PathBuf,
    pub(crate) address: String,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        if rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok() {
            drop(self.child.wait());
        }
    }
}

impl Gateway {
    pub(crate) fn start(folder: &Path) -> Done<Self> {
        Self::start_with(folder, None)
    }

    /// The same with a config file.
    pub(crate) fn start_with(folder: &Path, config: Option<&str>) -> Done<Self> {
        let program = std::env::current_exe()?.with_file_name("chiton");
        let mut command = Command::new(&program);
        command.args(["gateway", "--data-dir"]).arg(folder.join("data"));
        if let Some(text) = config {
            let file = folder.join("chiton.toml");
            fs::write(&file, text)?;
            command.arg("--config").arg(file);
        }
        let mut child = command.stderr(Stdio::piped()).spawn().map_err(|error| {
            format!("{}: {error}; build it first: cargo build --release -p chiton", program.display())
        })?;
        let errors = child.stderr.take().ok_or("no standard error")?;
        let address = format!("unix:{}", folder.join("data/gateway.sock").display());
        let gateway = Self { child, program, address };
        for line in BufReader::new(errors).lines() {
            if line?.starts_with("listening on ") {
                return Ok(gateway);
            }
        }
        Err("the gateway did not start".into())
    }

    pub(crate) async fn client(&self) -> Done<Client> {
        Ok(connect(&discover(Some(&self.address))?).await?)
    }

    /// A figure of `/proc/PID/smaps_rollup`, in KiB.
    pub(crate) fn memory(&self, field: &str) -> Done<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let line = text.lines().find(|line| line.starts_with(field)).ok_or("no such figure")?;
        Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
    }
}

pub(crate) async fn wait(client: &mut Client, operation: String) -> Done<()> {
    let mut events = client.wait_operation(wire::WaitOperationRequest { operation }).await?.into_inner();
    while let Some(event) = events.message().await? {
        if let Some(wire::wait_operation_event::Event::Outcome(outcome)) = event.event {
            let operation = outcome.operation.unwrap_or_default();
            return match operation.error {
                None => Ok(()),
                Some(error) => Err(error.message.into()),
            };
        }
    }
    Err("no outcome".into())
}

pub(crate) fn selector(name: &str) -> wire::SandboxSelector {
    wire::SandboxSelector { by: Some(wire::sandbox_selector::By::Name(name.to_owned())), workspace: String::new() }
}

pub(crate) async fn exec_true(client: &mut Client, name: &str) -> Done<()> {
    use wire::exec_sandbox_request::Input;
    let start = agent::ExecStart { argv: vec!["true".to_owned()], ..agent::ExecStart::default() };
    let exec = agent::ExecInput { input: Some(agent::exec_input::Input::Start(start)) };
    let inputs = [Input::Sandbox(selector(name)), Input::Exec(exec)]
        .map(|input| wire::ExecSandboxRequest { input: Some(input) });
    let mut outputs = client.exec_sandbox(tokio_stream::iter(inputs)).await?.into_inner();
    while let Some(output) = outputs.message().await? {
        if let Some(agent::exec_output::Output::Exit(exit)) = output.output {
            return if exit.code == 0 { Ok(()) } else { Err(format!("true ended with {}", exit.code).into()) };
        }
    }
    Err("no exit".into())
}

/// Creates a sandbox and returns once it is ready.
pub(crate) async fn create(client: &mut Client, name: &str, spec: wire::SandboxSpec) -> Done<()> {
    let request =
        wire::CreateSandboxRequest { name: name.to_owned(), spec: Some(spec), ..wire::CreateSandboxRequest::default() };
    let answer = client.create_sandbox(request).await?.into_inner();
    wait(client, answer.operation).await
}

/// Deletes a sandbox and returns once nothing of it is left.
pub(crate) async fn delete(client: &mut Client, name: &str) -> Done<()> {
    let request = wire::DeleteSandboxRequest { sandbox: Some(selector(name)), ..wire::DeleteSandboxRequest::default() };
    let answer = client.delete_sandbox(request).await?.into_inner();
    wait(client, answer.operation).await
}

/// Limits as an agent's sandbox would have them.
pub(crate) fn spec(image: &str) -> wire::SandboxSpec {
    let resources = wire::Resources { memory: "256Mi".to_owned(), pids: 256, ..wire::Resources::default() };
    wire::SandboxSpec { image: image.to_owned(), resources: Some(resources), ..wire::SandboxSpec::default() }
}
