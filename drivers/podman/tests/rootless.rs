//! The promises of every driver, kept with the podman of an ordinary user: as root this runs itself again as that user,
//! from a copy that the user may execute, in a folder that the user's podman reaches.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use chiton_driver_podman::Podman;
use chiton_driver_suite::{Bench, MakeBench, Stop, Table, engine};
use chiton_engine_bench::{EngineBench, Target};

/// Set where the test is the user's.
const INNER: &str = "ENGINES_PODMAN_ROOTLESS_INNER";

const ROOTLESS: Target = Target {
    name: "podman-rootless",
    dialect: &Podman,
    socket: "ENGINES_PODMAN_ROOTLESS",
    // A request with one limit puts aside the engine's own, and its built-in ones need CAP_SYS_RESOURCE.
    ulimits: &[("nofile", 1024), ("nproc", 1024)],
    waived: |_| None,
    silent_about_memory: Some("before version 5, podman looks for its monitor's mark in a folder where it is not"),
    log_step: Duration::from_secs(1),
};

fn id(option: &str, user: &str) -> u32 {
    let output = Command::new("id").args([option, user]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().parse().unwrap_or_else(|_| panic!("there is no user {user}"))
}

#[test]
fn every_promise_with_the_podman_of_an_ordinary_user() {
    let name = "every_promise_with_the_podman_of_an_ordinary_user";
    match engine(ROOTLESS.socket) {
        Ok(_) => {}
        Err(Stop::Skipped(why)) => return eprintln!("SKIPPED {name}: {why}"),
        Err(Stop::Failed(failure)) => panic!("{failure}"),
    }
    if std::env::var_os(INNER).is_some() {
        return hold();
    }
    let user = std::env::var("ENGINES_PODMAN_ROOTLESS_USER").expect("the user is said with the socket");
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED {name}: it runs itself as {user}, which needs root");
    }
    let (uid, gid) = (id("-u", &user), id("-g", &user));
    let folder = tempfile::Builder::new().prefix("chiton-rootless-").tempdir().unwrap();
    chown(folder.path(), Some(uid), Some(gid)).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("rootless");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let status = Command::new("setpriv")
        .args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()])
        .arg(&program)
        .args(["--exact", name, "--nocapture"])
        .current_dir("/")
        .env("TMPDIR", folder.path())
        .env("HOME", folder.path())
        .env(INNER, "1")
        .status()
        .unwrap();
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(status.success(), "a promise is broken; see above");
    assert_eq!(left, [program], "files are left");
}

/// As the user.
fn hold() {
    let make: MakeBench =
        Arc::new(|| Box::pin(async { EngineBench::new(ROOTLESS).map(|bench| Arc::new(bench) as Arc<dyn Bench>) }));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let filter = std::env::var("ENGINES_CASES").unwrap_or_default();
    let table = runtime.block_on(Table::run(&[(ROOTLESS.name, make)], &filter, 4, |report| eprintln!("{report}")));
    println!("{table}");
    assert!(!table.reports.is_empty() && table.passed(), "a promise is broken; see above");
}
