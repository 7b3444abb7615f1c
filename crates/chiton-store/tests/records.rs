//! What is stored comes back as it was; what cannot be read is named.

mod common;

use chiton_lifecycle::journal::{
    AuditRecord, ExtensionState, Journal as _, JournalError, SandboxQuery, Subject, Write,
};
use chiton_model::ExtensionName;
use common::{
    at, begun, block_on, ended, obligation, open, put, put_operation, request, sandbox, sandbox_id, store_all,
    workspace, workspace_key,
};
use rusqlite::Connection;
use serde_json::json;

fn extension(name: &str) -> ExtensionName {
    name.parse().unwrap()
}

fn state(number: u32) -> ExtensionState {
    ExtensionState { schema_version: number, payload: json!({"number": number}) }
}

#[test]
fn states_are_found_by_subject_and_by_extension_and_go_with_their_sandbox() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let one = Subject::Sandbox(sandbox_id("s-one"));
    let place = Subject::Workspace(workspace_key());
    store_all(
        &store,
        vec![
            put(sandbox("s-one", "web", 1)),
            Write::PutState(one.clone(), extension("lease"), state(1)),
            Write::PutState(one.clone(), extension("labels"), state(2)),
            Write::PutState(place.clone(), extension("lease"), state(3)),
            Write::PutState(one.clone(), extension("gone"), state(4)),
            Write::RemoveState(one.clone(), extension("gone")),
        ],
    );
    store_all(&store, vec![Write::PutState(one.clone(), extension("lease"), state(5))]);
    assert_eq!(
        block_on(store.states_of(&one)).unwrap(),
        [(extension("labels"), state(2)), (extension("lease"), state(5))]
    );
    assert_eq!(
        block_on(store.states_by(&extension("lease"))).unwrap(),
        [(one.clone(), state(5)), (place.clone(), state(3))]
    );
    assert_eq!(block_on(store.state_keys()).unwrap().len(), 3);
    store_all(&store, vec![Write::RemoveSandbox(sandbox_id("s-one"))]);
    assert_eq!(block_on(store.state_keys()).unwrap(), [(place, extension("lease"))]);
}

#[test]
fn obligations_come_oldest_first_until_they_are_paid() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut late = obligation("a", "s-one");
    late.opened_at = at(9);
    let early = obligation("b", "s-one");
    store_all(&store, vec![Write::PutObligation(late.clone().into()), Write::PutObligation(early.clone().into())]);
    assert_eq!(block_on(store.obligations()).unwrap(), [early, late.clone()]);
    store_all(&store, vec![Write::RemoveObligation("b".to_owned())]);
    assert_eq!(block_on(store.obligations()).unwrap(), [late]);
}

#[test]
fn operations_requests_configs_and_workspaces_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let operations = ["op-b", "op-a"].map(|id| ended(begun(&store, id, "s-one"), 5));
    let asked = request("once", "op-b", "s-one", 100);
    let document = json!({"pool": ["a", "b"]});
    store_all(
        &store,
        vec![
            put_operation(&operations[1]),
            put_operation(&operations[0]),
            Write::PutRequest(asked.clone().into()),
            Write::PutConfig { digest: "sha256:one".to_owned(), document: document.clone() },
            Write::PutWorkspace(workspace(true).into()),
        ],
    );
    assert_eq!(block_on(store.operations(&operations[0].subject)).unwrap(), operations);
    assert_eq!(block_on(store.operation(&operations[1].id)).unwrap().as_ref(), Some(&operations[1]));
    assert_eq!(block_on(store.request(&asked.key)).unwrap().as_ref(), Some(&asked));
    let mut other = asked.key;
    other.principal = "uid:7".to_owned();
    assert_eq!(block_on(store.request(&other)).unwrap(), None, "another principal's id is another request");
    assert_eq!(block_on(store.config("sha256:one")).unwrap(), Some(document));
    assert_eq!(block_on(store.config("sha256:two")).unwrap(), None);
    assert_eq!(block_on(store.workspaces()).unwrap(), [workspace(true)]);
}

#[test]
fn audit_records_are_appended_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for action in ["adopt", "discharge"] {
        let record = AuditRecord {
            at: at(1),
            action: action.to_owned(),
            subject: "s-one".to_owned(),
            by: "uid:0".to_owned(),
            message: String::new(),
        };
        store_all(&store, vec![Write::Audit(record.into())]);
    }
    let database = Connection::open(folder.path().join("chiton.db")).unwrap();
    let mut query = database.prepare("SELECT doc FROM audit ORDER BY number").unwrap();
    let actions: Vec<String> = query
        .query_map([], |row| row.get::<_, String>(0))
        .unwrap()
        .map(|doc| serde_json::from_str::<AuditRecord>(&doc.unwrap()).unwrap().action)
        .collect();
    assert_eq!(actions, ["adopt", "discharge"]);
}

/// What reading says after the row was spoilt with this SQL.
fn spoilt(sql: &str, read: impl FnOnce(&chiton_store::SqliteStore) -> Result<(), JournalError>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store_all(
        &store,
        vec![
            put(sandbox("s-one", "web", 1)),
            put_operation(&begun(&store, "op-one", "s-one")),
            Write::PutState(Subject::Sandbox(sandbox_id("s-one")), extension("lease"), state(1)),
            Write::PutObligation(obligation("owed", "s-one").into()),
            Write::PutWorkspace(workspace(true).into()),
        ],
    );
    let database = Connection::open(folder.path().join("chiton.db")).unwrap();
    assert_eq!(database.execute(sql, []).unwrap(), 1);
    match read(&store) {
        Err(JournalError::Unreadable(what)) => what,
        other => panic!("{sql}: {other:?}"),
    }
}

#[test]
fn unreadable_row_is_named_with_its_table() {
    let all = SandboxQuery { all: true, ..SandboxQuery::default() };
    for damage in ["'{'", "json_set(doc, '$.unknown', 1)", "json_remove(doc, '$.phase')", "x'ff00ff'", "7"] {
        let sql = format!("UPDATE sandbox SET doc = {damage}");
        let what = spoilt(&sql, |store| block_on(store.sandboxes(&all)).map(drop));
        assert!(what.starts_with("sandbox s-one"), "{damage}: {what}");
    }
    let what = spoilt("UPDATE operation SET doc = '[]'", |store| block_on(store.open_operations()).map(drop));
    assert!(what.starts_with("operation op-one"), "{what}");
    let subject = Subject::Sandbox(sandbox_id("s-one"));
    let what = spoilt("UPDATE state SET doc = '[]'", |store| block_on(store.states_of(&subject)).map(drop));
    assert!(what.starts_with("state s-one lease"), "{what}");
    let what = spoilt("UPDATE state SET key = '[]'", |store| block_on(store.state_keys()).map(drop));
    assert!(what.starts_with("state s-one lease"), "{what}");
    let what = spoilt("UPDATE obligation SET doc = '[]'", |store| block_on(store.obligations()).map(drop));
    assert!(what.starts_with("obligation owed"), "{what}");
    let what = spoilt("UPDATE workspace SET doc = '[]'", |store| block_on(store.workspaces()).map(drop));
    assert!(what.starts_with("workspace team/oci"), "{what}");
}

#[test]
fn floats_come_back_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let subject = Subject::Sandbox(sandbox_id("s-one"));
    let floats = [6.934_698_245_112_694e276, 8.383_658_838_626_809e-78, 0.1, f64::MIN_POSITIVE];
    let state = ExtensionState { schema_version: 1, payload: json!(floats) };
    store_all(
        &store,
        vec![put(sandbox("s-one", "web", 1)), Write::PutState(subject.clone(), extension("lease"), state.clone())],
    );
    assert_eq!(block_on(store.states_of(&subject)).unwrap(), [(extension("lease"), state)]);
}
