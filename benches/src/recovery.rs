//! A gateway that comes back: killed with a thousand creates in flight, and with many sandboxes.

use std::error::Error;

use chiton_tests::recovery::{Recovery, creates_in_flight, many_sandboxes};

use crate::figures::millis;

const CREATES: usize = 1000;
/// Sandboxes, and the goal for their gateway to serve, in milliseconds.
const SANDBOXES: [(usize, u32); 2] = [(10_000, 300), (100_000, 2000)];

/// Needs `chiton-test` beside this program.
pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let program = std::env::current_exe()?.with_file_name("chiton-test");
    println!("# recovery after kill -9, real program and store, driver of symbolic links");
    let folder = fresh()?;
    let Recovery { serving, settled, unwound, .. } = creates_in_flight(&program, folder.path(), CREATES).await?;
    println!(
        "{CREATES} creates in flight: serves after {:.0} ms, all {unwound} undone after {:.0} ms; goal 2000 ms",
        millis(serving),
        millis(settled)
    );
    for (count, goal) in SANDBOXES {
        let folder = fresh()?;
        let recovery = many_sandboxes(&program, folder.path(), count).await?;
        println!("{} sandboxes: serves after {:.0} ms; goal {goal} ms", recovery.live, millis(recovery.serving));
    }
    Ok(())
}

fn fresh() -> std::io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("chiton-bench-").tempdir()
}
