//! Looking at what it said and did, without asking it.

use std::fs;
use std::path::{Path, PathBuf};

use chiton_tests::crash::leftovers;

use super::{Call, DEADLINE, Gateway};

impl Gateway {
    /// Waits until it has said something so many times, over all its lives.
    #[track_caller]
    pub(crate) fn until_said(&self, times: usize, what: &str) {
        let said = self.said.lock().expect("no panic while it is held");
        let (said, wait) = self
            .news
            .wait_timeout_while(said, DEADLINE, |said| said.iter().filter(|line| line.contains(what)).count() < times)
            .expect("no panic while it is held");
        assert!(!wait.timed_out(), "it did not say {what:?} {times} times within {DEADLINE:?}:\n{}", said.join("\n"));
    }

    /// How many lines of its own had this in them, over all its lives.
    pub(crate) fn times_said(&self, what: &str) -> usize {
        let said = self.said.lock().expect("no panic while it is held");
        said.iter().filter(|line| line.contains(what)).count()
    }

    /// Everything that the gateway said on standard error.
    pub(crate) fn said(&self) -> String {
        self.said.lock().expect("no panic while it is held").join("\n")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The agents that sandboxes were started with.
    pub(crate) fn agents(&self) -> Vec<PathBuf> {
        let folder = self.path("data/drivers/oci/bin");
        self.entries("data/drivers/oci/bin").into_iter().map(|name| folder.join(name)).collect()
    }

    /// What the fault extension was called for, oldest first.
    pub(crate) fn calls(&self) -> Vec<Call> {
        let text = fs::read_to_string(self.path("calls.jsonl")).unwrap_or_default();
        // What follows the last end of a line is being written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).expect("a whole line")).collect()
    }

    /// The phases for which the fault extension was called about one sandbox, with what it was told about the action:
    /// `before_create`, `on_create_failed/failed`.
    pub(crate) fn phases(&self, id: &str) -> Vec<String> {
        let calls = self.calls();
        let of = calls.iter().filter(|call| call["sandbox"] == id && call["phase"] != "reconcile");
        let phase = |call: &Call| call["phase"].as_str().expect("a phase").to_owned();
        of.map(|call| match call["ran"].as_str() {
            Some(ran) => format!("{}/{ran}", phase(call)),
            None => phase(call),
        })
        .collect()
    }

    /// Waits until every process of the gateway's sandboxes has ended. Needs no gateway.
    pub(crate) fn until_sandboxes_ended(&self) {
        let left = leftovers::until_ended(&self.id, self.folder.path(), DEADLINE);
        assert!(left.is_empty(), "these processes did not end: {left:#?}");
    }

    /// What is in one of the test's folders, sorted.
    pub(crate) fn entries(&self, folder: &str) -> Vec<String> {
        let Ok(listing) = fs::read_dir(self.path(folder)) else { return Vec::new() };
        let mut names: Vec<String> =
            listing.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// How many addresses a sandbox has.
    pub(crate) fn leases(&self, id: &str) -> usize {
        let holder =
            |name: &String| fs::read_to_string(self.path("leases").join(name)).is_ok_and(|holder| holder == id);
        self.entries("leases").into_iter().filter(holder).count()
    }
}
