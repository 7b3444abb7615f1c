//! Dying at a crash point, by environment: `TEST_CRASH_AT` names the point (the program kills itself when it first
//! reaches it), `TEST_CRASH_LOG` a file that gets a line for every point that is reached.

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;

use chiton_lifecycle::crash::Points;
use rustix::process::{Signal, getpid, kill_process};

/// Points as the environment wants them watched; by nobody where it wants nothing.
pub fn from_environment() -> Points {
    let (fatal, log) = (env::var("TEST_CRASH_AT").ok(), env::var_os("TEST_CRASH_LOG"));
    if fatal.is_none() && log.is_none() {
        return Points::default();
    }
    Points::watched_by(move |point| {
        let name = point.to_string();
        if let Some(log) = &log {
            let file = OpenOptions::new().create(true).append(true).open(log);
            // In one piece: other threads come to other points meanwhile.
            let line = format!("{name}\n");
            file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the log of crash points is writable");
        }
        if fatal.as_ref() == Some(&name) {
            die();
        }
    })
}

/// As `kill -9` does: nothing of this process runs any more, no destructor and no flush.
fn die() -> ! {
    _ = kill_process(getpid(), Signal::KILL);
    // The signal may take a moment to be seen; this thread must not go on in the meantime.
    loop {
        std::thread::park();
    }
}
