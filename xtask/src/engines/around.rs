//! A set around a command: up before it, its environment, down after it, however it ends.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Mutex;
use std::thread;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::layout::{DEFAULT, Layout};
use super::state::State;
use super::{down, processes, up};
use crate::setup;

/// Environment of a command.
pub(crate) type Variables = Vec<(String, String)>;

/// `run -- COMMAND…`.
pub(crate) fn run(home: Option<&PathBuf>, program: &str, arguments: &[&str]) -> Result<(), String> {
    with(home, |variables| {
        let status = status_of(Command::new(program).args(arguments).envs(variables.iter().cloned()))?;
        if status.success() { Ok(()) } else { Err(format!("{program}: {status}")) }
    })
}

/// Tests with engines where they can be had: root only; else says who will be skipped.
pub(crate) fn around(work: impl FnOnce(&Variables) -> Result<(), String>) -> Result<(), String> {
    if env::var_os("ENGINES_DOCKER").is_some() {
        eprintln!("xtask: engines are the caller's: ENGINES_DOCKER is set");
        return work(&Variables::new());
    }
    if !setup::is_root() {
        eprintln!(
            "xtask: SKIPPED engines: not root; tests of docker and podman will say by name that they are skipped"
        );
        return work(&Variables::new());
    }
    with(None, |variables| {
        let mut variables = variables.clone();
        variables.push(("ENGINES_REQUIRED".to_owned(), "1".to_owned()));
        work(&variables)
    })
}

/// Works with a set that nobody else uses, beside all others.
pub(crate) fn alone(purpose: &str, work: impl FnOnce(&Variables) -> Result<(), String>) -> Result<(), String> {
    let home = PathBuf::from(format!("{DEFAULT}-{purpose}-{}", std::process::id()));
    with(Some(&home), work)
}

/// Brings a set up unless a person did, works, and takes it down if it brought it up.
fn with(home: Option<&PathBuf>, work: impl FnOnce(&Variables) -> Result<(), String>) -> Result<(), String> {
    hold_signals()?;
    let (layout, ours) = choose(home)?;
    let begun = std::time::Instant::now();
    let done = up::up(&layout, ours)
        .and_then(|()| up::env(&layout))
        .inspect(|_| eprintln!("xtask: engines are up in {} ({:.1?})", layout.home.display(), begun.elapsed()))
        .and_then(|text| work(&variables(&text)));
    if !ours {
        eprintln!("xtask: engines in {} were up before and stay", layout.home.display());
        return done;
    }
    let begun = std::time::Instant::now();
    let ended = down::down(&layout);
    eprintln!("xtask: engines are down ({:.1?})", begun.elapsed());
    done.and(ended.map_err(|why| format!("engines are not all down: {why}")))
}

/// Which set, and whether it ends with this process: a person's is used and stays; one whose owner was killed is taken
/// over; beside one whose owner is at work there is another.
fn choose(home: Option<&PathBuf>) -> Result<(Layout, bool), String> {
    let layout = Layout::new(home.cloned())?;
    remove_leftovers();
    match State::read(&layout).map(|state| state.owner) {
        None => Ok((layout, true)),
        Some(None) => Ok((layout, false)),
        Some(Some(owner)) if !owner.lives() => Ok((layout, true)),
        Some(Some(_)) => {
            let beside = format!("{}-{}", layout.home.display(), std::process::id());
            Layout::new(Some(beside.into())).map(|layout| (layout, true))
        }
    }
}

/// Takes down what runs beside the default set left when they were killed.
fn remove_leftovers() {
    let folder = Path::new(DEFAULT).parent().unwrap_or(Path::new("/"));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let beside = path.to_str().and_then(|path| path.strip_prefix(DEFAULT)?.strip_prefix('-')).is_some();
        let Ok(layout) = Layout::new(Some(path)) else { continue };
        let dead = State::read(&layout).and_then(|state| state.owner).is_some_and(|owner| !owner.lives());
        if beside && dead {
            eprintln!("xtask: engines in {} are a killed run's: taking them down", layout.home.display());
            if let Err(why) = down::down(&layout) {
                eprintln!("xtask: {why}");
            }
        }
    }
}

/// The lines of `env` as pairs.
fn variables(text: &str) -> Variables {
    let pairs = text.lines().filter_map(|line| line.strip_prefix("export ")?.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned())).collect()
}

/// The command that runs, and whether a signal came before it.
static AT_WORK: Mutex<(Option<u32>, bool)> = Mutex::new((None, false));

/// From here on the signals that end a program end the command that it runs: this program still has to clean up. They are
/// handled, not blocked: what is blocked stays so in every program that is started.
fn hold_signals() -> Result<(), String> {
    let fail = |error: std::io::Error| format!("signals cannot be waited for: {error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(fail)?;
    let listen = || -> std::io::Result<[Signal; 3]> {
        let _within = runtime.enter();
        Ok([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?])
    };
    let [mut interrupt, mut terminate, mut hangup] = listen().map_err(fail)?;
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                let name = tokio::select! {
                    _ = interrupt.recv() => "SIGINT",
                    _ = terminate.recv() => "SIGTERM",
                    _ = hangup.recv() => "SIGHUP",
                };
                eprintln!("xtask: {name}: ending the command, then the engines");
                let Ok(mut at_work) = AT_WORK.lock() else { return };
                at_work.1 = true;
                if let Some(pid) = at_work.0 {
                    processes::end_family(pid);
                }
            }
        });
    });
    Ok(())
}

/// Runs a command that a signal to this program ends.
pub(crate) fn status_of(command: &mut Command) -> Result<ExitStatus, String> {
    let program = command.get_program().to_owned();
    let fail = |error: std::io::Error| format!("{} cannot be run: {error}", program.display());
    let mut child = {
        let mut at_work = AT_WORK.lock().map_err(|_| "the thread that waits for signals died".to_owned())?;
        if at_work.1 {
            return Err("ended by a signal".to_owned());
        }
        let child = command.spawn();
        at_work.0 = child.as_ref().ok().map(std::process::Child::id);
        child
    }
    .map_err(fail)?;
    let status = child.wait().map_err(fail);
    if let Ok(mut at_work) = AT_WORK.lock() {
        at_work.0 = None;
    }
    status
}
