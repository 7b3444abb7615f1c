//! `cargo xtask engines`: dockerd, podman's service and that of an ordinary user, for tests, and nothing of theirs left
//! afterwards. `docs/testing.md` says how tests find them and how to stop and start one while a test runs.

mod api;
mod around;
mod daemon;
mod down;
mod filter;
mod image;
mod layout;
mod processes;
mod state;
mod sweep;
mod up;
mod user;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use layout::{Engine, Layout};

pub(crate) use around::{Variables, alone, around, status_of};

const USAGE: &str = "usage: cargo xtask engines [--dir DIR] up | env | down | run -- COMMAND… | \
                     restart|kill|stop|start docker|podman|rootless";

/// How long an engine may take to end in its own way: dockerd gives its containers ten seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// Does what the words say.
pub(crate) fn main(words: &[String]) -> Result<(), String> {
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    let own = words.iter().position(|word| *word == "--").unwrap_or(words.len());
    let mut home = None;
    if let Some(at) = words[..own].iter().position(|word| *word == "--dir") {
        home = Some(PathBuf::from(words.get(at + 1).filter(|_| at + 1 < own).ok_or("--dir needs a folder")?));
        words.drain(at..at + 2);
    }
    let layout = || Layout::new(home.clone());
    match words[..] {
        ["up"] => {
            let layout = layout()?;
            up::up(&layout, false)?;
            print(&up::env(&layout)?);
            Ok(())
        }
        ["env"] => {
            print(&up::env(&layout()?)?);
            Ok(())
        }
        ["down"] => down::down(&layout()?),
        ["run", "--", program, ref arguments @ ..] => around::run(home.as_ref(), program, arguments),
        [order @ ("restart" | "kill" | "stop" | "start"), name] => {
            let engine = Engine::from_name(name).ok_or(USAGE)?;
            one(&layout()?, order, engine)
        }
        _ => Err(USAGE.to_owned()),
    }
}

/// The output is for `eval`.
#[allow(clippy::print_stdout)]
fn print(text: &str) {
    print!("{text}");
}

/// Ends and starts one engine of a running set.
fn one(layout: &Layout, order: &str, engine: Engine) -> Result<(), String> {
    let state = state::State::read(layout).ok_or_else(|| up::not_up(layout))?;
    let _lock = up::lock(layout)?;
    if order != "start" {
        processes::end(layout, engine, order != "kill", PATIENCE)?;
    }
    if order == "stop" { Ok(()) } else { daemon::start(layout, &state, engine) }
}
