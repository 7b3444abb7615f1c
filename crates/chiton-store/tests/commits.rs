//! Commits: whole or not at all, several for one fsync, numbered for ever.

mod common;

use chiton_lifecycle::journal::{Check, Commit, Journal as _, JournalError, SandboxQuery};
use chiton_store::SqliteStore;
use common::{block_on, name, open, put, sandbox, sandbox_id, workspace_name, writes};
use futures::FutureExt as _;
use futures::future::join_all;
use rusqlite::Connection;

/// Answers of commits that are all on their way before the first can be stored: another connection keeps the database from
/// the writer until then.
fn together(store: &SqliteStore, commits: Vec<Commit>) -> Vec<Result<u64, JournalError>> {
    let other = Connection::open(store.folder().join("chiton.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut all = join_all(commits.into_iter().map(|commit| store.commit(commit)));
    assert!((&mut all).now_or_never().is_none(), "nothing can be stored yet");
    other.execute_batch("ROLLBACK").unwrap();
    block_on(all)
}

#[test]
fn concurrent_commits_share_transactions() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let before = store.transactions();
    let row = |number| put(sandbox(&format!("s-{number}"), &format!("web-{number}"), number));
    let results = together(&store, (0..200).map(|number| writes(vec![row(number)])).collect());
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let transactions = store.transactions() - before;
    assert!((1..=2).contains(&transactions), "what came before the writer looked, and the rest: {transactions}");
    assert_eq!(block_on(store.sandboxes(&SandboxQuery::default())).unwrap().len(), 200);
}

#[test]
fn lonely_commits_have_a_transaction_each() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let before = store.transactions();
    for number in 0..5 {
        block_on(store.commit(writes(vec![put(sandbox(&format!("s-{number}"), &format!("web-{number}"), number))])))
            .unwrap();
    }
    assert_eq!(store.transactions() - before, 5);
}

#[test]
fn failing_check_stores_nothing_and_its_neighbours_are_stored() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    block_on(store.commit(writes(vec![put(sandbox("s-holder", "taken", 1))]))).unwrap();
    let commits: Vec<Commit> = (0..60)
        .map(|number| {
            let wanted = if number % 3 == 0 { "taken".to_owned() } else { format!("free-{number}") };
            Commit {
                number: 0,
                checks: vec![Check::NameFree(workspace_name(), name(&wanted))],
                writes: vec![
                    put(sandbox(&format!("s-side-{number}"), &format!("side-{number}"), number)),
                    put(sandbox(&format!("s-{number}"), &wanted, number)),
                ],
            }
        })
        .collect();
    let before = store.transactions();
    let results = together(&store, commits);
    assert!(store.transactions() - before <= 2, "failing and sound commits shared a transaction");
    for (number, result) in results.iter().enumerate() {
        if number % 3 == 0 {
            assert_eq!(result, &Err(JournalError::NameHeld { holder: sandbox_id("s-holder") }));
        } else {
            assert!(result.is_ok(), "{result:?}");
        }
        for id in [format!("s-{number}"), format!("s-side-{number}")] {
            let row = block_on(store.sandbox(&sandbox_id(&id))).unwrap();
            assert_eq!(row.is_some(), number % 3 != 0, "{id}");
        }
    }
}

#[test]
fn commits_are_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let record = sandbox("s-one", "web", 1);
    block_on(store.commit(writes(vec![put(record.clone())]))).unwrap();
    drop(store);
    assert_eq!(block_on(open(folder.path()).sandbox(&record.id)).unwrap(), Some(record));
}

#[test]
fn numbers_never_repeat_over_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let mut given = Vec::new();
    for life in 0..4 {
        let store = open(folder.path());
        given.extend((0..10).map(|_| store.next_commit()));
        if life % 2 == 0 {
            given.push(block_on(store.commit(writes(Vec::new()))).unwrap());
        }
    }
    assert!(given.is_sorted_by(|one, next| one < next), "{given:?}");
}

#[test]
fn numbers_beyond_the_reserved_block_do_not_repeat_either() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let highest = (0..200_000).map(|_| store.next_commit()).last().unwrap();
    drop(store);
    assert!(open(folder.path()).next_commit() > highest);
}

#[test]
fn last_commit_is_the_highest_that_was_stored() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    assert_eq!(store.info().last_commit, 0);
    let (early, late) = (store.next_commit(), store.next_commit());
    for number in [late, early] {
        block_on(store.commit(Commit { number, ..Commit::default() })).unwrap();
    }
    assert_eq!(store.info().last_commit, late);
    drop(store);
    assert_eq!(open(folder.path()).info().last_commit, late);
}
