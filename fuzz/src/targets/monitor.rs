//! What the driver's monitor says and leaves on disk: read by a later gateway.

use std::fs;
use std::io::BufReader;

use chiton_driver_oci::fuzzing::record;
use chiton_oci_monitor::exit::ExitRecord;
use chiton_oci_monitor::lock::holder;
use chiton_oci_monitor::log::{Parsed, parse};
use chiton_oci_monitor::wire::{Config, LaunchOrder, LaunchReport, Request, State, receive, send};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Target;
use crate::behaviour::{note, note_text};
use crate::check::nothing_ignored;

pub(super) const TARGET: Target = Target {
    name: "monitor",
    about: "the monitor's lines, exit records, sandbox records, logs and lock files",
    run,
    seeds,
    words: &[
        "{\"op\":\"start\"}\n",
        "exited",
        "failed",
        "created",
        "running",
        "\n",
        " o F ",
        " e P ",
        " p F ",
        "18446744073709551615",
        "00",
        "+1",
        "code",
        "signal",
        "oom",
        "at_ms",
        "lost",
        "version",
        "1 2\n",
    ],
    longest: 8192,
    short: 1_200,
    memory: (400, 256 << 10),
};

fn seeds() -> Vec<Vec<u8>> {
    let exit = json!({ "code": 1, "signal": 9, "oom": true, "at_ms": 5, "attempt": "a", "lost": "nobody saw it",
        "cause": "monitor_lost" });
    let cgroup =
        json!({ "root": "/sys/fs/cgroup", "dir": "/sys/fs/cgroup/c/s-1", "unified": true, "controllers": ["cpu"] });
    let lines = [
        json!({ "id": "s-1", "attempt": "a", "dir": "/d", "run_dir": "/r", "lock": "/l", "tombstone": "/t", "cgroups": [cgroup],
            "limits": { "cpu_millicores": 5, "memory_bytes": 6, "pids": 7 }, "launcher": ["x"], "launch": "{}", "root_uid": 1,
            "start": true, "log_bytes": 9, "launch_deadline_ms": 8 }),
        json!({ "op": "stop", "grace_ms": 5 }),
        json!({ "op": "kill" }),
        json!({ "state": "exited", "exit": exit }),
        json!({ "state": "failed", "step": "s", "message": "m", "tombstone": false }),
        json!({ "state": "running" }),
        json!({ "state": "dropped", "bytes": 5, "records": 2 }),
        json!({ "launch": "moved", "pid": 4 }),
        json!({ "launch": "failed", "step": "s", "message": "m" }),
        json!("start"),
        exit,
        json!({ "version": 1, "id": "s-1", "gateway": "g-1", "epoch": "e-1", "commit": 5, "labels": { "a": "b" },
            "annotations": { "c": "d" }, "first_id": 65536, "cgroups": [cgroup], "attempt": "a", "stop_grace_seconds": 3,
            "boot": "b" }),
    ];
    let mut seeds: Vec<Vec<u8>> = lines.iter().map(|line| format!("{line}\n").into_bytes()).collect();
    seeds.push(
        b"1700000000000000000 o F 5 hello\n1700000000000000001 e P 2 hi\n1700000000000000002 p F 2 17\n".to_vec(),
    );
    seeds.push(b"12 34\n".to_vec());
    seeds
}

fn run(data: &[u8]) {
    line::<Config>(data, true);
    line::<Request>(data, true);
    line::<State>(data, false);
    line::<LaunchReport>(data, false);
    line::<LaunchOrder>(data, true);
    logs(data);
    on_disk(data);
}

/// One line as one kind of document; `strict` kinds ignore nothing.
fn line<T: Serialize + DeserializeOwned>(data: &[u8], strict: bool) {
    let mut from = BufReader::new(data);
    match receive::<T>(&mut from) {
        Ok(Some(message)) => {
            let mut sent = Vec::new();
            send(&mut sent, &message).expect("what was read can be written");
            let again: T = receive(&mut sent.as_slice()).expect("it is sound").expect("it is there");
            let mut second = Vec::new();
            send(&mut second, &again).expect("what was read can be written");
            assert_eq!(second, sent, "read again it is another");
            let given = data.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
            let (given, kept): (Value, Value) = (
                serde_json::from_slice(given).expect("it is JSON"),
                serde_json::to_value(&message).expect("it is JSON"),
            );
            if strict {
                nothing_ignored(&given, &kept, std::any::type_name::<T>());
            }
            note(std::any::type_name::<T>());
        }
        Ok(None) => assert!(data.is_empty()),
        Err(error) => note_text(error.to_string().split(" at line").next().unwrap_or_default()),
    }
}

/// A log as a gateway reads it: records come out as they were written, and nothing holds the reader up for ever.
fn logs(data: &[u8]) {
    let mut rest = data;
    loop {
        match parse(rest) {
            Parsed::Record(record, length) => {
                let stream = match (record.position, record.stderr) {
                    (Some(_), _) => 'p',
                    (None, true) => 'e',
                    (None, false) => 'o',
                };
                let full = if record.full { 'F' } else { 'P' };
                let mut written = format!("{} {stream} {full} {} ", record.nanos, record.data.len()).into_bytes();
                written.extend_from_slice(record.data);
                written.push(b'\n');
                assert_eq!(written, rest[..length], "a record was read that nobody writes so");
                note(("record", record.stderr, record.full));
                rest = &rest[length..];
            }
            Parsed::Incomplete => {
                // However much follows, a header that announces more than a record ever has is not waited for.
                let mut more = rest.to_vec();
                more.resize(rest.len() + (64 << 10), b'x');
                assert_ne!(parse(&more), Parsed::Incomplete, "a reader would wait for ever");
                note("incomplete");
                return;
            }
            Parsed::Corrupt => {
                note("corrupt");
                let Some(newline) = rest.iter().position(|byte| *byte == b'\n') else { return };
                rest = &rest[newline + 1..];
            }
        }
    }
}

fn on_disk(data: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join(ExitRecord::FILE), data).expect("a file");
    match ExitRecord::load(folder.path()) {
        Ok(Some(exit)) => {
            note(("exit", exit.code.is_some(), exit.signal.is_some(), exit.oom));
            exit.store(folder.path(), false).expect("it can be written");
            assert_eq!(ExitRecord::load(folder.path()).expect("it is sound"), Some(exit));
        }
        Ok(None) => panic!("it is there"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    match record(data) {
        Ok(written) => {
            note("record");
            assert_eq!(record(&written).expect("it is sound"), written);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let lock = folder.path().join("lock");
    fs::write(&lock, data).expect("a file");
    if let Ok(Some(holder)) = holder(&lock) {
        note("holder");
        assert!(holder.pid > 0, "process {} is none", holder.pid);
    }
}
