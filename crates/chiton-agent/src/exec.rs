//! Running one program for a caller.
//!
//! Three things go on at once and must not wait for each other: input (a signal must pass although the program does not
//! read its standard input), output (bounded, so a slow caller slows the program) and the watch over the end (exit, time
//! limit, a caller that went away).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chiton_agent_proto::requests::RequestIds;
use chiton_agent_proto::v1::exec_input::Input;
use chiton_agent_proto::v1::exec_output::Output;
use chiton_agent_proto::v1::{ExecExit, ExecInput, ExecOutput, ExecStart};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::Interest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::output::{End, Sink, pump};
use crate::processes::{Exit, Processes};
use crate::pty;
use crate::spawn::{Program, SpawnError, Streams, os};

/// How long the first message may take.
const START: Duration = Duration::from_secs(10);
/// Between SIGHUP and SIGKILL when the caller went away.
const GRACE: Duration = Duration::from_secs(2);
/// Messages that wait for a slow caller; each holds at most one read.
const OUTPUTS: usize = 8;
/// Bytes of standard input that wait for the program; beyond that the caller waits (its signals too: they are behind).
const INPUT_BYTES: usize = 1024 * 1024;
/// Longest time limit: what is more means no limit that anybody lives to see, and must not overflow the clock.
const LONGEST: Duration = Duration::from_hours(10 * 365 * 24);
/// What a terminal takes as the end of input at the start of a line.
const END_OF_TRANSMISSION: &[u8] = &[4];

/// What every exec of this sandbox shares.
#[derive(Debug)]
pub struct Execs {
    processes: Processes,
    env: BTreeMap<OsString, OsString>,
    workdir: Option<PathBuf>,
    requests: Mutex<RequestIds>,
}

/// Which stream the bytes are of.
type Wrap = fn(Bytes) -> Output;

/// A program of a caller, started, with our ends of its streams.
struct Started {
    pid: i32,
    exit: oneshot::Receiver<Exit>,
    stdin: End,
    outputs: Vec<(End, Wrap)>,
    terminal: bool,
    deadline: Option<Instant>,
}

impl Execs {
    /// An environment and a working folder for all programs.
    pub fn new(processes: Processes, env: BTreeMap<OsString, OsString>, workdir: Option<PathBuf>) -> Self {
        Self { processes, env, workdir, requests: Mutex::default() }
    }

    /// Serves one call.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a malformed start, `ABORTED` for a request id that ran before, `RESOURCE_EXHAUSTED` when the
    /// sandbox allows no more processes or files.
    pub async fn exec(
        &self,
        mut input: Streaming<ExecInput>,
    ) -> Result<ReceiverStream<Result<ExecOutput, Status>>, Status> {
        let first =
            timeout(START, input.message()).await.map_err(|_| Status::deadline_exceeded("no start arrived"))??;
        let Some(ExecInput { input: Some(Input::Start(start)) }) = first else {
            return Err(Status::invalid_argument("the first message of an exec must be its start"));
        };
        Self::check(&start)?;
        self.requests().take(&start.request_id)?;
        let (sink, outputs) = mpsc::channel(OUTPUTS);
        // The channel is new and has room, so nothing is lost by not waiting.
        let say =
            |output| sink.try_send(Ok(ExecOutput { output: Some(output) })).map_err(|_| Status::cancelled("gone"));
        match self.start(&start) {
            Ok(started) => {
                say(Output::Started(started.pid))?;
                tokio::spawn(attend(self.processes.clone(), started, input, sink));
            }
            Err(SpawnError::Process(error)) => {
                // It did not run, so the id may be used again.
                self.requests().give_back(&start.request_id);
                let text = format!("the sandbox allows no new process, pipe or terminal ({error}); raise its limits");
                return Err(Status::resource_exhausted(text));
            }
            Err(error @ (SpawnError::Empty | SpawnError::Nul(_) | SpawnError::Variable(_))) => {
                self.requests().give_back(&start.request_id);
                return Err(Status::invalid_argument(error.to_string()));
            }
            Err(error) => {
                let exit = ExecExit { code: error.code(), message: error.to_string(), ..ExecExit::default() };
                say(Output::Exit(exit))?;
            }
        }
        Ok(ReceiverStream::new(outputs))
    }

    pub(crate) fn check(start: &ExecStart) -> Result<(), Status> {
        if !start.workdir.is_empty() && !Path::new(&start.workdir).is_absolute() {
            let text = format!("the working folder {:?} is not an absolute path", start.workdir);
            return Err(Status::invalid_argument(text));
        }
        Ok(())
    }

    fn requests(&self) -> MutexGuard<'_, RequestIds> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, start: &ExecStart) -> Result<Started, SpawnError> {
        let mut env = self.env.clone();
        env.extend(start.env.iter().map(|(name, value)| (os(name), os(value))));
        if start.terminal.is_some() {
            env.entry("TERM".into()).or_insert_with(|| "xterm".into());
        }
        let workdir = if start.workdir.is_empty() { self.workdir.clone() } else { Some(os(&start.workdir).into()) };
        let program = Program { argv: start.argv.iter().map(|argument| os(argument)).collect(), env, workdir };
        let deadline =
            (start.timeout_ms > 0).then(|| Instant::now() + Duration::from_millis(start.timeout_ms).min(LONGEST));
        let system = |error: io::Error| SpawnError::Process(error);
        if let Some(size) = start.terminal {
            let (ours, theirs) = pty::open_pair(size).map_err(system)?;
            let end = End::new(ours, Interest::READABLE | Interest::WRITABLE).map_err(system)?;
            let running = self.processes.spawn(&program, Streams::Terminal(theirs))?;
            let outputs = vec![(end.clone(), Output::Stdout as Wrap)];
            return Ok(Started { pid: running.pid, exit: running.exit, stdin: end, outputs, terminal: true, deadline });
        }
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| SpawnError::Process(error.into()));
        let (stdin, ours_in) = pipe()?;
        let (ours_out, stdout) = pipe()?;
        let (ours_err, stderr) = pipe()?;
        let ours_in = End::new(ours_in, Interest::WRITABLE).map_err(system)?;
        let ours_out = End::new(ours_out, Interest::READABLE).map_err(system)?;
        let ours_err = End::new(ours_err, Interest::READABLE).map_err(system)?;
        let running = self.processes.spawn(&program, Streams::Pipes { stdin, stdout, stderr })?;
        let outputs = vec![(ours_out, Output::Stdout as Wrap), (ours_err, Output::Stderr)];
        Ok(Started { pid: running.pid, exit: running.exit, stdin: ours_in, outputs, terminal: false, deadline })
    }
}

/// Stays with a program to its end.
async fn attend(processes: Processes, started: Started, input: Streaming<ExecInput>, sink: Sink) {
    let Started { pid, mut exit, stdin, outputs, terminal, deadline } = started;
    let (exited, seen) = watch::channel(false);
    let pumps: Vec<_> =
        outputs.into_iter().map(|(end, wrap)| tokio::spawn(pump(end, sink.clone(), wrap, seen.clone()))).collect();
    let mut feeding = Some(Box::pin(feed(processes.clone(), pid, stdin, terminal, input)));
    let mut deadline = deadline;
    let mut timed_out = false;
    let exit = loop {
        tokio::select! {
            result = &mut exit => break result,
            () = async { sleep_until(deadline.unwrap_or_else(Instant::now)).await }, if deadline.is_some() => {
                deadline = None;
                timed_out = true;
                processes.sweep_at_exit(pid);
                // The group may be ending by itself in this moment.
                let _ = processes.signal(pid, libc::SIGKILL);
            }
            () = sink.closed() => return abandon(&processes, pid, exit).await,
            fed = async { match &mut feeding { Some(feed) => feed.await, None => std::future::pending().await } } => {
                // Dropped here, so that our end of standard input is closed.
                feeding = None;
                match fed {
                    Ok(()) => {}
                    // The caller broke off, or the protocol: either way it gets no more of this program.
                    Err(status) => {
                        let _ = sink.try_send(Err(status));
                        return abandon(&processes, pid, exit).await;
                    }
                }
            }
        }
    };
    exited.send_replace(true);
    for pump in pumps {
        // A pump ends by itself; its panic would have ended the agent.
        let _ = pump.await;
    }
    // The processes table answers for every child, so this stands for "the agent itself is ending".
    let Ok(Exit { code, signal }) = exit else { return };
    let exit = ExecExit { code, signal, timed_out, message: String::new() };
    // Nobody is left to hear of it when this fails.
    let _ = sink.send(Ok(ExecOutput { output: Some(Output::Exit(exit)) })).await;
}

/// Ends a program whose caller is gone: as a closed terminal would, then by force.
async fn abandon(processes: &Processes, pid: i32, exit: oneshot::Receiver<Exit>) {
    processes.sweep_at_exit(pid);
    for signal in [libc::SIGHUP, libc::SIGCONT] {
        // A group that has ended needs no signal. A stopped one has to be woken to see the first.
        let _ = processes.signal(pid, signal);
    }
    if timeout(GRACE, exit).await.is_err() {
        let _ = processes.signal(pid, libc::SIGKILL);
    }
}

/// Standard input on its way, and the share of [`INPUT_BYTES`] it holds.
type Waiting = (Bytes, OwnedSemaphorePermit);

/// Takes the caller's inputs until they end. An error means that the program shall end too.
async fn feed(
    processes: Processes,
    pid: i32,
    stdin: End,
    terminal: bool,
    mut input: Streaming<ExecInput>,
) -> Result<(), Status> {
    let (sender, receiver) = mpsc::unbounded_channel::<Waiting>();
    let mut sender = Some(sender);
    let room = Arc::new(Semaphore::new(INPUT_BYTES));
    let size = terminal.then(|| stdin.clone());
    let mut writing = Some(Box::pin(write(stdin, terminal, receiver)));
    let mut ended = false;
    while !ended || writing.is_some() {
        let message = tokio::select! {
            () = async { match &mut writing { Some(write) => write.await, None => std::future::pending().await } } => {
                // Dropped here: the program sees the end of its input now, not when the call ends.
                writing = None;
                continue;
            }
            message = take(&mut input, &room), if !ended => message?,
        };
        match message {
            // The end of the call's inputs is the end of standard input.
            None => {
                ended = true;
                sender = None;
            }
            Some((Input::Stdin(bytes), permit)) => {
                // After its end there is no standard input to write to; a program that closed it reads no more either.
                if let (Some(sender), Some(permit)) = (&sender, permit) {
                    let _ = sender.send((bytes, permit));
                }
            }
            Some((Input::StdinEnd(_), _)) => sender = None,
            Some((Input::Resize(window), _)) => {
                let Some(size) = &size else {
                    return Err(Status::invalid_argument("a program without a terminal has no size"));
                };
                // A terminal whose program just ended needs no size.
                let _ = pty::resize(size.fd(), window);
            }
            Some((Input::Signal(signal), _)) => {
                if !(1..=64).contains(&signal) {
                    return Err(Status::invalid_argument(format!("{signal} is no signal; use 1 to 64")));
                }
                // The program may be ending in this moment.
                let _ = processes.signal(pid, signal);
            }
            Some((Input::Start(_), _)) => return Err(Status::invalid_argument("an exec has one start")),
        }
    }
    Ok(())
}

/// The next input; for standard input once there is room for it.
async fn take(
    input: &mut Streaming<ExecInput>,
    room: &Arc<Semaphore>,
) -> Result<Option<(Input, Option<OwnedSemaphorePermit>)>, Status> {
    // Room first: then nothing is lost when this is cancelled between the two.
    let first = Arc::clone(room).acquire_owned().await.map_err(|_| Status::internal("the input's room is gone"))?;
    let Some(message) = input.message().await? else { return Ok(None) };
    let Some(message) = message.input else {
        return Err(Status::invalid_argument("an exec input is empty or of a kind this agent does not know"));
    };
    let Input::Stdin(bytes) = &message else { return Ok(Some((message, None))) };
    let mut permit = first;
    // A message may exceed what is free; it then holds all of that, and the next one waits.
    let wanted = bytes.len().saturating_sub(1).min(room.available_permits());
    if let Ok(Ok(more)) = u32::try_from(wanted).map(|wanted| Arc::clone(room).try_acquire_many_owned(wanted)) {
        permit.merge(more);
    }
    Ok(Some((message, Some(permit))))
}

/// Writes standard input until its end, or until the program closed it.
async fn write(stdin: End, terminal: bool, mut waiting: mpsc::UnboundedReceiver<Waiting>) {
    let mut open = true;
    while let Some((bytes, _permit)) = waiting.recv().await {
        // A program that closed its input is no error; the rest is taken and dropped, so that signals still pass.
        open = open && stdin.write(bytes).await.is_ok();
    }
    if terminal && open {
        // A terminal cannot be half closed. Should the program have ended, nobody minds.
        let _ = stdin.write(Bytes::from_static(END_OF_TRANSMISSION)).await;
    }
}
