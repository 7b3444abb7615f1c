//! `sandbox exec`: the command's own exit code, streams and signals; on a terminal it feels like one.

use std::process::ExitCode;

use chiton_client::from_status;
use chiton_model::Error;
use chiton_proto::agent::v1 as agent;
use chiton_proto::agent::v1::exec_input::Input;
use chiton_proto::agent::v1::exec_output::Output;
use chiton_proto::v1 as wire;
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Context, on_runtime, request_id, selector};
use crate::cli::ExecArgs;
use crate::output;
use crate::terminal::{self, RawMode};

/// What a failure of our own exits with, so that it is not taken for the command's (as env(1) and others do).
const OWN_FAILURE: u8 = 125;
/// What a command that --timeout ended exits with, as timeout(1) does: its own code is only that of the signal.
const TIMED_OUT: u8 = 124;
/// What the agent reports for a program that is not there, as a shell does.
const NOT_FOUND: i32 = 127;
/// How much of standard input is read at once.
const CHUNK: usize = 64 * 1024;

type Inputs = mpsc::Sender<wire::ExecSandboxRequest>;

pub(super) fn run(cx: &Context, args: ExecArgs) -> ExitCode {
    on_runtime(cx.json, async {
        Ok(match exec(cx, args).await {
            Ok(code) => code,
            Err(error) => {
                terminal::restore();
                output::fail(&error, cx.json);
                ExitCode::from(OWN_FAILURE)
            }
        })
    })
}

fn message(input: Input) -> wire::ExecSandboxRequest {
    let exec = agent::ExecInput { input: Some(input) };
    wire::ExecSandboxRequest { input: Some(wire::exec_sandbox_request::Input::Exec(exec)) }
}

fn window() -> agent::WindowSize {
    let (rows, columns) = terminal::size();
    agent::WindowSize { rows: rows.into(), columns: columns.into() }
}

async fn exec(cx: &Context, args: ExecArgs) -> Result<ExitCode, Error> {
    let mut client = cx.connect().await?;
    let raw = if args.tty { Some(RawMode::enter()?) } else { None };
    let start = agent::ExecStart {
        argv: args.command,
        env: args.env.into_iter().collect(),
        workdir: args.workdir.unwrap_or_default(),
        terminal: args.tty.then(window),
        timeout_ms: args.timeout.map_or(0, |limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
        request_id: request_id(),
    };
    let (inputs, stream) = mpsc::channel(16);
    let select = wire::exec_sandbox_request::Input::Sandbox(selector(&args.name, &args.workspace, false));
    let first = [wire::ExecSandboxRequest { input: Some(select) }, message(Input::Start(start))];
    for input in first {
        inputs.send(input).await.map_err(|_| Error::internal("the input stream ended before it began"))?;
    }
    if args.interactive || args.tty {
        tokio::spawn(pump(inputs.clone()));
    } else {
        drop(inputs.send(message(Input::StdinEnd(true))).await);
    }
    forward_signals(&inputs, args.tty)?;
    // Kept until the exit: without it the gateway would take the client as gone.
    let _inputs = inputs;
    let mut outputs =
        client.exec_sandbox(ReceiverStream::new(stream)).await.map_err(|status| from_status(&status))?.into_inner();
    let mut exit = None;
    while let Some(output) = outputs.message().await.map_err(|status| from_status(&status))? {
        match output.output {
            Some(Output::Stdout(data)) => write(&mut std::io::stdout().lock(), &data)?,
            Some(Output::Stderr(data)) => write(&mut std::io::stderr().lock(), &data)?,
            Some(Output::Exit(status)) => exit = Some(status),
            Some(Output::Started(_)) | None => {}
        }
    }
    drop(raw);
    let exit = exit.ok_or_else(|| {
        Error::unavailable("agent", "the connection ended before the command did")
            .cure("look at the sandbox: chiton sandbox get")
    })?;
    if exit.timed_out {
        output::fail(&Error::deadline("the command was ended by --timeout"), cx.json);
        return Ok(ExitCode::from(TIMED_OUT));
    }
    if !exit.message.is_empty() {
        let error = match exit.code {
            NOT_FOUND => Error::not_found(exit.message),
            _ => Error::invalid("argv", exit.message),
        };
        output::fail(&error, cx.json);
    }
    Ok(ExitCode::from(u8::try_from(exit.code & 0xff).unwrap_or(OWN_FAILURE)))
}

fn write(out: &mut impl std::io::Write, data: &[u8]) -> Result<(), Error> {
    out.write_all(data)
        .and_then(|()| out.flush())
        .map_err(|error| Error::internal(format!("the output cannot be written: {error}")))
}

/// Standard input to the command, as fast as it takes it.
async fn pump(inputs: Inputs) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; CHUNK];
    loop {
        match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                drop(inputs.send(message(Input::StdinEnd(true))).await);
                return;
            }
            Ok(length) => {
                if inputs.send(message(Input::Stdin(buffer[..length].to_vec().into()))).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Signals to the command's process group. On a terminal the terminal itself makes them from keys; only the end of the
/// terminal and its size are ours to pass on.
fn forward_signals(inputs: &Inputs, tty: bool) -> Result<(), Error> {
    let passed: &[SignalKind] = if tty {
        &[SignalKind::terminate(), SignalKind::hangup()]
    } else {
        &[
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::interrupt(),
            SignalKind::quit(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
        ]
    };
    let caught = |kind| signal(kind).map_err(|error| Error::internal(format!("signals cannot be caught: {error}")));
    for kind in passed {
        let (mut signals, inputs, number) = (caught(*kind)?, inputs.clone(), kind.as_raw_value());
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if inputs.send(message(Input::Signal(number))).await.is_err() {
                    return;
                }
            }
        });
    }
    if tty {
        let (mut sizes, inputs) = (caught(SignalKind::window_change())?, inputs.clone());
        tokio::spawn(async move {
            while sizes.recv().await.is_some() {
                if inputs.send(message(Input::Resize(window()))).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}
