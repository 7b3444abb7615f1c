//! A served driver with a chain, killed while it creates, over and over.

use std::time::Duration;

use super::process::{IDLE, Served, pass, stock};
use super::stock::{CONFIG, OCI, leases};
use crate::harness::root;

/// How often it is killed; `SERVED_KILLS` says another number.
const KILLS: u64 = 12;

/// What is running in sandboxes of this driver: processes below its folder.
fn objects(served: &Served) -> Vec<String> {
    let folder = served.folder().join("data/drivers/oci/sandboxes");
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("s-")).collect()
}

#[test]
fn a_driver_that_is_killed_in_the_middle_of_creates_leaves_nothing() {
    if !root() {
        return;
    }
    let kills = std::env::var("SERVED_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let folder = tempfile::tempdir().expect("a folder");
    let mut served = Served::start(folder.path(), CONFIG, &OCI);
    let (mut kept, mut interrupted) = (Vec::new(), 0);
    for round in 0..kills {
        let (id, name) = (format!("s-kill-{round}"), format!("box-{round}"));
        let answered = served.create(stock(&id, &name, &IDLE));
        answered.expect("it is taken");
        // From the answer to long after it is ready.
        pass(Duration::from_millis(round * 67 % 500));
        served.kill();
        served.begin();
        // A caller without a second chance asks for nothing more: it is there or it is undone, by itself.
        let found = served.get(&id).expect("its answer was OK: it stays until it is deleted");
        match found.status.expect("a status").state.as_str() {
            "running" => kept.push(id),
            "broken" => {
                interrupted += 1;
                assert!(served.delete(&id).expect("it goes"));
            }
            "created" => {
                served.until(&id, "broken");
                interrupted += 1;
                assert!(served.delete(&id).expect("it goes"));
            }
            other => panic!("round {round}: it is {other}"),
        }
        if kept.len() > 5 {
            let oldest = kept.remove(0);
            assert!(served.delete(&oldest).expect("it goes"));
            served.until(&oldest, "absent");
        }
    }
    for round in 0..kills {
        let id = format!("s-kill-{round}");
        if !kept.contains(&id) {
            served.until(&id, "absent");
        }
    }
    println!("{kills} kills: {interrupted} creates interrupted, {} in running order", kills - interrupted);
    let mut present = served.list();
    present.sort();
    kept.sort();
    assert_eq!(present, kept);
    assert_eq!((objects(&served).len(), leases(&served).len()), (kept.len(), kept.len()));
    for id in &kept {
        assert!(served.delete(id).expect("it goes"));
    }
    for id in &kept {
        served.until(id, "absent");
    }
    assert_eq!((served.list(), objects(&served), leases(&served)), (vec![], vec![], vec![]));
}
