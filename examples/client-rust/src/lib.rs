//! One program in a sandbox of its own: created, waited for, run, deleted. `docs/api.md` says why each step is as it is.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

use chiton_client::{Client, from_detail, from_status};
use chiton_model::Error;
use chiton_proto::agent::v1::exec_input::Input;
use chiton_proto::agent::v1::exec_output::Output;
use chiton_proto::agent::v1::{ExecInput, ExecStart};
use chiton_proto::v1::exec_sandbox_request::Input as Part;
use chiton_proto::v1::sandbox_selector::By;
use chiton_proto::v1::wait_operation_event::Event;
use chiton_proto::v1::{
    CreateSandboxRequest, DeleteSandboxRequest, ExecSandboxRequest, SandboxSelector, SandboxSpec, WaitOperationRequest,
};
use tokio_stream::{StreamExt as _, iter, pending};
use uuid::Uuid;

/// How a program ended, and what it wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Its exit code; 128 and the signal's number when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// Runs `argv` in a sandbox made for it, which is deleted whatever comes of it.
///
/// # Errors
/// The gateway's, with its cure: the plan was refused, the create failed (and was undone), the sandbox was lost.
pub async fn run_once(client: &mut Client, spec: SandboxSpec, argv: Vec<String>) -> Result<Ran, Error> {
    // Of our own making, so that a create whose answer was lost can be asked for again and happens once.
    let request_id = Uuid::new_v4().to_string();
    let request = CreateSandboxRequest { spec: Some(spec), request_id, ..CreateSandboxRequest::default() };
    let answer = client.create_sandbox(request).await.map_err(|status| from_status(&status))?.into_inner();
    let id = answer.sandbox.map(|sandbox| sandbox.id).unwrap_or_default();
    let ran = match wait(client, answer.operation).await {
        Ok(()) => exec(client, &id, argv).await,
        Err(error) => Err(error),
    };
    let deleted = delete(client, &id).await;
    let ran = ran?;
    deleted.map(|()| ran)
}

fn selector(id: &str) -> SandboxSelector {
    SandboxSelector { by: Some(By::Id(id.to_owned())), workspace: String::new() }
}

/// An accepted operation goes on whatever becomes of its caller; here is how it ended.
async fn wait(client: &mut Client, operation: String) -> Result<(), Error> {
    let request = WaitOperationRequest { operation };
    let mut events = client.wait_operation(request).await.map_err(|status| from_status(&status))?.into_inner();
    while let Some(event) = events.message().await.map_err(|status| from_status(&status))? {
        if let Some(Event::Outcome(outcome)) = event.event {
            let error = outcome.operation.and_then(|operation| operation.error);
            return error.as_ref().and_then(from_detail).map_or(Ok(()), Err);
        }
    }
    Err(Error::unavailable("gateway", "it ended the stream without an outcome").cure("wait for the operation again"))
}

async fn exec(client: &mut Client, id: &str, argv: Vec<String>) -> Result<Ran, Error> {
    let start = ExecStart { argv, request_id: Uuid::new_v4().to_string(), ..ExecStart::default() };
    let told = |input| Part::Exec(ExecInput { input: Some(input) });
    let parts = [Part::Sandbox(selector(id)), told(Input::Start(start)), told(Input::StdinEnd(true))];
    let parts = parts.map(|part| ExecSandboxRequest { input: Some(part) });
    // The stream stays open until the exit: its end would mean that the caller went away.
    let parts = iter(parts).chain(pending());
    let mut outputs = client.exec_sandbox(parts).await.map_err(|status| from_status(&status))?.into_inner();
    let mut ran = Ran::default();
    while let Some(message) = outputs.message().await.map_err(|status| from_status(&status))? {
        match message.output {
            Some(Output::Stdout(bytes)) => ran.stdout.extend_from_slice(&bytes),
            Some(Output::Stderr(bytes)) => ran.stderr.extend_from_slice(&bytes),
            Some(Output::Exit(exit)) => return Ok(Ran { code: exit.code, ..ran }),
            Some(Output::Started(_)) | None => {}
        }
    }
    Err(Error::unavailable("gateway", "it ended the stream before the program's end"))
}

async fn delete(client: &mut Client, id: &str) -> Result<(), Error> {
    let request = DeleteSandboxRequest { sandbox: Some(selector(id)), ..DeleteSandboxRequest::default() };
    let answer = client.delete_sandbox(request).await.map_err(|status| from_status(&status))?.into_inner();
    wait(client, answer.operation).await
}
