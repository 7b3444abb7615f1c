//! What opening a store costs, damage looked for included, by its number of sandboxes.
//!
//! `cargo run --release -p chiton-store --example store_open [FOLDER]`; without a folder it makes one below the present
//! folder. Prints milliseconds: opening anew, and reading every row as recovery does.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use chiton_lifecycle::journal::{Commit, Journal as _, SandboxQuery, Write};
use chiton_store::{SqliteStore, StoreOptions};
use futures::executor::block_on;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = match std::env::args_os().nth(1) {
        Some(folder) => PathBuf::from(folder),
        None => std::env::current_dir()?.join(format!("store-open-{}", std::process::id())),
    };
    for count in [0_u64, 10_000, 100_000] {
        let folder = folder.join(count.to_string());
        fill(&folder, count)?;
        let begun = Instant::now();
        let store = SqliteStore::open(StoreOptions::new(folder.clone())?)?;
        let opened = begun.elapsed();
        let begun = Instant::now();
        let rows = block_on(store.sandboxes(&SandboxQuery { all: true, ..SandboxQuery::default() }))?;
        let read = begun.elapsed();
        let size = std::fs::metadata(folder.join("chiton.db"))?.len() / 1024;
        println!("{} sandboxes, {size} KiB: opened in {opened:.1?}, all rows read in {read:.1?}", rows.len());
    }
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn fill(folder: &std::path::Path, count: u64) -> Result<(), Box<dyn Error>> {
    let store = SqliteStore::open(StoreOptions::new(folder.to_owned())?)?;
    let record: serde_json::Value = serde_json::from_str(include_str!("sandbox.json"))?;
    let mut writes = Vec::new();
    for number in 0..count {
        let mut record = record.clone();
        record["id"] = format!("s-{number:012}").into();
        record["name"] = format!("box-{number}").into();
        // A plan with its owners is what makes most of a real row.
        record["plan"]["plan"]["env"] = "value ".repeat(350).into();
        writes.push(Write::PutSandbox(Box::new(serde_json::from_value(record)?)));
        if writes.len() == 1000 || number + 1 == count {
            let commit = Commit { number: 0, checks: Vec::new(), writes: std::mem::take(&mut writes) };
            block_on(store.commit(commit))?;
        }
    }
    Ok(())
}
