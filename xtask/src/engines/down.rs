//! Ends a set and takes away all that it left, whatever state it is in. It goes on after a failure, and names them all.

use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::layout::{Engine, Layout};
use super::state::State;
use super::{PATIENCE, api, daemon, filter, processes, sweep, up, user};
use crate::setup;

/// How long threads may take to end after their process has.
const THREADS: Duration = Duration::from_secs(10);

pub(crate) fn down(layout: &Layout) -> Result<(), String> {
    if !setup::is_root() {
        return Err("engines are taken down by root alone: run this as root".to_owned());
    }
    if !layout.home.exists() {
        return user::remove(layout);
    }
    let _lock = up::lock(layout)?;
    let state = State::read(layout);
    if !layout.state().exists() && fs::read_dir(&layout.home).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(format!("{} was not made by this program: it has no state.json", layout.home.display()));
    }
    let mut wrong = Vec::new();
    let mut note = |done: Result<(), String>| wrong.extend(done.err());
    // While they run, engines take away networks and namespaces that nobody else can find.
    thread::scope(|scope| {
        let ends = Engine::ALL.map(|engine| scope.spawn(move || empty_and_end(layout, engine)));
        for end in ends {
            note(end.join().unwrap_or_else(|_| Err("the thread that ends an engine died".to_owned())));
        }
    });
    note(processes::end_all(layout, PATIENCE));
    sweep::mounts(layout);
    sweep::runc(layout);
    note(remove(&layout.runtime()));
    if let Some(state) = &state {
        note(filter::clean(layout, state));
        sweep::remove_interfaces(sweep::interfaces(state));
        // The threads of who was killed may be there a little longer than the process itself.
        processes::wait(THREADS, || {
            sweep::remove_cgroups(&layout.cgroup());
            sweep::cgroups(&layout.cgroup()).next().is_none()
        });
        if !state.libpod_cgroup {
            sweep::remove_cgroups("libpod_parent");
        }
        sweep::shared(layout, state);
        state.restore_forwarding();
    }
    note(user::remove(layout));
    note(remove(&layout.home));
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

fn remove(folder: &Path) -> Result<(), String> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("{}: {error}", folder.display())),
        _ => Ok(()),
    }
}

fn empty_and_end(layout: &Layout, engine: Engine) -> Result<(), String> {
    let socket = layout.socket(engine);
    if api::answers(&socket) {
        // What is not removed now is killed later.
        if let Ok(containers) = api::get(&socket, "/containers/json?all=1") {
            for id in containers.as_array().into_iter().flatten().filter_map(|container| container["Id"].as_str()) {
                drop(api::ask(&socket, "DELETE", &format!("/containers/{id}?force=1&v=1"), None));
            }
        }
        drop(api::ask(&socket, "POST", "/networks/prune", None));
    } else if engine == Engine::Podman && layout.of(engine).join("containers.conf").exists() {
        drop(daemon::podman_of_root(layout).args(["rm", "--all", "--force", "--time=0"]).output());
    }
    processes::end(layout, engine, true, PATIENCE)
}
