//! Brings a set up, or finds it up.

use std::fmt::Write;
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::image::{self, Busybox};
use super::layout::{Engine, Layout};
use super::state::{Process, State};
use super::{api, daemon, processes};
use crate::setup;

/// How long another order for the same set may take.
const TURN: Duration = Duration::from_mins(3);

/// Starts what does not run, and loads the images where they are not. `owned`: it ends with this process.
pub(crate) fn up(layout: &Layout, owned: bool) -> Result<(), String> {
    if !setup::is_root() {
        return Err("engines are set up by root alone: run this as root".to_owned());
    }
    setup::prepare_engines()?;
    daemon::make(&layout.home, 0o755)?;
    let _lock = lock(layout)?;
    let mut state = match State::read(layout) {
        Some(state) => state,
        None => State::now(layout)?,
    };
    state.owner = owned.then(Process::this);
    state.write(layout)?;
    if !state.packet_filter {
        eprintln!(
            "xtask: another dockerd runs: this set's leaves the packet filter alone (no masquerading, no isolation of networks)"
        );
    }
    install_control(layout)?;
    let busybox = Busybox::of_this_machine()?;
    let mut ids = Vec::new();
    for (user, reference, name) in [(false, image::ROOT, None), (true, image::APP, Some("app"))] {
        let image = image::archive(&busybox, reference, name).map_err(|error| format!("the image: {error}"))?;
        put(&layout.archive(user), &image.bytes, 0o644)?;
        ids.push((user, reference, image.id));
    }
    let start = |engine| daemon::start(layout, &state, engine).and_then(|()| load(layout, engine, &ids));
    let start = &start;
    let [docker, podman, rootless] = thread::scope(|scope| {
        let begun = Engine::ALL.map(|engine| scope.spawn(move || start(engine)));
        begun.map(|thread| thread.join().unwrap_or_else(|_| Err("the thread that starts it died".to_owned())))
    });
    docker.and(podman).map_err(|why| format!("{why}\ncargo xtask engines down takes away what did come up"))?;
    if let Err(why) = &rootless {
        eprintln!("xtask: podman of an ordinary user does not run here: {why}");
    }
    put(&layout.env(), exports(layout, rootless.err().as_deref()).as_bytes(), 0o644)
}

/// This program under a name that outlives the target folder's next build.
fn install_control(layout: &Layout) -> Result<(), String> {
    let this = std::env::current_exe().and_then(fs::read);
    let this = this.map_err(|error| format!("this program cannot be read: {error}"))?;
    put(&layout.control(), &this, 0o755)
}

/// Writes a file unless it is so; at once, because it may be in use.
fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<(), String> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let new = path.with_extension("new");
    fs::write(&new, bytes)
        .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(mode)))
        .and_then(|()| fs::rename(&new, path))
        .map_err(|error| format!("{} cannot be written: {error}", path.display()))
}

/// Gives an engine the images that it has not.
fn load(layout: &Layout, engine: Engine, images: &[(bool, &str, String)]) -> Result<(), String> {
    let socket = layout.socket(engine);
    for (user, reference, id) in images {
        let has = || api::get(&socket, &format!("/images/{reference}/json")).is_ok_and(|image| image["Id"] == **id);
        if has() {
            continue;
        }
        let path = layout.archive(*user);
        let archive = File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let answer = api::demand(&socket, "POST", "/images/load", Some(archive), 200)?;
        if !has() {
            let answer = String::from_utf8_lossy(&answer);
            return Err(format!("{} loaded {} and has no {reference}: {answer}", engine.name(), path.display()));
        }
    }
    Ok(())
}

/// What a shell evaluates to find the set.
fn exports(layout: &Layout, no_rootless: Option<&str>) -> String {
    let mut text = String::new();
    let mut export = |name: &str, value: &str| {
        writeln!(text, "export {name}={value}").expect("a string takes everything");
    };
    export("ENGINES_DIR", &layout.home.display().to_string());
    export("ENGINES_CONTROL", &layout.control().display().to_string());
    export("ENGINES_IMAGE", image::ROOT);
    export("ENGINES_IMAGE_USER", image::APP);
    export("ENGINES_ARCHIVE", &layout.archive(false).display().to_string());
    export("ENGINES_ARCHIVE_USER", &layout.archive(true).display().to_string());
    for engine in [Engine::Docker, Engine::Podman] {
        export(engine.variable(), &layout.socket(engine).display().to_string());
    }
    match no_rootless {
        None => {
            export(Engine::Rootless.variable(), &layout.socket(Engine::Rootless).display().to_string());
            export("ENGINES_PODMAN_ROOTLESS_USER", &layout.user());
        }
        Some(why) => {
            let why = why.lines().collect::<Vec<_>>().join("; ").replace('\'', "\"");
            export("ENGINES_PODMAN_ROOTLESS_WHY_NOT", &format!("'{why}'"));
        }
    }
    text
}

/// The same, of a set that is up.
pub(crate) fn env(layout: &Layout) -> Result<String, String> {
    let text = fs::read_to_string(layout.env()).map_err(|_| not_up(layout))?;
    for engine in Engine::ALL {
        if text.contains(&format!("{}=", engine.variable())) && !processes::is_serving(layout, engine) {
            return Err(format!("{} of {} does not run; cargo xtask engines up", engine.name(), layout.home.display()));
        }
    }
    Ok(text)
}

pub(crate) fn not_up(layout: &Layout) -> String {
    format!("no engines are up in {}; cargo xtask engines up", layout.home.display())
}

/// One order at a time for one set. The lock is on the folder itself, so that none is left beside it.
pub(crate) fn lock(layout: &Layout) -> Result<File, String> {
    let open = || File::open(&layout.home).map_err(|error| format!("{}: {error}", layout.home.display()));
    let file = open()?;
    let mut refused = None;
    let locked = processes::wait(TURN, || match file.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(error)) => {
            refused = Some(error);
            true
        }
    });
    if let Some(error) = refused {
        return Err(format!("{} cannot be locked: {error}", layout.home.display()));
    }
    let inode = |file: &File| file.metadata().map(|data| data.ino()).ok();
    if !locked || inode(&file) != inode(&open()?) {
        return Err(format!("another order for {} was or is at work; try again", layout.home.display()));
    }
    Ok(file)
}
