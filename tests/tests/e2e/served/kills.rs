//! A served driver with a chain, killed while it creates, over and over: before it has answered, and after.

use std::time::Duration;

use chiton_tests::crash::leftovers;

use super::process::{IDLE, Served, pass, stock};
use super::stock::{CONFIG, OCI, leases};
use crate::harness::root;

/// How often it is killed; `SERVED_KILLS` says another number.
const KILLS: u64 = 14;

/// The sandboxes that the base driver keeps a folder of.
fn objects(served: &Served) -> Vec<String> {
    let folder = served.folder().join("data/drivers/oci/sandboxes");
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("s-")).collect()
}

/// Asks for a sandbox and kills the driver; true when it had answered.
fn create_and_kill(served: &mut Served, round: u64, id: &str) -> bool {
    let sandbox = stock(id, &format!("box-{round}"), &IDLE);
    let answered = if round.is_multiple_of(2) {
        served.create(sandbox).expect("it is taken");
        // From the answer to long after it is ready.
        pass(Duration::from_millis(round * 67 % 500));
        true
    } else {
        let killer = served.killer();
        let thread = std::thread::spawn(move || {
            pass(Duration::from_millis(round * 11 % 60));
            killer();
        });
        let answered = served.create(sandbox).is_ok();
        thread.join().expect("it is killed");
        answered
    };
    served.kill();
    answered
}

#[test]
fn a_driver_that_is_killed_in_the_middle_of_creates_leaves_nothing() {
    if !root() {
        return;
    }
    let kills = std::env::var("SERVED_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let folder = tempfile::tempdir().expect("a folder");
    let mut served = Served::start(folder.path(), CONFIG, &OCI);
    let (mut kept, mut interrupted, mut untold) = (Vec::new(), 0, 0);
    for round in 0..kills {
        let id = format!("s-kill-{round}");
        let answered = create_and_kill(&mut served, round, &id);
        untold += u64::from(!answered);
        served.begin();
        // A caller without a second chance asks for nothing more: it is there or it is undone, by itself.
        let Some(found) = served.get(&id) else {
            assert!(!answered, "its answer was OK: it stays until it is deleted");
            continue;
        };
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
    println!(
        "{kills} kills, {untold} before the answer: {interrupted} creates undone, the others whole or never begun"
    );
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
    served.end(rustix::process::Signal::TERM);
    // Asked of the machine. A monitor's last word comes a moment before its end.
    let processes = leftovers::until_ended("", folder.path(), Duration::from_mins(1));
    let left = (processes, leftovers::cgroups("s-kill-"), leftovers::mounts(folder.path()));
    assert_eq!(left, (vec![], vec![], vec![]));
}
