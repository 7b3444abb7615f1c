//! The table of limits: each one exceeded for real, or refused with what the machine lacks. `cargo xtask limits` prints
//! it for root and for an ordinary user.

mod common;

use std::collections::BTreeMap;

use chiton_driver::{ComputeDriver, PlanRequest};
use chiton_model::Resources;
use common::*;
use serde_json::{Value, json};

/// A limit, what is asked for, what tries to pass it, and what then is said.
struct Row {
    limit: &'static str,
    resources: Value,
    config: Value,
    script: &'static str,
    bites: &'static str,
}

fn rows() -> Vec<Row> {
    let row = |limit, resources: &Value, config: &Value, script, bites| Row {
        limit,
        resources: resources.clone(),
        config: config.clone(),
        script,
        bites,
    };
    let (disk, small) = (json!({ "disk": "16Mi" }), json!({ "disk": "16Mi", "inodes": 100 }));
    let (image, memory) = (json!({}), json!({ "disk": "memory" }));
    let (fill, files) = (
        "dd if=/dev/zero of=/workspace/x bs=64k count=4096 2>&1 | grep -o 'No space.*'",
        "i=0; while : > /workspace/$i && [ $i -lt 9999 ]; do i=$((i+1)); done 2>&1 | grep -o 'No space.*'",
    );
    vec![
        row("memory 48Mi", &json!({ "memory": "48Mi" }), &image, "x=a; while :; do x=$x$x; done", "OOMKilled"),
        row(
            "cpu 100m",
            &json!({ "cpu": "100m" }),
            &image,
            "end=$((SECONDS+3)); while [ $SECONDS -lt $end ]; do :; done; times > /workspace/t; head -1 /workspace/t",
            "0m0.",
        ),
        row(
            "pids 24",
            &json!({ "pids": 24 }),
            &image,
            "for i in {1..40}; do sleep 5 & done 2>&1 | grep -om1 'Resource temp.*'",
            "Resource temporarily unavailable",
        ),
        row("disk 16Mi", &disk, &image, fill, "No space left on device"),
        row("disk 16Mi in memory", &disk, &memory, fill, "No space left on device"),
        row("inodes 100", &small, &image, files, "No space left on device"),
        row("inodes 100 in memory", &small, &memory, files, "No space left on device"),
        row(
            "open_files 64",
            &json!({ "open_files": 64 }),
            &image,
            "exec 63</dev/null && echo last; (exec 64</dev/null) 2>&1 | grep -o 'Bad file.*'",
            "Bad file descriptor",
        ),
        row("core files (always 0)", &json!({}), &image, "ulimit -c; ulimit -Hc", "0"),
        row(
            "/dev/shm (always 64Mi)",
            &json!({}),
            &image,
            "dd if=/dev/zero of=/dev/shm/x bs=1M count=100 2>&1 | grep -o 'No space.*'",
            "No space left on device",
        ),
        row(
            "/tmp of a read-only root (always 64Mi)",
            &json!({}),
            &json!({ "read_only": true }),
            "dd if=/dev/zero of=/tmp/x bs=1M count=100 2>&1 | grep -o 'No space.*'",
            "No space left on device",
        ),
    ]
}

fn asked(row: &Row) -> PlanRequest {
    let mut request = request("host", &["bash", "-c", row.script]);
    request.env = BTreeMap::from([("LC_ALL".to_owned(), "C".to_owned())]);
    request.resources = serde_json::from_value::<Resources>(row.resources.clone()).unwrap();
    request.driver_config = row.config.clone();
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn every_limit_bites_or_is_refused() {
    if !able("every_limit_bites_or_is_refused") {
        return;
    }
    let who = if is_root() { "root" } else { "ordinary user" };
    let world = World::new();
    let driver = world.driver();
    println!("| limit ({who}) | by | when exceeded |\n|---|---|---|");
    for row in rows() {
        let request = asked(&row);
        let plan = driver.default_plan(&request).await.unwrap().plan;
        let by = plan["resources"]["disk_by"].as_str().unwrap_or("-").to_owned();
        let by =
            if row.limit.starts_with("disk") || row.limit.starts_with("inodes") { by } else { "kernel".to_owned() };
        if let Err(refused) = driver.validate(&plan).await {
            assert!(!is_root(), "{}: root is refused: {refused}", row.limit);
            assert!(refused.cure.is_some(), "{}: {refused}", row.limit);
            println!("| {} | - | refused: {} |", row.limit, refused.message);
            continue;
        }
        let (exit, text) = run(&driver, &request).await;
        let said = format!("{} {}", text.trim().replace('\n', "; "), exit.reason);
        assert!(said.contains(row.bites), "{} does not bite: {said}", row.limit);
        println!("| {} | {by} | {} |", row.limit, said.trim());
    }
    world.assert_no_traces();
}
