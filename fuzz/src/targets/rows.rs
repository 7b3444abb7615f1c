//! Rows of the store and documents in them: read back by this program or a later one, perhaps after damage.

use chiton_lifecycle::journal::{
    AuditRecord, ExtensionState, JournalError, Mark, Obligation, OperationRecord, RequestRecord, SandboxRecord,
    Subject, WorkspaceRecord,
};
use chiton_store::fuzzing::{decode_row, encode_row};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Target;
use crate::behaviour::{note, note_text};
use crate::check::{nothing_ignored, round_trip, sayable};

pub(super) const TARGET: Target = Target {
    name: "rows",
    about: "every row of the store: sandboxes, operations, obligations, states, …",
    run,
    seeds,
    words: &[
        "sandbox",
        "workspace",
        "invalid",
        "before_create",
        "Ready",
        "completed",
        "succeeded",
        "failed",
        "driver",
        "hook",
        "create",
        "after_delete",
        "kind",
        "field",
        "2024-01-01T00:00:00Z",
        "-009999-01-02T01:59:59Z",
        "True",
        "uid:0",
        "64Mi",
        "extension",
    ],
    longest: 8192,
    short: 5_000,
    memory: (400, 1 << 20),
};

const AT: &str = "2024-06-01T10:00:00.123456789Z";

/// A row of each kind with everything in it that it can hold.
fn rows() -> Vec<Value> {
    let principal = json!({ "subject": "uid:0", "claims": { "team": "a" } });
    let chain = json!([{
        "name": "lease", "version": "1.0.0", "state_schema": 1, "config": "sha256:00", "observe": false,
        "activation": { "rule": "always", "inputs": "00", "principal": "uid:0" },
    }]);
    let debts = json!([{ "extension": "lease", "phase": "after_delete", "ran": "maybe" }]);
    let plan = json!({
        "driver": "oci", "schema": 1, "digest": "sha256:00", "notes": ["a note"],
        "plan": { "image": "host", "env": { "IP": "<known after apply: lease.ip>" }, "ratio": 0.1 },
        "slots": { "/env/IP": { "name": "lease.ip", "owner": { "extension": "lease" }, "default": "none" },
            "/id": { "name": "sandbox.id", "owner": "gateway" }, "/env/T": { "name": "secret.t", "owner": "secret" } },
        "owners": { "/image": "request", "/env/IP": { "extension": "lease" }, "/x": "driver" },
        "writes": [["lease", [{ "path": "/env/IP", "before": null, "after": "x", "overrides": "other" }]]],
    });
    let failure = json!({ "step": "before_create", "extension": "lease", "cause": "none left" });
    let sandbox = json!({
        "id": "s-1", "name": "web", "name_held": true, "workspace": "team", "driver": "oci", "backend": "here",
        "epoch": "e-1", "commit": 7, "created_by": "op-1", "principal": principal, "phase": "Ready", "plan": plan,
        "spec": { "image": "host", "command": ["sh"], "env": { "A": "1" }, "labels": { "tier": "gold" },
            "resources": { "cpu": "500m", "memory": "64Mi", "pids": 9 }, "workdir": "/tmp", "secrets": { "T": "t" },
            "extensions": ["lease"], "driver": "oci", "driver_config": { "oci": { "read_only": true, "x": 0.3 } } },
        "conditions": [{ "type": "Ready", "status": "True", "reason": "Up", "message": "it is", "last_transition": AT }],
        "exit": { "code": 1, "reason": "Exited", "at": AT }, "failure": failure, "slots": { "lease.ip": "10.0.0.1" },
        "chain": chain, "debts": debts, "attempt": "a-1", "token": "00", "restart": false, "created_at": AT,
        "updated_at": AT, "expires_at": AT,
    });
    let operation = json!({
        "id": "op-1", "subject": { "sandbox": "s-1" }, "kind": "create", "start_reason": "Create", "stop_reason": "Request",
        "principal": principal, "commit": 7, "marks": { "log": "00", "sequence": 3, "boot": "b" }, "epoch": "e-1",
        "started_at": AT, "started_boot_ms": 5, "deleted": false, "ended_at": AT, "total_us": 9,
        "outcome": { "failed": { "kind": { "kind": "unsupported", "driver": "oci", "point": "x" }, "message": "m", "cure": "c" } },
        "steps": [{ "step": { "hook": { "phase": "before_create", "extension": "lease" } }, "begin_us": 1, "took_us": 2, "error": "e" },
            { "step": { "driver": "create" }, "begin_us": 1, "took_us": 2 }],
    });
    let obligation = json!({
        "id": "ob-1", "subject": { "workspace": { "workspace": "team", "driver": "oci" } }, "name": "web",
        "debt": debts[0], "reason": "cleanup_failed", "status": "open", "stop_reason": "Deleting", "failure": failure,
        "operation": "op-1", "opened_at": AT, "attempts": 3, "last_error": "no", "next_attempt_at": AT,
    });
    let workspace = json!({
        "key": { "workspace": "team", "driver": "oci" }, "ready": true, "chain": chain, "debts": debts, "created_at": AT,
    });
    let request = json!({
        "key": { "principal": "uid:0", "method": "CreateSandbox", "request_id": "r-1" }, "body": "00", "operation": "op-1",
        "subject": { "sandbox": "s-1" }, "expires_at": AT,
    });
    let state = json!({ "schema_version": 2, "payload": { "address": "10.0.0.1", "share": 0.7, "list": [1, null] } });
    let audit = json!({ "at": AT, "action": "discharge", "subject": "s-1", "by": "uid:0", "message": "gone" });
    let marks = [
        json!({ "step": { "step": { "driver": "start" }, "status": "started" } }),
        json!({ "slots": { "extension": "lease", "values": { "ip": "10.0.0.1" } } }),
        json!({ "state": { "extension": "lease", "state": state } }),
    ];
    let marks = marks.map(|event| json!({ "operation": "op-1", "event": event }));
    let mut rows = vec![sandbox, operation, obligation, workspace, request, state, audit];
    rows.extend(marks);
    rows
}

fn seeds() -> Vec<Vec<u8>> {
    rows().iter().map(|row| row.to_string().into_bytes()).collect()
}

/// Reads the bytes as one kind of row.
fn row<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(kind: &str, data: &[u8]) -> bool {
    match decode_row::<T>(kind, data) {
        Ok(record) => {
            note(kind);
            let text = round_trip(&record);
            assert_eq!(encode_row(&record).expect("it can be stored"), text);
            let given: Value = serde_json::from_slice(data).expect("it is JSON");
            nothing_ignored(&given, &serde_json::to_value(&record).expect("it is JSON"), kind);
            true
        }
        Err(JournalError::Unreadable(why)) => {
            assert!(why.starts_with(kind), "the row is not named: {why}");
            sayable(&why);
            note_text(why.split(" at line").next().unwrap_or_default());
            false
        }
        Err(other) => panic!("reading gave {other:?}"),
    }
}

fn run(data: &[u8]) {
    let kinds = [
        row::<SandboxRecord>("sandbox s-1", data),
        row::<OperationRecord>("operation op-1", data),
        row::<Obligation>("obligation ob-1", data),
        row::<WorkspaceRecord>("workspace team", data),
        row::<RequestRecord>("request r-1", data),
        row::<ExtensionState>("state of lease", data),
        row::<AuditRecord>("audit", data),
        row::<Mark>("mark", data),
        row::<Subject>("subject", data),
    ];
    assert!(kinds.iter().filter(|read| **read).count() <= 1, "the bytes are rows of two kinds");
}
