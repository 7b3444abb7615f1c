//! What is forgotten, and what must not be.

mod common;

use chiton_lifecycle::journal::{ActivationStamp, ChainEntry, Journal as _, SandboxRecord, Write};
use common::{
    at, begun, block_on, debt, ended, obligation, open, operation_id, put, put_operation, request, sandbox, sandbox_id,
    store_all, workspace,
};

const HOUR: i64 = 3600;

/// A failed create that goes at this second.
fn failed(id: &str, second: i64) -> SandboxRecord {
    SandboxRecord { expires_at: Some(at(second)), ..sandbox(id, id, 1) }
}

fn entry(digest: &str) -> ChainEntry {
    ChainEntry {
        name: "lease".parse().unwrap(),
        version: "1".to_owned(),
        state_schema: 1,
        config: digest.to_owned(),
        activation: ActivationStamp { rule: "always".to_owned(), inputs: String::new(), principal: String::new() },
        observe: false,
    }
}

#[test]
fn failed_creates_go_at_their_time_unless_something_is_owed_or_running() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let fraction = "1970-01-01T00:01:40.9Z".parse().unwrap();
    store_all(
        &store,
        vec![
            put(failed("s-due", 100)),
            put(failed("s-later", 101)),
            put(SandboxRecord { expires_at: Some(fraction), ..sandbox("s-fraction", "fraction", 1) }),
            put(SandboxRecord { debts: vec![debt()], ..failed("s-owes", 1) }),
            put(failed("s-obliged", 1)),
            Write::PutObligation(obligation("owed", "s-obliged").into()),
            put(failed("s-busy", 1)),
            put_operation(&begun(&store, "op-busy", "s-busy")),
            put(sandbox("s-alive", "alive", 1)),
        ],
    );
    assert_eq!(block_on(store.expire(at(99))).unwrap(), []);
    assert_eq!(block_on(store.expire(at(100))).unwrap(), [sandbox_id("s-due")]);
    assert_eq!(block_on(store.sandbox(&sandbox_id("s-due"))).unwrap(), None);
    store_all(&store, vec![Write::RemoveObligation("owed".to_owned())]);
    let gone = block_on(store.expire(at(100))).unwrap();
    assert_eq!(gone, [sandbox_id("s-obliged")]);
    let gone = block_on(store.expire(at(101))).unwrap();
    assert_eq!(gone, [sandbox_id("s-fraction"), sandbox_id("s-later")]);
}

#[test]
fn states_go_with_the_expired_row() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let state = chiton_lifecycle::journal::ExtensionState { schema_version: 1, payload: serde_json::Value::Null };
    let row = failed("s-due", 1);
    store_all(&store, vec![put(row.clone()), Write::PutState(row.subject(), "lease".parse().unwrap(), state)]);
    block_on(store.expire(at(1))).unwrap();
    assert_eq!(block_on(store.state_keys()).unwrap(), []);
}

#[test]
fn requests_are_forgotten_at_their_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let asked = request("once", "op-one", "s-one", 100);
    store_all(&store, vec![Write::PutRequest(asked.clone().into())]);
    block_on(store.expire(at(99))).unwrap();
    assert!(block_on(store.request(&asked.key)).unwrap().is_some());
    block_on(store.expire(at(100))).unwrap();
    assert!(block_on(store.request(&asked.key)).unwrap().is_none());
}

#[test]
fn operations_of_a_gone_sandbox_stay_an_hour_and_as_long_as_a_request_names_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let operations = ["op-plain", "op-asked"].map(|id| ended(begun(&store, id, "s-gone"), 1000));
    let open_one = begun(&store, "op-open", "s-gone");
    store_all(
        &store,
        vec![
            put_operation(&operations[0]),
            put_operation(&operations[1]),
            put_operation(&open_one),
            Write::PutRequest(request("once", "op-asked", "s-gone", 24 * HOUR).into()),
        ],
    );
    let there = |id: &str| block_on(store.operation(&operation_id(id))).unwrap().is_some();
    block_on(store.expire(at(1000 + HOUR - 1))).unwrap();
    assert!(there("op-plain") && there("op-asked") && there("op-open"));
    block_on(store.expire(at(1000 + HOUR))).unwrap();
    assert!(!there("op-plain") && there("op-asked") && there("op-open"));
    block_on(store.expire(at(24 * HOUR))).unwrap();
    assert!(!there("op-asked"), "the request is forgotten, and its operation with it");
    assert!(there("op-open"), "an open operation is never forgotten");
}

#[test]
fn live_sandbox_keeps_its_newest_fifty_operations() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut changes = vec![put(sandbox("s-one", "web", 1))];
    changes.push(put_operation(&begun(&store, "op-first", "s-one")));
    changes.extend((0..60).map(|number| put_operation(&ended(begun(&store, &format!("op-{number:02}"), "s-one"), 1))));
    store_all(&store, changes);
    block_on(store.expire(at(HOUR * 100))).unwrap();
    let left = block_on(store.operations(&sandbox("s-one", "web", 1).subject())).unwrap();
    assert_eq!(left.len(), 51);
    assert_eq!(left[0].id, operation_id("op-first"), "it is open");
    assert_eq!(left[1].id, operation_id("op-10"));
}

#[test]
fn config_goes_when_no_chain_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut row = sandbox("s-one", "web", 1);
    row.chain = vec![entry("sha256:sandbox")];
    let mut place = workspace(true);
    place.chain = vec![entry("sha256:workspace")];
    let mut changes = vec![put(row), Write::PutWorkspace(place.into())];
    changes.extend(
        ["sha256:sandbox", "sha256:workspace", "sha256:nobody"]
            .map(|digest| Write::PutConfig { digest: digest.to_owned(), document: serde_json::json!({}) }),
    );
    store_all(&store, changes);
    let left = || {
        block_on(store.expire(at(1))).unwrap();
        ["sha256:sandbox", "sha256:workspace", "sha256:nobody"]
            .map(|digest| block_on(store.config(digest)).unwrap().is_some())
    };
    assert_eq!(left(), [true, true, false]);
    store_all(&store, vec![Write::RemoveSandbox(sandbox_id("s-one"))]);
    assert_eq!(left(), [false, true, false]);
}
