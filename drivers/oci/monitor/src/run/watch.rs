//! The event loop. One thread, one `poll`: signals, the launch child, output, the socket, clients, two deadlines.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::clients::Client;
use super::launch::{Launch, verify, verify_process};
use super::output::Output;
use super::{MonitorError, Step};
use crate::exit::{Cause, ExitRecord};
use crate::files;
use crate::lock::Lock;
use crate::log::{Dropped, Writer};
use crate::wire::{Config, LaunchReport, Request, State};
use crate::{cgroup, user, wire};

/// How long killed processes may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(20);
/// How often clients are told of dropped output.
const TELL: Duration = Duration::from_secs(1);
/// The grace when the machine shuts down and nobody gave one.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// A monitor and all that it holds.
pub(super) struct Monitor {
    config: Config,
    state: State,
    clients: Vec<Client>,
    listener: Option<UnixListener>,
    launch: Option<Launch>,
    init: Option<Pid>,
    init_status: Option<WaitStatus>,
    output: Output,
    /// When the launch must have made its next step.
    launch_by: Option<Instant>,
    /// When a stop loses its patience.
    kill_at: Option<Instant>,
    start_wanted: bool,
    oom: bool,
    /// What clients were told of dropped output, and when.
    told: Dropped,
    told_at: Option<Instant>,
    /// When they have to be told again.
    tell_at: Option<Instant>,
    /// Whether somebody asked for the end.
    end_asked: bool,
    kill_asked: bool,
}

/// Everything that is open only while the monitor works.
struct Held {
    lock: Lock,
    signals: SignalFd,
    log: Writer,
}

impl Monitor {
    pub(super) fn new(config: Config, control: UnixStream) -> Self {
        let start_wanted = config.start;
        let clients = Client::new(control).into_iter().collect();
        Self {
            config,
            state: State::Launching,
            clients,
            listener: None,
            launch: None,
            init: None,
            init_status: None,
            output: Output::default(),
            launch_by: None,
            kill_at: None,
            start_wanted,
            oom: false,
            told: Dropped::default(),
            told_at: None,
            tell_at: None,
            end_asked: false,
            kill_asked: false,
        }
    }

    /// Runs to the end. Whatever happens, nothing of the sandbox's processes and cgroups is left, and clients were
    /// told last.
    pub(super) fn run(mut self) -> Result<(), MonitorError> {
        let mut held = match self.prepare() {
            Ok(held) => held,
            Err(error) => {
                self.announce(failed(&error));
                return Err(error);
            }
        };
        let result = self.launch(&held.lock).and_then(|()| self.watch(&mut held));
        let cleaned = self.clean();
        for index in 0..2 {
            self.output.drain(index, &mut held.log, true);
        }
        self.told_at = None;
        self.tell_dropped(held.log.dropped());
        let last = match (result, cleaned, self.init_status.is_some()) {
            (Err(error), _, _) | (Ok(()), Err(error), false) => Err(error),
            (Ok(()), _, _) => self.record(),
        };
        drop(self.listener.take());
        let _ = files::remove(&self.config.run_dir.join(files::SOCKET));
        // The lock goes before the last word, so that who hears it finds the lock free.
        drop(held);
        match last {
            Ok(exit) => {
                self.announce(State::Exited { exit });
                Ok(())
            }
            Err(error) => {
                self.announce(failed(&error));
                Err(error)
            }
        }
    }

    /// Own session, subreaper, signals, lock, tombstone, log: nothing that needs undoing.
    fn prepare(&mut self) -> Result<Held, MonitorError> {
        // EPERM means that this process leads a group already, as it does when started from a shell.
        let _ = nix::unistd::setsid();
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).step("become a subreaper")?;
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.add(Signal::SIGTERM);
        mask.add(Signal::SIGINT);
        mask.thread_block().step("block signals")?;
        let signals =
            SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).step("open signalfd")?;
        let mut lock = Lock::try_take(&self.config.lock).step("take the lock")?.ok_or(MonitorError::Locked)?;
        lock.sign().step("sign the lock")?;
        if self.config.tombstone.exists() {
            return Err(MonitorError::Tombstone);
        }
        for name in [files::RUNNING, files::CREATED, ExitRecord::FILE] {
            files::remove(&self.config.dir.join(name)).step("remove the last start's marks")?;
        }
        let log = Writer::open(&self.config.dir, self.config.log_bytes).step("open the log")?;
        Ok(Held { lock, signals, log })
    }

    fn launch(&mut self, lock: &Lock) -> Result<(), MonitorError> {
        let within = Duration::from_millis(self.config.launch_deadline_ms);
        self.launch_by = Some(Instant::now() + within);
        let (launch, output) = Launch::spawn(&self.config, lock).step("spawn the launch child")?;
        self.launch = Some(launch);
        self.output = output;
        cgroup::create(&self.config.cgroups, &self.config.limits).step("make the cgroups")?;
        let document = std::mem::take(&mut self.config.launch);
        let listener = files::listen(&self.config.run_dir, files::SOCKET).step("open the monitor's socket")?;
        listener.set_nonblocking(true).step("open the monitor's socket")?;
        self.listener = Some(listener);
        if let Some(launch) = &mut self.launch {
            launch.hand_over(&document, within).step("hand over the launch document")?;
        }
        Ok(())
    }

    /// Until init was reaped, or the launch failed.
    fn watch(&mut self, held: &mut Held) -> Result<(), MonitorError> {
        while self.init_status.is_none() {
            let ready = self.wait(&held.signals).step("wait for events")?;
            if ready.timed_out {
                self.deadlines()?;
            }
            for index in 0..2 {
                if ready.output[index] {
                    self.output.drain(index, &mut held.log, false);
                }
            }
            self.tell_dropped(held.log.dropped());
            // Before the signals: a launch child that reported and ended is heard first.
            if ready.launch {
                self.hear_launch()?;
            }
            if ready.signals {
                self.signals(&held.signals)?;
            }
            if ready.listener {
                self.accept();
            }
            self.hear_clients(&ready.clients);
        }
        Ok(())
    }

    fn wait(&self, signals: &SignalFd) -> io::Result<Ready> {
        let mut fds = vec![PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        let mut index_of = |fd| {
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            fds.len() - 1
        };
        let listener = self.listener.as_ref().map(|listener| index_of(listener.as_fd()));
        let launch = self.launch.as_ref().map(|launch| index_of(launch.stream.as_fd()));
        let output = [0, 1].map(|index| self.output.ends[index].as_ref().map(|end| index_of(end.as_fd())));
        let clients: Vec<usize> = self.clients.iter().map(|client| index_of(client.stream.as_fd())).collect();
        let deadline = [self.launch_by, self.kill_at, self.tell_at].into_iter().flatten().min();
        let timeout = deadline.map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() }
        });
        let count = match poll(&mut fds, timeout.as_ref()) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => return Ok(Ready::default()),
            Err(error) => return Err(error.into()),
        };
        let ready = |index: usize| !fds[index].revents().is_empty();
        Ok(Ready {
            timed_out: count == 0,
            signals: ready(0),
            listener: listener.is_some_and(ready),
            launch: launch.is_some_and(ready),
            output: output.map(|index| index.is_some_and(ready)),
            clients: clients.into_iter().map(ready).collect(),
        })
    }

    fn deadlines(&mut self) -> Result<(), MonitorError> {
        let now = Instant::now();
        if self.launch_by.is_some_and(|by| by <= now) {
            let source = io::Error::new(io::ErrorKind::TimedOut, "the launch child did not answer in time");
            return Err(MonitorError::Step { step: "launch", source });
        }
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            self.kill();
        }
        Ok(())
    }

    fn hear_launch(&mut self) -> Result<(), MonitorError> {
        let Some(launch) = &mut self.launch else { return Ok(()) };
        let (reports, ended) = launch.reports().step("hear the launch child")?;
        for report in reports {
            match report {
                LaunchReport::Moved { pid } => {
                    if let Some(launch) = &mut self.launch {
                        launch.pid = Pid::from_raw(pid);
                    }
                }
                LaunchReport::Created { pid, launched } => {
                    self.init = Some(Pid::from_raw(pid));
                    self.launch_by = None;
                    verify(pid, self.config.host_network).step("verify the container's confinement")?;
                    // Before the mark: what is there when the mark is, is whole.
                    std::fs::write(self.config.dir.join(files::LAUNCHED), launched).step("write what was launched")?;
                    files::mark(&self.config.dir, files::CREATED).step("mark the container as created")?;
                    self.announce(State::Created);
                    if self.start_wanted {
                        self.start()?;
                    }
                }
                LaunchReport::Running => {
                    self.launch_by = None;
                    // One that was reaped already was looked at before it could execute anything.
                    if let (Some(init), None) = (self.init, self.init_status) {
                        verify_process(init.as_raw()).step("verify the main process's confinement")?;
                    }
                    files::mark(&self.config.dir, files::RUNNING).step("mark the container as running")?;
                    self.announce(State::Running);
                }
                LaunchReport::Failed { step, message } => {
                    let source = io::Error::other(format!("{step}: {message}"));
                    return Err(MonitorError::Step { step: "launch", source });
                }
            }
        }
        if ended {
            self.launch = None;
            // Without an init nobody is left whose end could be waited for, whether this end was asked for or not.
            if self.init.is_none() || (self.state != State::Running && self.kill_at.is_none()) {
                let source = io::Error::other("the launch child ended before the main process ran");
                return Err(MonitorError::Step { step: "launch", source });
            }
        }
        Ok(())
    }

    fn start(&mut self) -> Result<(), MonitorError> {
        self.start_wanted = true;
        if self.state != State::Created {
            return Ok(());
        }
        let gone = || io::Error::other("the launch child ended before the main process ran");
        let launch = self.launch.as_mut().ok_or_else(gone).step("start the main process")?;
        self.launch_by = Some(Instant::now() + Duration::from_millis(self.config.launch_deadline_ms));
        launch.start().step("start the main process")
    }

    fn stop(&mut self, grace: Duration) {
        self.end_asked = true;
        let at = Instant::now() + grace;
        match (&self.state, self.init) {
            (State::Running, Some(init)) if !grace.is_zero() => {
                self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
                let _ = kill(init, Signal::SIGTERM);
            }
            _ => self.kill(),
        }
    }

    /// Kills everything of the sandbox, also the launch child where it has not entered the cgroups yet.
    fn kill(&mut self) {
        // Tells a launch that fails from now on from one that failed by itself.
        self.kill_at.get_or_insert_with(|| Instant::now() + KILL_DEADLINE);
        for pid in [self.init, self.launch.as_ref().map(|launch| launch.pid)].into_iter().flatten() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        self.kill_all();
    }

    /// Kills everybody: by cgroups, and in a pid namespace of our own whoever is in it.
    fn kill_all(&self) {
        cgroup::kill_all(&self.config.cgroups);
        user::kill_others();
    }

    fn signals(&mut self, signals: &SignalFd) -> Result<(), MonitorError> {
        while let Some(info) = signals.read_signal().step("read signals")? {
            let terminated = [Signal::SIGTERM, Signal::SIGINT]
                .iter()
                .any(|signal| i32::try_from(info.ssi_signo).is_ok_and(|number| number == *signal as i32));
            if terminated {
                self.stop(SHUTDOWN_GRACE);
            }
        }
        let nobody = !self.reap(Some(WaitPidFlag::WNOHANG))?;
        if nobody && self.init_status.is_none() {
            let source = io::Error::other("no process of the sandbox is left, and none was seen to end as its init");
            return Err(MonitorError::Step { step: "watch over the sandbox", source });
        }
        Ok(())
    }

    /// Takes in every child that ended. `None` waits; returns whether children are left.
    fn reap(&mut self, flags: Option<WaitPidFlag>) -> Result<bool, MonitorError> {
        loop {
            match waitpid(None, flags) {
                Ok(WaitStatus::StillAlive) => return Ok(true),
                Ok(status) => {
                    if status.pid() == self.init && matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..))
                    {
                        self.init_status = Some(status);
                    }
                    // What it said last is still in the socket; it may be that another took its place.
                    if self.is_launch(status.pid()) {
                        self.hear_launch()?;
                    }
                    if self.is_launch(status.pid()) {
                        self.launch = None;
                        // A container that waits for its start waits for ever without it; its end of the connection may
                        // be held open by that very container, so that nothing but this tells.
                        let stranded = self.state != State::Running && self.kill_at.is_none();
                        if self.init.is_none() || stranded {
                            let source = io::Error::other(format!("the launch child ended: {status:?}"));
                            return Err(MonitorError::Step { step: "launch", source });
                        }
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => return Ok(false),
                Err(error) => return Err(error).step("wait for children"),
            }
        }
    }

    fn is_launch(&self, pid: Option<Pid>) -> bool {
        self.launch.as_ref().is_some_and(|launch| Some(launch.pid) == pid)
    }

    /// Says what was dropped, at most once a second: a disk that is full is full for every write.
    fn tell_dropped(&mut self, dropped: Dropped) {
        if dropped == self.told {
            return;
        }
        let now = Instant::now();
        if let Some(again) = self.told_at.map(|at| at + TELL).filter(|again| *again > now) {
            // Nothing else may happen by then.
            self.tell_at = Some(again);
            return;
        }
        (self.told, self.told_at, self.tell_at) = (dropped, Some(now), None);
        let Dropped { bytes, records } = dropped;
        self.clients.retain_mut(|client| client.say(&State::Dropped { bytes, records }));
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        let Dropped { bytes, records } = self.told;
        while let Ok((stream, _)) = listener.accept() {
            if let Ok(mut client) = Client::new(stream)
                && client.say(&self.state)
                && (records == 0 || client.say(&State::Dropped { bytes, records }))
            {
                self.clients.push(client);
            }
        }
    }

    fn hear_clients(&mut self, ready: &[bool]) {
        let mut asked = Vec::new();
        let mut index = 0;
        self.clients.retain_mut(|client| {
            let heard = ready.get(index).copied().unwrap_or(false);
            index += 1;
            if !heard {
                return true;
            }
            match client.requests() {
                Some(requests) => {
                    asked.extend(requests);
                    true
                }
                None => false,
            }
        });
        for request in asked {
            match request {
                // A failed start ends the launch child, which is heard in its turn.
                Request::Start => drop(self.start()),
                Request::Stop { grace_ms } => self.stop(Duration::from_millis(grace_ms)),
                Request::Kill => {
                    self.end_asked = true;
                    self.kill_asked = true;
                    self.kill();
                }
            }
        }
    }

    fn announce(&mut self, state: State) {
        self.clients.retain_mut(|client| client.say(&state));
        self.state = state;
    }

    /// Ends whatever is left and removes the cgroups.
    fn clean(&mut self) -> Result<(), MonitorError> {
        self.kill();
        self.oom = cgroup::oom(&self.config.cgroups);
        let deadline = Instant::now() + KILL_DEADLINE;
        let mut pause = Duration::from_micros(50);
        // Children that were handed to us end without a signal that tells which, so this asks until none is left.
        while self.reap(Some(WaitPidFlag::WNOHANG)).unwrap_or(true) && Instant::now() < deadline {
            self.kill_all();
            #[expect(clippy::disallowed_methods, reason = "the kernel tells of this by no event")]
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        cgroup::destroy(&self.config.cgroups, deadline.saturating_duration_since(Instant::now()))
            .step("remove the cgroups")
    }

    fn record(&mut self) -> Result<ExitRecord, MonitorError> {
        let (code, signal) = match self.init_status {
            Some(WaitStatus::Exited(_, code)) => (Some(code), None),
            Some(WaitStatus::Signaled(_, signal, _)) => (None, Some(signal as i32)),
            _ => (None, None),
        };
        // Init is the agent wherever one was asked for, and hands on how its main program ended as an exit code.
        let agent_killed = signal.is_some() && self.config.attempt.is_some() && !self.end_asked && !self.oom;
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
        let exit = ExitRecord {
            code,
            signal,
            oom: self.oom,
            at_ms: u64::try_from(at).unwrap_or(u64::MAX),
            attempt: self.config.attempt.clone(),
            lost: None,
            cause: agent_killed.then_some(Cause::AgentKilled),
        };
        // Who asked for the kill is about to remove or replace the record.
        exit.store(&self.config.dir, !self.kill_asked).step("write the exit record")?;
        Ok(exit)
    }
}

#[derive(Default)]
struct Ready {
    timed_out: bool,
    signals: bool,
    listener: bool,
    launch: bool,
    output: [bool; 2],
    clients: Vec<bool>,
}

fn failed(error: &MonitorError) -> wire::State {
    let step = match error {
        MonitorError::Step { step, .. } => (*step).to_owned(),
        MonitorError::Tombstone => "look for a tombstone".to_owned(),
        MonitorError::Locked => "take the lock".to_owned(),
    };
    let message = match error {
        MonitorError::Step { source, .. } => source.to_string(),
        other => other.to_string(),
    };
    wire::State::Failed { step, message, tombstone: matches!(error, MonitorError::Tombstone) }
}
