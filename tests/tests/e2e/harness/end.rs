//! Its end: everything is deleted, and nothing may be left.

use std::collections::BTreeSet;
use std::fs;

use chiton_tests::crash::leftovers;
use serde_json::Value;

use super::Gateway;

impl Gateway {
    /// The workspaces' names: one may have a row on each of several drivers.
    fn workspaces(&self) -> BTreeSet<String> {
        let rows = self.json(&["workspaces", "list"]);
        let name = |row: &Value| row["name"].as_str().expect("a name").to_owned();
        rows.as_array().expect("a list").iter().map(name).collect()
    }

    /// Deletes everything, ends the program, and looks at the machine.
    fn finish(&mut self) {
        if self.child.is_none() {
            self.begin();
        }
        fs::write(self.path("cured"), "").expect("a file");
        self.until_idle();
        for name in self.workspaces() {
            self.chiton(&["sandbox", "delete", "--all", "--yes", "--workspace", &name]).ok();
        }
        // Also those that let go of their names: failed creates, and what still owes something.
        for sandbox in self.json(&["sandbox", "list", "--all"]).as_array().expect("a list") {
            let id = sandbox["id"].as_str().expect("an id");
            if sandbox["phase"] != "Deleted" {
                self.chiton(&["sandbox", "delete", "--id", id]).ok();
            }
            self.until(id, |sandbox| sandbox.is_none());
        }
        for name in self.workspaces() {
            self.chiton(&["workspaces", "delete", &name]).ok();
        }
        let owed = self.json(&["obligations", "list"]);
        assert_eq!(owed.as_array().map(Vec::len), Some(0), "something is owed: {owed:#}");
        self.terminate();
        // A monitor's last word comes a moment before its end, and who makes a sandbox of another test sees for a moment
        // what is mounted here.
        self.until_sandboxes_ended();
        let left = leftovers::look(&self.id, self.folder.path());
        assert!(left.is_empty(), "something is left:\n{}\nthe gateway said:\n{}", left.join("\n"), self.said());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let failed = std::thread::panicking()
            || std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.finish())).is_err();
        if !failed {
            return;
        }
        eprintln!("the gateway said:\n{}", self.said());
        self.kill();
        leftovers::sweep(&self.id, self.folder.path());
        assert!(std::thread::panicking(), "the gateway's end failed; see above");
    }
}
