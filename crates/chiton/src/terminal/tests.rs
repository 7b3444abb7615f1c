use std::fs::File;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use super::*;

/// Set where this program is run again by the test below.
const AGAIN: &str = "TERMINAL_TEST_PANICS";

/// Not a test of its own: the other side of the next one.
#[test]
fn a_program_that_panics_in_raw_mode() {
    if std::env::var_os(AGAIN).is_none() {
        return;
    }
    let _raw = RawMode::enter().expect("a terminal");
    assert!(!tcgetattr(std::io::stdin()).expect("settings").local_modes.contains(LocalModes::ECHO));
    // On another thread, and past every destructor: only the hook is left to give the terminal back.
    let _ = std::thread::spawn(|| panic!("on purpose")).join();
    std::process::exit(42);
}

#[test]
fn a_panic_gives_the_terminal_back() {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&ours).expect("granted");
    unlockpt(&ours).expect("unlocked");
    let name = ptsname(&ours, Vec::new()).expect("a name").into_string().expect("UTF-8");
    let theirs = File::options().read(true).write(true).open(name).expect("opens");
    let settings = || format!("{:?}", tcgetattr(&theirs).expect("settings"));
    let earlier = settings();
    let status = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "terminal::tests::a_program_that_panics_in_raw_mode", "--nocapture"])
        .env(AGAIN, "1")
        .stdin(Stdio::from(theirs.try_clone().expect("a copy")))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("runs");
    assert_eq!(status.code(), Some(42), "it got to its end");
    assert_eq!(settings(), earlier);
}
