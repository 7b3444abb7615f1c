//! One piece of work at a time for each key; who comes second waits and finds it done.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::Cancel;
use crate::error::Result;

/// How soon a waiter notices that its own work was ended; it is told of everything else.
const LOOK: Duration = Duration::from_millis(250);

/// Keys that are being worked on.
#[derive(Debug, Default)]
pub(crate) struct Joins {
    busy: Mutex<BTreeSet<String>>,
    freed: Condvar,
}

/// The right to work on a key.
pub(crate) struct Turn<'a> {
    joins: &'a Joins,
    key: String,
}

impl Joins {
    /// Waits for the key.
    pub(crate) fn turn(&self, key: String, cancel: &Cancel) -> Result<Turn<'_>> {
        let mut busy = self.busy.lock();
        while busy.contains(&key) {
            cancel.check()?;
            self.freed.wait_for(&mut busy, LOOK);
        }
        cancel.check()?;
        busy.insert(key.clone());
        Ok(Turn { joins: self, key })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.joins.busy.lock().remove(&self.key);
        self.joins.freed.notify_all();
    }
}
