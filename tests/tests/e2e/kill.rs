//! `kill -9` of the gateway in the midst of create, start, stop and delete: nothing is left that no live sandbox owns.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::harness::{Gateway, Share, leftovers, root};

const CONFIG: &str = r#"
[compute]
extensions = ["fault", "address-lease", "noop"]
[compute.extension.fault]
folder = "{folder}"
[compute.extension.address-lease]
range = "10.9.0.1-10.9.0.200"
folder = "{folder}/leases"
[compute.extension.noop]
[log]
level = "error"
"#;

/// The slowest of the four operations takes about this long; a kill falls somewhere into it, or just after.
const LONGEST: u64 = 60_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn a_gateway_killed_at_any_moment_leaves_nothing_that_no_live_sandbox_owns() {
    if !root() {
        return;
    }
    let (kills, seed) = (setting("TEST_KILLS", 50), setting("TEST_SEED", rand::random::<u32>().into()));
    eprintln!("{kills} kills; repeat with TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut gateway = Gateway::sharing(CONFIG, Share::Whole);
    for round in 0..kills {
        let verb = ["create", "start", "stop", "delete"][usize::try_from(round % 4).expect("small")];
        let name = format!("k-{round}");
        // What the operation needs is there before it begins.
        if verb != "create" {
            gateway.chiton(&["sandbox", "create", &name]).ok();
        }
        if verb == "start" {
            gateway.chiton(&["sandbox", "stop", &name]).ok();
        }
        let mut request = gateway.plain_command(&["sandbox", verb, &name, "--no-wait"]);
        let mut request = request.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a request");
        let delay = Duration::from_micros(random.random_range(0..LONGEST));
        let until = Instant::now() + delay;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        gateway.kill();
        drop(request.wait());
        gateway.begin();
        gateway.until_idle();
        // What lives is deleted; what then is left belonged to nobody.
        gateway.chiton(&["sandbox", "delete", "--all", "--yes"]).ok();
        gateway.until_idle();
        let mut left = leftovers::look(gateway.id(), gateway.folder());
        // The gateway itself lives, and so does its workspace.
        left.retain(|what| {
            !what.contains("chiton-test gateway --config") && !what.ends_with("default.ensure_workspace")
        });
        assert_eq!(left, [""; 0], "after kill {round} of seed {seed}: {verb}, {delay:?}");
    }
    let owed = gateway.json(&["obligations", "list"]);
    assert_eq!(owed, serde_json::json!([]));
}
