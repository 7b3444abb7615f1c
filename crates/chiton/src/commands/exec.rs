//! `sandbox exec`: the command's own exit code, streams and signals; on a terminal it feels like one.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use chiton_client::{Client, from_status};
use chiton_model::Error;
use chiton_proto::agent::v1 as agent;
use chiton_proto::agent::v1::exec_input::Input;
use chiton_proto::agent::v1::exec_output::Output;
use chiton_proto::v1 as wire;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::Bytes;

use super::{Context, answer, on_runtime, request_id, selector, unique};
use crate::cli::ExecArgs;
use crate::escape::{Escape, Typed};
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
    let mut env: BTreeMap<String, String> = unique("env", args.env)?;
    if args.tty
        && let Ok(kind) = std::env::var("TERM")
    {
        // What this terminal understands; the command's own setting wins.
        env.entry("TERM".to_owned()).or_insert(kind);
    }
    let mut client = cx.connect().await?;
    // Before the terminal is raw: a signal in between would end this process and leave it so.
    let mut signals = Signals::catch(args.tty)?;
    let _raw = if args.tty { Some(RawMode::enter()?) } else { None };
    let start = agent::ExecStart {
        argv: args.command,
        env,
        workdir: args.workdir.unwrap_or_default(),
        terminal: args.tty.then(window),
        timeout_ms: args.timeout.map_or(0, |limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
        request_id: request_id(),
    };
    let (inputs, stream) = mpsc::channel(16);
    let select = wire::exec_sandbox_request::Input::Sandbox(selector(&args.name, &args.workspace, args.id));
    let first = [wire::ExecSandboxRequest { input: Some(select) }, message(Input::Start(start))];
    for input in first {
        inputs.send(input).await.map_err(|_| Error::internal("the input stream ended before it began"))?;
    }
    let (leave, mut left) = mpsc::channel(1);
    if args.interactive || args.tty {
        tokio::spawn(pump(inputs.clone(), Escape::new(args.escape.0.filter(|_| args.tty)), leave));
    } else {
        drop(inputs.send(message(Input::StdinEnd(true))).await);
    }
    if args.tty {
        pass_resizes(&inputs)?;
    }
    let running = Cell::new(false);
    let relayed = relay(cx.json, &mut client, ReceiverStream::new(stream), &running);
    tokio::pin!(relayed);
    loop {
        // The sender in `inputs` lives as long as this: without one the gateway would take the client as gone.
        tokio::select! {
            code = &mut relayed => return code.map(ExitCode::from),
            Some(()) = left.recv() => {
                return Err(Error::unavailable("terminal", "left by the escape sequence; the command is hung up"));
            }
            signal = signals.next() => {
                // On a terminal the command gets its signals from keys: one from elsewhere is meant for this process.
                if args.tty || !running.get() || signals.insists() {
                    return Ok(ExitCode::from(u8::try_from(128 + signal).unwrap_or(OWN_FAILURE)));
                }
                pass(&inputs, message(Input::Signal(signal)));
            }
        }
    }
}

/// Calls the gateway and writes out what the command writes, to its end. The exit code to end with.
async fn relay(
    json: bool,
    client: &mut Client,
    inputs: ReceiverStream<wire::ExecSandboxRequest>,
    running: &Cell<bool>,
) -> Result<u8, Error> {
    let mut outputs = answer(client.exec_sandbox(inputs)).await?;
    let mut exit = None;
    while let Some(output) = outputs.message().await.map_err(|status| from_status(&status))? {
        let written = match output.output {
            Some(Output::Stdout(data)) => write(json, false, data).await,
            Some(Output::Stderr(data)) => write(json, true, data).await,
            Some(Output::Started(pid)) => {
                running.set(true);
                if json {
                    output::json_line(&json!({ "event": "started", "pid": pid }));
                }
                Ok(())
            }
            Some(Output::Exit(status)) => {
                exit = Some(status);
                Ok(())
            }
            None => Ok(()),
        };
        match written {
            Ok(()) => {}
            // As if SIGPIPE had ended this process: the gateway sees it go and hangs the command up.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(output::READER_GONE),
            Err(error) => return Err(Error::internal(format!("the command's output cannot be written: {error}"))),
        }
    }
    let exit = exit.ok_or_else(|| {
        Error::unavailable("agent", "the connection ended before the command did")
            .cure("look at the sandbox: chiton sandbox get")
    })?;
    terminal::restore();
    if json {
        output::json_line(&json!({
            "event": "exit", "code": exit.code, "signal": (exit.signal != 0).then_some(exit.signal), "timed_out": exit.timed_out,
        }));
    }
    if exit.timed_out {
        output::fail(&Error::deadline("the command was ended by --timeout"), json);
        return Ok(TIMED_OUT);
    }
    if !exit.message.is_empty() {
        let error = match exit.code {
            NOT_FOUND => Error::not_found(exit.message),
            _ => Error::invalid("argv", exit.message),
        };
        output::fail(&error, json);
    }
    // A code that is none must not pass for a success.
    u8::try_from(exit.code).map_err(|_| Error::internal(format!("the agent told an exit code of {}", exit.code)))
}

/// Writes out, on another thread: a reader that is slow must not keep signals from being passed on.
async fn write(json: bool, stderr: bool, data: Bytes) -> io::Result<()> {
    if json {
        let (form, text) = output::data(&data);
        output::json_line(&json!({ "event": if stderr { "stderr" } else { "stdout" }, form: text }));
        return Ok(());
    }
    let written = tokio::task::spawn_blocking(move || {
        if stderr {
            return io::stderr().lock().write_all(&data);
        }
        let mut out = io::stdout().lock();
        out.write_all(&data).and_then(|()| out.flush())
    });
    written.await.map_err(io::Error::other)?
}

/// Standard input to the command, as fast as it takes it.
async fn pump(inputs: Inputs, mut escape: Escape, leave: mpsc::Sender<()>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; CHUNK];
    loop {
        match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                drop(inputs.send(message(Input::StdinEnd(true))).await);
                return;
            }
            Ok(length) => {
                let Typed { text, leaves } = escape.read(&buffer[..length]);
                if leaves {
                    // At once, also when the command has not read what was typed before.
                    let _ = leave.send(()).await;
                    return;
                }
                if !text.is_empty() && inputs.send(message(Input::Stdin(text.into()))).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Hands a message on without waiting: behind input that the command does not read it waits by itself.
fn pass(inputs: &Inputs, message: wire::ExecSandboxRequest) {
    if let Err(mpsc::error::TrySendError::Full(message)) = inputs.try_send(message) {
        let inputs = inputs.clone();
        tokio::spawn(async move { drop(inputs.send(message).await) });
    }
}

/// Signals that were sent to this process. On a terminal the terminal itself makes them for the command, from keys.
struct Signals {
    caught: mpsc::Receiver<i32>,
    last: [Option<Instant>; 3],
}

impl Signals {
    fn catch(tty: bool) -> Result<Self, Error> {
        let ends = [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit()];
        let others = [SignalKind::user_defined1(), SignalKind::user_defined2()];
        let (sender, caught) = mpsc::channel(16);
        for kind in ends.iter().chain(others.iter().filter(|_| !tty)) {
            let (mut signals, sender, number) = (stream(*kind)?, sender.clone(), kind.as_raw_value());
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    if sender.send(number).await.is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self { caught, last: [None; 3] })
    }

    /// The next one's number.
    async fn next(&mut self) -> i32 {
        let Some(number) = self.caught.recv().await else { return std::future::pending().await };
        self.last.rotate_left(1);
        self.last[2] = Some(Instant::now());
        number
    }

    /// Three signals within a second are for this process: they may not reach the command, because it does not read its
    /// input, and somebody wants an end.
    fn insists(&self) -> bool {
        self.last[0].is_some_and(|first| first.elapsed() < Duration::from_secs(1))
    }
}

fn stream(kind: SignalKind) -> Result<Signal, Error> {
    signal(kind).map_err(|error| Error::internal(format!("signals cannot be caught: {error}")))
}

/// Tells the command when the terminal's size changes, also while this process was stopped.
fn pass_resizes(inputs: &Inputs) -> Result<(), Error> {
    let (mut sizes, inputs) = (stream(SignalKind::window_change())?, inputs.clone());
    let mut stops = stream(SignalKind::from_raw(rustix::process::Signal::TSTP.as_raw()))?;
    let mut resumes = stream(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                size = sizes.recv() => if size.is_none() { return },
                _ = stops.recv() => terminal::suspend(),
                _ = resumes.recv() => terminal::resume(),
            }
            if inputs.send(message(Input::Resize(window()))).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}
