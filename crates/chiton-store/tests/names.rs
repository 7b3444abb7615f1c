//! Names: held by one row at a time, found after they were let go.

mod common;

use chiton_lifecycle::journal::{Check, Commit, Journal as _, JournalError, SandboxQuery, Write};
use common::{
    block_on, name, open, put, sandbox, sandbox_id, store_all, workspace, workspace_key, workspace_name, writes,
};

#[test]
fn second_holder_is_refused_even_without_a_check() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store_all(&store, vec![put(sandbox("s-one", "web", 1))]);
    let refused = block_on(store.commit(writes(vec![put(sandbox("s-two", "web", 2))])));
    assert_eq!(refused, Err(JournalError::NameHeld { holder: sandbox_id("s-one") }));
    assert!(block_on(store.sandbox(&sandbox_id("s-one"))).unwrap().is_some(), "the holder's row is untouched");
    assert!(block_on(store.sandbox(&sandbox_id("s-two"))).unwrap().is_none());
}

#[test]
fn released_name_is_free_within_the_same_commit() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store_all(&store, vec![put(sandbox("s-one", "web", 1))]);
    let take_over = Commit {
        number: 0,
        checks: vec![Check::NameFree(workspace_name(), name("web"))],
        writes: vec![Write::ReleaseName(sandbox_id("s-one")), put(sandbox("s-two", "web", 2))],
    };
    block_on(store.commit(take_over)).unwrap();
    let old = block_on(store.sandbox(&sandbox_id("s-one"))).unwrap().unwrap();
    assert!(!old.name_held, "the document says it too");
    let found = block_on(store.sandbox_by_name(&workspace_name(), &name("web"))).unwrap().unwrap();
    assert_eq!(found.id, sandbox_id("s-two"));
}

#[test]
fn failing_check_leaves_the_released_name_held() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store_all(&store, vec![put(sandbox("s-one", "web", 1)), put(sandbox("s-two", "db", 1))]);
    let commit = Commit {
        number: 0,
        checks: vec![Check::NameFree(workspace_name(), name("db"))],
        writes: vec![Write::ReleaseName(sandbox_id("s-one"))],
    };
    assert_eq!(block_on(store.commit(commit)), Err(JournalError::NameHeld { holder: sandbox_id("s-two") }));
    assert!(block_on(store.sandbox(&sandbox_id("s-one"))).unwrap().unwrap().name_held);
}

#[test]
fn name_finds_the_holder_before_newer_rows_and_else_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for (id, commit) in [("s-a", 1), ("s-c", 3), ("s-b", 2)] {
        store_all(&store, vec![put(sandbox(id, "web", commit))]);
        store_all(&store, vec![Write::ReleaseName(sandbox_id(id))]);
    }
    let find = || block_on(store.sandbox_by_name(&workspace_name(), &name("web"))).unwrap().unwrap().id;
    assert_eq!(find(), sandbox_id("s-c"));
    let mut holder = sandbox("s-a", "web", 1);
    holder.name_held = true;
    store_all(&store, vec![put(holder)]);
    assert_eq!(find(), sandbox_id("s-a"));
}

#[test]
fn listing_pages_in_id_order_and_hides_rows_without_their_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for number in 0..7 {
        store_all(&store, vec![put(sandbox(&format!("s-{number}"), &format!("web-{number}"), number))]);
    }
    store_all(&store, vec![Write::ReleaseName(sandbox_id("s-3"))]);
    let page = |after: Option<&str>, all| {
        let query = SandboxQuery { workspace: Some(workspace_name()), all, after: after.map(sandbox_id), limit: 3 };
        let rows = block_on(store.sandboxes(&query)).unwrap();
        rows.into_iter().map(|row| row.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(page(None, false), ["s-0", "s-1", "s-2"]);
    assert_eq!(page(Some("s-2"), false), ["s-4", "s-5", "s-6"]);
    assert_eq!(page(Some("s-2"), true), ["s-3", "s-4", "s-5"]);
    let elsewhere = SandboxQuery { workspace: Some("other".parse().unwrap()), ..SandboxQuery::default() };
    assert_eq!(block_on(store.sandboxes(&elsewhere)).unwrap(), Vec::new());
}

#[test]
fn workspace_checks_follow_its_row_and_its_sandboxes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let check = |check| block_on(store.commit(Commit { number: 0, checks: vec![check], writes: Vec::new() }));
    let ready = || check(Check::WorkspaceReady(workspace_key()));
    let unused = || check(Check::WorkspaceUnused(workspace_name()));
    assert_eq!(ready(), Err(JournalError::WorkspaceGone));
    store_all(&store, vec![Write::PutWorkspace(Box::new(workspace(false)))]);
    assert_eq!(ready(), Err(JournalError::WorkspaceGone));
    store_all(&store, vec![Write::PutWorkspace(Box::new(workspace(true)))]);
    assert!(ready().is_ok());
    assert!(unused().is_ok());
    store_all(&store, vec![put(sandbox("s-one", "web", 1)), put(sandbox("s-two", "db", 1))]);
    assert_eq!(unused(), Err(JournalError::WorkspaceInUse(2)));
    store_all(&store, vec![Write::RemoveWorkspace(workspace_key())]);
    assert_eq!(ready(), Err(JournalError::WorkspaceGone));
}
