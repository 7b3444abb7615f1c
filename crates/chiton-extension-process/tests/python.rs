//! The kit's rules, and the process's own, held by the example in Python. Where there is no Python with grpcio these tests
//! say so and are skipped; in CI they fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use chiton_extension_process::local::Beside;
use chiton_testkit::conformance::{Bench, Check, Family, Kit};
use serde_json::json;

#[path = "python/steps.rs"]
mod steps;
#[path = "../../../examples/driver-python/tests/venv.rs"]
mod venv;

/// The code that is generated for it, made once.
fn stubs(python: &Path) -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("extension-python-stubs");
        fs::create_dir_all(&folder).expect("a folder");
        let out = |kind: &str| format!("--{kind}_out={}", folder.display());
        let mut protoc = Command::new(python);
        protoc.args(["-m", "grpc_tools.protoc", "-I"]).arg(base().join("proto"));
        protoc.args([out("python"), out("grpc_python"), "chiton/v1/extension.proto".to_owned()]);
        let done = protoc.output().expect("protoc");
        assert!(done.status.success(), "{protoc:?}: {}", String::from_utf8_lossy(&done.stderr));
        folder
    })
}

fn base() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the checkout")
}

/// A process of its own, or none with a line that names the test.
fn start() -> Option<Arc<Beside>> {
    let python = venv::python()?;
    let mut command = Command::new(&python);
    command.arg(base().join("examples/extension-python/extension.py")).env("PYTHONPATH", stubs(&python));
    Some(Beside::start("python-tickets", command).expect("the example in Python"))
}

/// The one process of the tests that run at the same time.
fn shared() -> Option<Arc<Beside>> {
    static SHARED: Mutex<Weak<Beside>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = shared.upgrade() {
        return Some(running);
    }
    let begun = start()?;
    *shared = Arc::downgrade(&begun);
    Some(begun)
}

/// Every check of a family.
fn hold(family: Family) {
    let Some(beside) = shared() else { return };
    let kit = Kit::new(Ok(beside.kind()), || {
        Bench::in_folder(|folder| json!({ "folder": folder, "count": 9, "label": "yes" })).elsewhere()
    });
    for check in Check::all().into_iter().filter(|check| check.family == family) {
        kit.assert(check);
    }
}

macro_rules! families {
    ($($family:ident $name:ident)+) => {
        $(#[test] fn $name() { hold(Family::$family); })+

        #[test]
        fn no_family_is_missing() {
            assert_eq!([$(Family::$family),+].as_slice(), Family::ALL);
        }
    };
}

families! {
    FailEach fail_each
    RepeatEach repeat_each
    RepeatEachCleanup repeat_each_cleanup
    CancelEach cancel_each
    TimeOutEach time_out_each
    PanicEach panic_each
    CrashEach crash_each
    Purity purity
    CleanupWithoutState cleanup_without_state
    CleanupOfNothing cleanup_of_nothing
    NoDetachedWork no_detached_work
    Calm calm
    Slots slots
    StateRoundTrip state_round_trip
    UnknownState unknown_state
    KeyedById keyed_by_id
    Leaks leaks
    Sweep sweep
    Reconcile reconcile
    Config config
}
