//! Tests that change their whole process, or the mounts that it sees: they run in a process of their own.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use parking_lot::RwLock;

/// Held shared while a test asks who has a lock: a child that is being started has all locks of this process until it
/// executes its program, also those that have been let go meanwhile.
pub static LOCKS: RwLock<()> = RwLock::new(());

/// Set for the process that is a test's own.
const OWN: &str = "CHITON_STORE_TEST_OWN";

/// Runs the test's body in a process of its own, and says what that said when it failed.
pub fn alone(test: &str, body: impl FnOnce()) {
    if std::env::var_os(OWN).is_some_and(|own| own == test) {
        return body();
    }
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(OWN, test);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = {
        let _nobody_looks = LOCKS.write();
        let mut child = command.spawn().expect("this program again");
        // Its first word, an empty line or none: it runs.
        drop(child.stdout.as_mut().expect("a pipe").read(&mut [0]));
        child
    };
    let output = child.wait_with_output().expect("its end");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", said(&output.stdout), said(&output.stderr));
    assert!(said(&output.stdout).contains("1 passed"), "no test is called {test}");
}

/// Whether this process may mount; says by name when the test cannot run.
pub fn may_mount(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED {test}: it mounts a small disk, which needs root");
    }
    root
}

/// Mounts that only this process sees.
pub fn own_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).expect("private");
}

/// A disk with this much room.
pub fn small_disk(at: &Path, kib: u32) {
    let size = format!("size={kib}k,mode=0700");
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(size.as_str())).expect("a small disk");
}

/// Makes what is mounted there read-only; a file or folder that is no mount becomes one.
pub fn read_only(at: &Path) {
    mount(Some(at), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("a mount of itself");
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, at, None::<&str>, flags, None::<&str>).expect("read-only");
}
