//! The life of the agent: as init of the sandbox from its start to the exit code of its main program.

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use chiton_agent_proto::v1::Hello;
use rustix::process::{getpid, set_child_subreaper};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::config::{Config, ConfigError};
use crate::dial::{self, Door};
use crate::environment;
use crate::exec::Execs;
use crate::launch;
use crate::output::told;
use crate::processes::{Exit, Processes, Running};
use crate::service::Service;
use crate::spawn::{Program, SpawnError, Streams};

/// How long calls under way may take to end when the agent ends. Only what hangs takes so long; on a busy machine the word
/// of how a program ended takes its time, too.
const FAREWELL: Duration = Duration::from_secs(2);
/// Ours to hand on. The last two mean nothing to an agent without a main program.
const FORWARDED: [i32; 7] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGWINCH, libc::SIGUSR1, libc::SIGUSR2];

/// Why the agent ended without its main program's exit code.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The driver set it up wrongly.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The kernel refused what an agent cannot do without.
    #[error("the agent could not {0}: {1}")]
    System(&'static str, io::Error),
    /// It could not be confined as the driver wants it, so nothing may run.
    #[error("the sandbox could not be confined: {0}")]
    Confine(#[from] chiton_confine::ApplyError),
    /// The main program did not start.
    #[error("the main program did not start: {0}")]
    Command(#[from] SpawnError),
}

/// `chiton-agent agent -- [COMMAND...]`.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    match run(args) {
        // An exit code is a byte (wait(2)).
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Err(error) => {
            // The only words on standard error: it is the main program's.
            eprintln!("chiton-agent: {error}");
            let code = if let RunError::Command(error) = &error { error.code() } else { 125 };
            ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
        }
    }
}

fn run(args: impl Iterator<Item = OsString>) -> Result<i32, RunError> {
    let config = Config::read(args, std::env::vars_os(), launch::receive)?;
    // First of all, while there is nobody else in the sandbox. The token leaves what the kernel shows of the environment:
    // files are read in this process, also /proc/self/environ when a link in the sandbox leads there. It comes before the
    // next step, after which only the sandbox's root may open /proc/self/mem. A token that never stood there is left
    // alone: a program that its user may not read is born protected, and its user may not open that file at all.
    if config.exposed {
        environment::forget(config.token.as_bytes()).map_err(|error| RunError::System("forget its token", error))?;
    }
    launch::protect().map_err(|error| RunError::System("protect its token", error))?;
    // Before there is a second thread: it holds for all threads then, and for every program.
    if let Some(confinement) = &config.confinement {
        chiton_confine::apply(confinement)?;
    }
    if !getpid().is_init() {
        // Orphans come to process 1 by themselves; to us only on request.
        set_child_subreaper(Some(getpid())).map_err(|error| RunError::System("become a subreaper", error.into()))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| RunError::System("start its event loop", error))?;
    let result = runtime.block_on(live(config));
    // File threads may hang in the kernel; an exit does not wait for them.
    runtime.shutdown_background();
    result
}

async fn live(config: Config) -> Result<i32, RunError> {
    let Config { socket, token, exposed: _, attempt, confinement: _, workdir, env, command } = config;
    let processes = Processes::default();
    let notices = Processes::notices().map_err(|error| RunError::System("watch its children", error))?;
    tokio::spawn(processes.clone().reap(notices));
    let mut signals = signals().map_err(|error| RunError::System("handle signals", error))?;

    let service = Service::new(Execs::new(processes.clone(), env.clone(), workdir.clone()), processes.clone());
    let hello = Hello { token, attempt, version: env!("CARGO_PKG_VERSION").to_owned() };
    let (accepted, mut first) = watch::channel(false);
    let (stop, stopped) = watch::channel(false);
    let session = tokio::spawn(dial::keep(Door { socket, hello }, service, accepted, stopped));

    // The main program waits for a gateway: before that nobody could stop it or see what it does.
    let early = tokio::select! {
        () = told(&mut first) => None,
        signal = ending(&mut signals) => Some(signal),
    };
    let (code, main) = match early {
        Some(_) if command.is_empty() => (0, 0),
        Some(signal) => (128 + signal, 0),
        None if command.is_empty() => {
            ending(&mut signals).await;
            (0, 0)
        }
        None => {
            let main = processes.spawn(&Program { argv: command, env, workdir }, Streams::Inherit)?;
            let pid = main.pid;
            (attend(&processes, main, &mut signals).await, pid)
        }
    };
    let farewell = async {
        processes.kill_others(main);
        processes.idle().await;
        stop.send_replace(true);
        session.await
    };
    // What does not end in time ends with us.
    let _ = timeout(FAREWELL, farewell).await;
    Ok(code)
}

/// The next signal that asks a process to end.
async fn ending(signals: &mut mpsc::Receiver<i32>) -> i32 {
    loop {
        match signals.recv().await {
            Some(signal @ (libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT)) => return signal,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

/// Stays with the main program, hands signals on, returns its exit code.
async fn attend(processes: &Processes, mut main: Running, signals: &mut mpsc::Receiver<i32>) -> i32 {
    loop {
        tokio::select! {
            exit = &mut main.exit => return exit.map_or(125, |Exit { code, .. }| code),
            Some(signal) = signals.recv() => {
                // The program may be ending in this moment.
                let _ = processes.signal(main.pid, signal);
            }
        }
    }
}

fn signals() -> io::Result<mpsc::Receiver<i32>> {
    let (sender, receiver) = mpsc::channel(FORWARDED.len());
    for number in FORWARDED {
        let mut signal = signal(SignalKind::from_raw(number))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while signal.recv().await.is_some() {
                if sender.send(number).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(receiver)
}
