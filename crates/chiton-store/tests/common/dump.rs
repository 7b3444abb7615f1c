//! Everything that a store can be asked, and everything that lies in its folder.

use std::fs;
use std::path::{Path, PathBuf};

use chiton_lifecycle::journal::{Journal as _, JournalError, SandboxQuery, Subject};
use chiton_store::SqliteStore;
use futures::executor::block_on;

use super::{sandbox_id, workspace_name};

/// Every record that can be read, as text; the names go by several ways, because an index can be wrong where its table
/// is not.
pub fn dump(store: &SqliteStore) -> Result<Vec<String>, JournalError> {
    let mut lines = Vec::new();
    let sandboxes = block_on(store.sandboxes(&SandboxQuery { all: true, ..SandboxQuery::default() }))?;
    for row in &sandboxes {
        lines.push(format!("{row:?}"));
        lines.push(format!("{:?}", block_on(store.sandbox(&row.id))?.map(|row| row.id)));
        lines.push(format!("{:?}", block_on(store.sandbox_by_name(&workspace_name(), &row.name))?.map(|row| row.id)));
        let subject = Subject::Sandbox(row.id.clone());
        lines.push(format!("{:?}", block_on(store.operations(&subject))?));
        lines.push(format!("{:?}", block_on(store.states_of(&subject))?));
    }
    lines.push(format!(
        "{:?}",
        block_on(store.open_operations())?.into_iter().map(|open| open.operation).collect::<Vec<_>>()
    ));
    lines.push(format!("{:?}", block_on(store.state_keys())?));
    lines.push(format!("{:?}", block_on(store.states_by(&"lease".parse().expect("a name")))?));
    lines.push(format!("{:?}", block_on(store.obligations())?));
    lines.push(format!("{:?}", block_on(store.workspaces())?));
    lines.push(format!("{:?}", block_on(store.config("sha256:one"))?));
    lines.push(format!("{:?}", block_on(store.request(&super::request("r-one", "op-one", "s-00", 9).key))?));
    lines.push(format!("{:?}", block_on(store.sandbox(&sandbox_id("s-none")))?));
    Ok(lines)
}

/// The files of a folder and of its marks, with their bytes.
pub fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for part in [folder.to_owned(), folder.join("marks")] {
        for entry in fs::read_dir(part).expect("a folder") {
            let path = entry.expect("an entry").path();
            // The shared memory is made anew from the log; the lock file holds a process id.
            let named = |name: &str| path.file_name().is_some_and(|found| found == name);
            if path.is_file() && !named("chiton.db-shm") && !named("lock") {
                let bytes = fs::read(&path).expect("a file");
                // A reader makes an empty log where there is none.
                if !(bytes.is_empty() && named("chiton.db-wal")) {
                    found.push((path.clone(), bytes));
                }
            }
        }
    }
    found.sort();
    found
}

/// Lays a folder's files as they were, each in its old place: the database stays the same file.
pub fn lay(folder: &Path, files: &[(PathBuf, Vec<u8>)]) {
    for part in [folder.to_owned(), folder.join("marks")] {
        for entry in fs::read_dir(part).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_file() && !files.iter().any(|(kept, _)| *kept == path) {
                fs::remove_file(path).expect("removed");
            }
        }
    }
    for (path, bytes) in files {
        fs::write(path, bytes).expect("a file");
    }
}
