//! Running one program for a caller.
//!
//! As in our agent, input, output and the watch over the end do not wait for each other. What SSH lacks is done beside it:
//! a server like the supervisor's ignores requests for signals, so they are sent by a second command on a stream of its
//! own, which also passes when the first one stands still.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chiton_model::SandboxId;
use chiton_proto::agent::v1::exec_input::Input;
use chiton_proto::agent::v1::exec_output::Output;
use chiton_proto::agent::v1::{ExecExit, ExecInput, ExecOutput, ExecStart};
use futures::{Stream, StreamExt as _};
use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use uuid::Uuid;

use super::Bridge;
use super::mark::{Mark, Piece};
use crate::session::Supervisors;
use crate::{line, ssh};

/// How long the first message may take.
const START: Duration = Duration::from_secs(10);
/// How long the login shell may take before it runs the program.
const BEGIN: Duration = Duration::from_mins(1);
/// Between SIGHUP and SIGKILL when the caller went away.
const GRACE: Duration = Duration::from_secs(2);
/// How long a program that was killed may take to be reported as ended.
const KILLED: Duration = Duration::from_secs(10);
/// How long sending a signal may take, a supervisor that has to dial again included.
const SIGNAL: Duration = Duration::from_secs(15);
/// Messages that wait for a slow caller.
const OUTPUTS: usize = 8;
/// Pieces of standard input that wait for the program; beyond that the caller waits.
const INPUTS: usize = 16;
/// Longest time limit: what is more means no limit that anybody lives to see, and must not overflow the clock.
const LONGEST: Duration = Duration::from_hours(10 * 365 * 24);
/// What a terminal takes as the end of input at the start of a line.
const END_OF_TRANSMISSION: &[u8] = &[4];
/// Signals by number (signal(7)).
const HANGUP: i32 = 1;
const KILL: i32 = 9;
const CONTINUE: i32 = 18;

pub(super) type Outputs = ReceiverStream<Result<ExecOutput, Status>>;
type Sink = mpsc::Sender<Result<ExecOutput, Status>>;

/// A program in the sandbox.
#[derive(Clone, Copy, Debug)]
struct Ids {
    process: i32,
    group: i32,
}

/// Serves one call.
///
/// # Errors
/// `INVALID_ARGUMENT` for a malformed start, `ABORTED` for a request id that ran before, `RESOURCE_EXHAUSTED` when too many
/// streams are pending or the command is too long, `UNAVAILABLE` when the supervisor does not do its part.
pub(super) async fn exec<S>(bridge: &Bridge, mut input: S) -> Result<Outputs, Status>
where
    S: Stream<Item = Result<ExecInput, Status>> + Send + Unpin + 'static,
{
    let first = timeout(START, input.next()).await.map_err(|_| Status::deadline_exceeded("no start arrived"))?;
    let Some(Input::Start(start)) = first.transpose()?.and_then(|message| message.input) else {
        return Err(Status::invalid_argument("the first message of an exec must be its start"));
    };
    let mark = Uuid::new_v4().simple().to_string();
    let line = line::run(&start, &mark)?;
    let session = &bridge.session;
    session.ran.lock().take(&start.request_id)?;
    let begun = async {
        let relay = bridge.supervisors.relays.open(session).await?;
        ssh::command(relay, line, &start).await
    };
    let command = begun.await.inspect_err(|_| {
        // The server was not asked, or did not take it: the id may be used again.
        session.ran.lock().give_back(&start.request_id);
    })?;
    let (sink, outputs) = mpsc::channel(OUTPUTS);
    let program = Program {
        signals: Signals {
            supervisors: Arc::clone(&bridge.supervisors),
            sandbox: session.sandbox.clone(),
            terminal: start.terminal.is_some(),
            sent: AtomicU64::new(0),
        },
        ids: watch::Sender::default(),
        start,
    };
    session.programs.spawn(attend(program, mark, command, input, sink));
    Ok(ReceiverStream::new(outputs))
}

/// What the parts of one call share.
struct Program {
    start: ExecStart,
    /// Known once the program runs.
    ids: watch::Sender<Option<Ids>>,
    signals: Signals,
}

impl Program {
    /// The program's ids, as soon as it runs; none when it ends before.
    async fn ids(&self) -> Option<Ids> {
        let mut ids = self.ids.subscribe();
        // The sender is ours: it does not go away.
        timeout(BEGIN, ids.wait_for(Option::is_some)).await.ok()?.ok().and_then(|ids| *ids)
    }

    async fn signal(&self, signals: &[i32]) {
        if let Some(ids) = self.ids().await {
            self.signals.send(ids, signals).await;
        }
    }
}

/// Sends signals into a sandbox.
struct Signals {
    supervisors: Arc<Supervisors>,
    sandbox: SandboxId,
    terminal: bool,
    /// Which were sent, as bits.
    sent: AtomicU64,
}

impl Signals {
    async fn send(&self, ids: Ids, signals: &[i32]) {
        for signal in signals {
            self.sent.fetch_or(1 << (signal - 1), Ordering::Relaxed);
        }
        // On a terminal the group is led by the shell that has to tell how the program ended; what it cannot trap is not sent
        // to it. Its end hangs the terminal up, and that ends the others.
        let group = if self.terminal && signals.contains(&KILL) { ids.process } else { ids.group };
        let line = line::signals(signals, ids.process, group);
        let send = async {
            // Not this program's session: that may have been followed by another.
            let session = self.supervisors.session_within(&self.sandbox, SIGNAL).await;
            let session = session.ok_or_else(|| Status::unavailable("no supervisor is connected"))?;
            let relay = self.supervisors.relays.open(&session).await?;
            let mut command = ssh::command(relay, line, &ExecStart::default()).await?;
            while command.read.wait().await.is_some() {}
            Ok::<_, Status>(())
        };
        match timeout(SIGNAL, send).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(sandbox = %self.sandbox, %error, "a program could not be signalled"),
            Err(_) => tracing::warn!(sandbox = %self.sandbox, "a program could not be signalled in time"),
        }
    }

    /// The signal that an exit code speaks of, as far as it was ours: a shell's word cannot be told from a program's.
    fn of(&self, code: i32) -> i32 {
        let signal = code - 128;
        let ours = (1..=64).contains(&signal) && self.sent.load(Ordering::Relaxed) & (1 << (signal - 1)) != 0;
        if ours { signal } else { 0 }
    }
}

/// Stays with a program to its end.
async fn attend<S>(program: Program, mark: String, command: ssh::Command, input: S, sink: Sink)
where
    S: Stream<Item = Result<ExecInput, Status>> + Send + Unpin + 'static,
{
    let ssh::Command { read, write, hold } = command;
    let limit = Duration::from_millis(program.start.timeout_ms).min(LONGEST);
    let mut deadline = (program.start.timeout_ms > 0).then(|| Instant::now() + limit);
    let latest = Instant::now() + BEGIN;
    let mut timed_out = false;
    let mut pump = Box::pin(pump(&program, mark, read, sink.clone()));
    let mut feeding = Some(Box::pin(feed(&program, write, input)));
    let mut killing = None;
    let mut running = program.ids.subscribe();
    let mut waiting = true;
    let ended = loop {
        tokio::select! {
            ended = &mut pump => break ended,
            () = async { sleep_until(deadline.unwrap_or_else(Instant::now)).await }, if deadline.is_some() => {
                deadline = None;
                timed_out = true;
                killing = Some(Box::pin(async {
                    program.signal(&[KILL]).await;
                    tokio::time::sleep(KILLED).await;
                }));
            }
            () = async { match &mut killing { Some(killing) => killing.await, None => std::future::pending().await } } => {
                // Nothing was heard of its end: the caller's time is over all the same.
                break Ok(ExecExit { code: 128 + KILL, signal: KILL, ..ExecExit::default() });
            }
            () = async { drop(running.wait_for(Option::is_some).await) }, if waiting => waiting = false,
            () = sleep_until(latest), if waiting => {
                break Err(Status::unavailable(format!(
                    "the login shell in the sandbox did not run the program within {BEGIN:?}; look at its profile"
                )));
            }
            () = sink.closed() => return abandon(&program, pump, waiting).await,
            fed = async { match &mut feeding { Some(feed) => feed.await, None => std::future::pending().await } } => {
                feeding = None;
                if let Err(status) = fed {
                    let _ = sink.try_send(Err(status));
                    drop(sink);
                    return abandon(&program, pump, waiting).await;
                }
            }
        }
    };
    drop(feeding);
    let last = ended.map(|exit| {
        let signal = program.signals.of(exit.code);
        ExecOutput { output: Some(Output::Exit(ExecExit { signal, timed_out, ..exit })) }
    });
    // Nobody is left to hear of it when this fails.
    let _ = sink.send(last).await;
    drop(hold);
}

/// Ends a program whose caller is gone: as a closed terminal would, then by force.
async fn abandon(program: &Program, pump: impl Future<Output = Result<ExecExit, Status>> + Unpin, waiting: bool) {
    let mut pump = pump;
    let end = async {
        // A program that is being started is waited for: it would run on unseen.
        if waiting && program.ids().await.is_none() {
            return;
        }
        program.signal(&[HANGUP, CONTINUE]).await;
        tokio::time::sleep(GRACE).await;
        program.signal(&[KILL]).await;
        tokio::time::sleep(KILLED).await;
    };
    tokio::select! {
        // Its output is read to the end, or it would stand still on what nobody takes.
        _ = &mut pump => {}
        () = end => {}
    }
}

/// Takes what the program writes, and how it ends.
async fn pump(program: &Program, mark: String, mut read: ChannelReadHalf, sink: Sink) -> Result<ExecExit, Status> {
    let mut stdout = Mark::new(&mark);
    let mut stderr = if program.start.terminal.is_some() { Mark::none() } else { Mark::new(&mark) };
    // The streams come on their own ways: what overtook the word of the start waits for it.
    let mut early = Vec::new();
    let mut code = None;
    let mut why = String::new();
    // An error is a caller that went away; what comes is taken all the same.
    let say = |output: Output| {
        let sink = sink.clone();
        async move { drop(sink.send(Ok(ExecOutput { output: Some(output) })).await) }
    };
    while let Some(message) = read.wait().await {
        match message {
            ChannelMsg::Data { data } => match stdout.take(data) {
                Piece::Early => {}
                Piece::Lost => return Err(Status::unavailable("the login shell in the sandbox wrote no line's end")),
                Piece::Output(data) => say(Output::Stdout(data)).await,
                Piece::Begun(told, rest) => {
                    match ids(&told) {
                        Some(ids) => {
                            say(Output::Started(ids.process)).await;
                            program.ids.send_replace(Some(ids));
                            for data in early.drain(..) {
                                say(Output::Stderr(data)).await;
                            }
                        }
                        None => why = told,
                    }
                    if !rest.is_empty() {
                        say(Output::Stdout(rest)).await;
                    }
                }
            },
            // Standard error; SSH knows no other kind.
            ChannelMsg::ExtendedData { data, .. } => match stderr.take(data) {
                Piece::Output(data) | Piece::Begun(_, data) if data.is_empty() => {}
                Piece::Output(data) | Piece::Begun(_, data) if program.ids.borrow().is_none() => early.push(data),
                Piece::Output(data) | Piece::Begun(_, data) => say(Output::Stderr(data)).await,
                Piece::Early | Piece::Lost => {}
            },
            ChannelMsg::ExitStatus { exit_status } => code = Some(i32::try_from(exit_status).unwrap_or(i32::MAX)),
            ChannelMsg::ExitSignal { signal_name, .. } => code = Some(128 + number(&signal_name)),
            ChannelMsg::Failure => {
                return Err(Status::unavailable("the SSH server in the sandbox refused the command"));
            }
            _ => {}
        }
    }
    let Some(code) = code else {
        return Err(Status::unavailable(
            "the stream into the sandbox broke before the program's end was told; it may still run",
        ));
    };
    let start = &program.start;
    let message = match why.as_str() {
        "folder" => format!("the working folder {:?} could not be entered", start.workdir),
        "missing" => format!("{:?} was not found in the sandbox", start.argv.first().map_or("", String::as_str)),
        _ if program.ids.borrow().is_none() => {
            return Err(Status::unavailable(format!(
                "the login shell in the sandbox ended with code {code} before it ran the program; look at its profile, \
                 and at whether the image has /bin/bash and /bin/sh"
            )));
        }
        _ => String::new(),
    };
    Ok(ExecExit { code, message, ..ExecExit::default() })
}

fn ids(told: &str) -> Option<Ids> {
    let (process, group) = told.split_once(' ')?;
    let (process, group) = (process.parse().ok()?, group.parse().ok()?);
    // These become targets of signals: 0 and 1 and what is negative mean others than this program.
    (process > 1 && group > 1).then_some(Ids { process, group })
}

/// The numbers of the signals that SSH has names for (RFC 4254, 6.10).
fn number(signal: &russh::Sig) -> i32 {
    use russh::Sig;
    match signal {
        Sig::HUP => 1,
        Sig::INT => 2,
        Sig::QUIT => 3,
        Sig::ILL => 4,
        Sig::ABRT => 6,
        Sig::FPE => 8,
        Sig::USR1 => 10,
        Sig::SEGV => 11,
        Sig::PIPE => 13,
        Sig::ALRM => 14,
        Sig::TERM => 15,
        // KILL, and names of its own.
        _ => KILL,
    }
}

/// Takes the caller's inputs until they end. An error means that the program shall end too.
async fn feed<S>(program: &Program, write: ChannelWriteHalf<Msg>, mut input: S) -> Result<(), Status>
where
    S: Stream<Item = Result<ExecInput, Status>> + Send + Unpin,
{
    let terminal = program.start.terminal.is_some();
    let (sender, receiver) = mpsc::channel::<Bytes>(INPUTS);
    let mut sender = Some(sender);
    let mut writing = Some(Box::pin(stdin(&write, terminal, receiver)));
    let mut ended = false;
    let mut held: Option<Bytes> = None;
    while !ended || writing.is_some() {
        let message = tokio::select! {
            () = async { match &mut writing { Some(write) => write.await, None => std::future::pending().await } } => {
                writing = None;
                continue;
            }
            // What the program does not take yet waits here, and what follows behind it.
            place = async { match &sender { Some(sender) => sender.reserve().await, None => std::future::pending().await } },
                if held.is_some() =>
            {
                if let (Ok(place), Some(bytes)) = (place, held.take()) {
                    place.send(bytes);
                }
                continue;
            }
            message = input.next(), if !ended && held.is_none() => message.transpose()?,
        };
        let Some(message) = message else {
            ended = true;
            sender = None;
            continue;
        };
        match message.input {
            // After its end there is no standard input to write to.
            Some(Input::Stdin(bytes)) => held = sender.is_some().then_some(bytes),
            Some(Input::StdinEnd(_)) => sender = None,
            Some(Input::Resize(size)) if terminal => {
                let (columns, rows) = ssh::cells(size);
                // A terminal whose program just ended needs no size.
                let _ = write.window_change(columns, rows, 0, 0).await;
            }
            Some(Input::Resize(_)) => {
                return Err(Status::invalid_argument("a program without a terminal has no size"));
            }
            Some(Input::Signal(signal)) if (1..=64).contains(&signal) => program.signal(&[signal]).await,
            Some(Input::Signal(signal)) => {
                return Err(Status::invalid_argument(format!("{signal} is no signal; use 1 to 64")));
            }
            Some(Input::Start(_)) => return Err(Status::invalid_argument("an exec has one start")),
            None => {
                return Err(Status::invalid_argument("an exec input is empty or of a kind this gateway does not know"));
            }
        }
    }
    Ok(())
}

/// Writes standard input until its end.
async fn stdin(write: &ChannelWriteHalf<Msg>, terminal: bool, mut from: mpsc::Receiver<Bytes>) {
    while let Some(bytes) = from.recv().await {
        // A channel that has closed takes no more; the rest is taken and dropped, so that signals still pass.
        let _ = write.data_bytes(bytes).await;
    }
    if terminal {
        // A terminal cannot be half closed.
        let _ = write.data_bytes(Bytes::from_static(END_OF_TRANSMISSION)).await;
    } else {
        let _ = write.eof().await;
    }
}
