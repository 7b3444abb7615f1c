//! A Python with what `requirements.txt` names, made once and kept beside cargo's own files.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The interpreter, or none with a line that names the test; where tests must not be skipped (`CI`), a failure.
pub(crate) fn python() -> Option<PathBuf> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match MADE.get_or_init(|| make(Path::new(env!("CARGO_TARGET_TMPDIR")))) {
        Ok(python) => Some(python.clone()),
        Err(why) => {
            assert!(std::env::var_os("CI").is_none(), "no Python with grpcio: {why}");
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("a test").to_owned();
            // Not by a macro, which the test runner would swallow.
            drop(writeln!(std::io::stderr(), "SKIPPED {name}: no Python with grpcio: {why}"));
            None
        }
    }
}

fn make(shared: &Path) -> Result<PathBuf, String> {
    let needed = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().find_map(|folder| {
        let file = folder.join("examples/driver-python/requirements.txt");
        file.exists().then_some(file)
    });
    let needed = needed.ok_or("examples/driver-python/requirements.txt is missing")?;
    let wanted = fs::read(&needed).map_err(|error| error.to_string())?;
    let folder = shared.join("python-grpcio");
    let python = folder.join("bin/python");
    // Other test programs may be here at the same time.
    let lock = File::create(shared.join("python-grpcio.lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    let mark = folder.join("made-of");
    if fs::read(&mark).is_ok_and(|made_of| made_of == wanted) && python.exists() {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", "-r"]);
    run(pip.arg(&needed))?;
    fs::write(&mark, &wanted).map_err(|error| error.to_string())?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?} ended with {}: {}", output.status, said.trim()))
}
