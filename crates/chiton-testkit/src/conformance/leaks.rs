//! A crash after every entry of the ledger, and another one while the gateway recovers from it.

use super::kit::{Found, Kit};
use super::stage::{Death, Setting};
use crate::rng::Rng;

/// A recovery has at least so many entries.
const RECOVERY: usize = 24;

pub(super) fn everywhere(kit: &Kit) -> Found {
    let mut found = Found::default();
    let mut whole = kit.stage(&Setting::default(), "nothing was done to it");
    if !whole.start() {
        found.add(whole.rig.take());
        return found;
    }
    whole.play();
    let entries = whole.lab.ledger().len();
    found.add(whole.end());
    // A thousand lives: each kind of death on a thread of its own.
    let parts = std::thread::scope(|scope| {
        let threads = Death::ALL.map(|death| scope.spawn(move || after_every_entry(kit, entries, death)));
        threads.map(std::thread::ScopedJoinHandle::join)
    });
    for part in parts {
        match part {
            Ok(part) => found.add((part.findings, part.history)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    found
}

fn after_every_entry(kit: &Kit, entries: usize, death: Death) -> Found {
    let (mut found, mut rng) = (Found::default(), Rng::new(1));
    // After every entry the process dies, and after every other one each that the marks and the machine go with it.
    let (first, step) = match death {
        Death::Process => (1, 1),
        Death::Marks => (1, 2),
        Death::Machine => (2, 2),
    };
    for entry in (first..=entries).step_by(step) {
        if found.is_plenty() {
            break;
        }
        let second = rng.one_in(2).then(|| rng.below(RECOVERY));
        found.add(one(kit, entry, death, second));
    }
    found
}

fn one(kit: &Kit, entry: usize, death: Death, second: Option<usize>) -> (Vec<super::Finding>, Option<String>) {
    let mut place = format!("{} after entry {entry} of its life's ledger", death.as_str());
    if let Some(second) = second {
        place = format!("{place}, and again {second} entries into recovery");
    }
    let mut stage = kit.stage(&Setting { death: Some(death), ..Setting::default() }, &place);
    stage.lab.ledger().crash_after(entry);
    if stage.start() {
        stage.play();
    }
    if let (true, Some(second)) = (stage.lab.world().is_killed(), second) {
        stage.rise_and_fall(second);
    }
    stage.end()
}
