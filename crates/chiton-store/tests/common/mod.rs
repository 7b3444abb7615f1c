//! What the tests of the store share: records with little in them, and stores on machines that tests make up.
#![allow(dead_code, unreachable_pub)] // every test file uses its own part

pub mod child;
pub mod dump;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use chiton_lifecycle::journal::{
    Commit, Debt, Journal, MarkPosition, Obligation, ObligationReason, ObligationStatus, OperationOutcome,
    OperationRecord, RequestKey, RequestRecord, SandboxRecord, Subject, WorkspaceKey, WorkspaceRecord, Write,
};
use chiton_lifecycle::plan::SealedPlan;
use chiton_model::{
    BackendId, DriverId, OperationId, OperationKind, Phase, Principal, Ran, SandboxId, SandboxName, SandboxPhase,
    SandboxSpec, StoreEpoch, WorkspaceName,
};
use chiton_store::{MachineFacts, SqliteStore, StoreOptions};
pub use futures::executor::block_on;
use jiff::Timestamp;

/// The machine that a test's gateway runs on.
pub fn machine() -> MachineFacts {
    MachineFacts { boot: "boot-one".to_owned(), machine: "machine-one".to_owned() }
}

/// Options for this folder and machine; a fatal failure fails the test.
pub fn options(folder: &Path, machine: MachineFacts) -> StoreOptions {
    StoreOptions { folder: folder.to_owned(), machine, fatal: Arc::new(|why| panic!("the store gave up: {why}")) }
}

/// A store in this folder.
pub fn open(folder: &Path) -> SqliteStore {
    SqliteStore::open(options(folder, machine())).expect("the store opens")
}

/// What an operator's copy of a store's folder has. Not made by a program, whose child would have the locks of this one.
pub fn copy_store(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("marks")).unwrap();
    for part in ["", "marks"] {
        for entry in fs::read_dir(from.join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, to.join(part).join(path.file_name().unwrap())).unwrap();
            }
        }
    }
}

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

pub fn sandbox_id(text: &str) -> SandboxId {
    SandboxId::new(text).expect("an id")
}

pub fn operation_id(text: &str) -> OperationId {
    OperationId::new(text).expect("an id")
}

pub fn workspace_name() -> WorkspaceName {
    WorkspaceName::new("team").expect("a name")
}

pub fn name(text: &str) -> SandboxName {
    SandboxName::new(text).expect("a name")
}

pub fn driver() -> DriverId {
    DriverId::new("oci").expect("a driver")
}

pub fn workspace_key() -> WorkspaceKey {
    WorkspaceKey { workspace: workspace_name(), driver: driver() }
}

fn principal() -> Principal {
    Principal { subject: "uid:0".to_owned(), claims: BTreeMap::new() }
}

/// A sandbox that holds its name.
pub fn sandbox(id: &str, named: &str, commit: u64) -> SandboxRecord {
    SandboxRecord {
        id: sandbox_id(id),
        name: name(named),
        name_held: true,
        workspace: workspace_name(),
        driver: driver(),
        backend: BackendId("backend".to_owned()),
        epoch: StoreEpoch::new("epoch").expect("an id"),
        commit,
        created_by: operation_id("op-make"),
        principal: principal(),
        spec: SandboxSpec::default(),
        phase: SandboxPhase::Provisioning,
        conditions: Vec::new(),
        exit: None,
        failure: None,
        plan: SealedPlan {
            driver: driver(),
            schema: 1,
            plan: serde_json::json!({"image": "host"}),
            slots: BTreeMap::new(),
            owners: BTreeMap::new(),
            writes: Vec::new(),
            notes: Vec::new(),
            digest: format!("sha256:{}", "0".repeat(64)),
        },
        slots: BTreeMap::new(),
        chain: Vec::new(),
        debts: Vec::new(),
        attempt: "first".to_owned(),
        token: String::new(),
        restart: false,
        created_at: at(1),
        updated_at: at(1),
        expires_at: None,
    }
}

/// An open operation on a sandbox, as of now.
pub fn operation(id: &str, subject: &str, commit: u64, marks: MarkPosition, epoch: StoreEpoch) -> OperationRecord {
    OperationRecord {
        id: operation_id(id),
        subject: Subject::Sandbox(sandbox_id(subject)),
        kind: OperationKind::Create,
        start_reason: None,
        stop_reason: None,
        principal: principal(),
        commit,
        marks,
        epoch,
        started_at: at(1),
        started_boot_ms: 1,
        deleted: false,
        ended_at: None,
        outcome: None,
        steps: Vec::new(),
        total_us: 0,
    }
}

/// An operation that this store begins now.
pub fn begun(store: &SqliteStore, id: &str, subject: &str) -> OperationRecord {
    operation(id, subject, store.next_commit(), store.mark_position(), store.info().epoch)
}

/// The operation, ended well.
pub fn ended(mut record: OperationRecord, second: i64) -> OperationRecord {
    record.ended_at = Some(at(second));
    record.outcome = Some(OperationOutcome::Succeeded);
    record
}

pub fn debt() -> Debt {
    Debt { extension: "lease".parse().expect("a name"), phase: Phase::AfterStop, ran: Ran::Maybe }
}

pub fn obligation(id: &str, subject: &str) -> Obligation {
    Obligation {
        id: id.to_owned(),
        subject: Subject::Sandbox(sandbox_id(subject)),
        name: "web".to_owned(),
        debt: debt(),
        reason: ObligationReason::CleanupFailed,
        status: ObligationStatus::Open,
        stop_reason: None,
        failure: None,
        operation: operation_id("op-make"),
        opened_at: at(1),
        attempts: 1,
        last_error: String::new(),
        next_attempt_at: at(2),
        expires_at: None,
    }
}

pub fn request(id: &str, operation: &str, subject: &str, expires: i64) -> RequestRecord {
    RequestRecord {
        key: RequestKey { principal: "uid:0".to_owned(), method: "create".to_owned(), request_id: id.to_owned() },
        body: "0".repeat(64),
        operation: Some(operation_id(operation)),
        subject: Subject::Sandbox(sandbox_id(subject)),
        sandbox: None,
        expires_at: at(expires),
    }
}

pub fn workspace(ready: bool) -> WorkspaceRecord {
    let epoch = StoreEpoch::new("epoch").expect("an id");
    WorkspaceRecord { key: workspace_key(), ready, chain: Vec::new(), debts: Vec::new(), epoch, created_at: at(1) }
}

/// A commit with a fresh number and no checks.
pub fn writes(writes: Vec<Write>) -> Commit {
    Commit { number: 0, checks: Vec::new(), writes }
}

pub fn put(record: SandboxRecord) -> Write {
    Write::PutSandbox(Box::new(record))
}

pub fn put_operation(record: &OperationRecord) -> Write {
    Write::PutOperation(Box::new(record.clone()))
}

/// Stores it, or fails the test.
pub fn store_all(store: &SqliteStore, changes: Vec<Write>) {
    block_on(store.commit(writes(changes))).expect("stored");
}
