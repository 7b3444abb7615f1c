//! `kill -9` of the gateway in the midst of create, start, stop and delete: nothing is left that no live sandbox owns.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use chiton_tests::{Gateway, root_or_skip};

const CONFIG: &str = r#"
[compute]
extensions = ["fault", "address-lease", "noop"]
[compute.extension."fault"]
folder = "{folder}/fault"
[compute.extension."address-lease"]
range = "10.9.0.1-10.9.0.200"
folder = "{folder}/leases"
[log]
level = "error"
"#;

/// Numbers that look random and are the same for the same seed (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Names of the files in a folder whose text, or whose name up to a dot, is the id of a sandbox that does not live.
fn stray(folder: &std::path::Path, live: &BTreeSet<String>) -> Vec<String> {
    let Ok(listing) = fs::read_dir(folder) else { return Vec::new() };
    let mut stray = Vec::new();
    for entry in listing.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let owner = if text.is_empty() { name.split('.').next().unwrap_or_default().to_owned() } else { text };
        if !live.contains(&owner) {
            stray.push(format!("{name} of {owner}"));
        }
    }
    stray
}

#[test]
fn a_gateway_killed_at_any_moment_leaves_nothing_that_no_live_sandbox_owns() {
    if !root_or_skip("a_gateway_killed_at_any_moment_leaves_nothing_that_no_live_sandbox_owns") {
        return;
    }
    let (kills, seed) = (setting("TEST_KILLS", 50), setting("TEST_SEED", 1));
    eprintln!("{kills} kills with TEST_SEED={seed}");
    let mut random = Random(seed);
    let mut gateway = Gateway::start(env!("CARGO_BIN_EXE_chiton-test"), CONFIG);
    let mut kinds = [0_u64; 4];
    for round in 0..kills {
        let kind = usize::try_from(round % 4).expect("small");
        let name = format!("k-{round}");
        // What the operation needs is there before it begins.
        if kind > 0 {
            gateway.chiton(&["sandbox", "create", &name]).ok();
        }
        if kind == 1 {
            gateway.chiton(&["sandbox", "stop", &name]).ok();
        }
        let verb = ["create", "start", "stop", "delete"][kind];
        let mut request = gateway
            .command(&["sandbox", verb, &name, "--no-wait"])
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("a request");
        let delay = Duration::from_micros(random.below(60_000));
        let until = Instant::now() + delay;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        gateway.kill();
        drop(request.wait());
        kinds[kind] += 1;
        gateway.run();
        let rows = wait_until_quiet(&gateway);
        let live: BTreeSet<String> = rows
            .iter()
            .filter(|row| !matches!(row["phase"].as_str(), Some("Error" | "Deleted")))
            .filter_map(|row| row["id"].as_str().map(str::to_owned))
            .collect();
        assert_eq!(gateway.leftovers(), [""; 0], "after kill {round} ({verb}, {delay:?})");
        assert_eq!(
            stray(&gateway.folder().join("leases"), &live),
            [""; 0],
            "leases after kill {round} ({verb}, {delay:?})"
        );
        assert_eq!(
            stray(&gateway.folder().join("fault/effects"), &live),
            [""; 0],
            "effects after kill {round} ({verb}, {delay:?})"
        );
        gateway.chiton(&["sandbox", "delete", "--all", "--yes"]).ok();
    }
    let rows = wait_until_quiet(&gateway);
    let open: Vec<_> = rows.iter().filter(|row| row["phase"] != "Error").collect();
    assert!(open.is_empty(), "rows are left: {open:?}");
    assert_eq!(gateway.chiton(&["obligations", "list", "--json"]).ok().json(), serde_json::json!([]));
    eprintln!("killed in create {}, start {}, stop {}, delete {}", kinds[0], kinds[1], kinds[2], kinds[3]);
}

/// Every operation that the restart took up again has ended.
fn wait_until_quiet(gateway: &Gateway) -> Vec<serde_json::Value> {
    let until = Instant::now() + Duration::from_secs(90);
    loop {
        let rows = gateway.sandboxes();
        if rows.iter().all(|row| row["operation"].is_null()) {
            return rows;
        }
        assert!(Instant::now() < until, "operations do not end: {rows:#?}");
    }
}
