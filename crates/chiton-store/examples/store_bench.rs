//! What a durable commit and a mark cost on this machine, beside the disk's own floor.
//!
//! `cargo run --release -p chiton-store --example store_bench [FOLDER]`; without a folder it makes one below the present
//! folder, because a temporary folder is often memory. Floor and commits are interleaved, so that a disk that changes its
//! mood in between does not favour either.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chiton_lifecycle::journal::{
    Commit, DriverCall, Journal as _, Mark, MarkEvent, OperationRecord, StepKey, StepStatus, Subject, Write,
};
use chiton_model::{OperationId, OperationKind, Principal, SandboxId};
use chiton_store::{SqliteStore, StoreOptions};
use futures::executor::block_on;
use futures::future::join_all;
use jiff::Timestamp;

type Failure = Box<dyn Error>;

/// Rounds of floor, lonely commits and full batches.
const ROUNDS: u32 = 20;
/// Bytes of the file that is written over and over, as a write-ahead log is once it has its size.
const OVERWRITTEN: usize = 4 * 1024 * 1024;
/// Commits in flight of the crowd.
const CROWD: u32 = 64;

fn main() -> Result<(), Failure> {
    let folder = match std::env::args_os().nth(1) {
        Some(folder) => PathBuf::from(folder),
        None => std::env::current_dir()?.join(format!("store-bench-{}", std::process::id())),
    };
    fs::create_dir(&folder)?;
    let result = measure(&folder);
    fs::remove_dir_all(&folder)?;
    result
}

fn measure(folder: &Path) -> Result<(), Failure> {
    let store = SqliteStore::open(StoreOptions::new(folder.join("store"))?)?;
    block_on(store.open_operations())?;
    let mut floor_file = OpenOptions::new().create_new(true).append(true).open(folder.join("floor"))?;
    let overwritten = File::create_new(folder.join("overwritten"))?;
    overwritten.write_all_at(&vec![0; OVERWRITTEN], 0)?;
    overwritten.sync_all()?;
    let (mut overwrite, mut turn) = (Vec::new(), 0);
    let (mut floor, mut lonely, mut crowd) = (Vec::new(), Vec::new(), Vec::new());
    let (mut crowd_took, mut crowd_transactions) = (Duration::ZERO, 0);
    for _ in 0..ROUNDS {
        for _ in 0..20 {
            floor.push(timed(|| sync_one(&mut floor_file))?);
            overwrite.push(timed(|| {
                overwritten.write_all_at(&[1; 4096], turn)?;
                Ok(overwritten.sync_data()?)
            })?);
            turn = (turn + 4096) % u64::try_from(OVERWRITTEN)?;
            lonely.push(timed(|| Ok(block_on(store.commit(commit(&store)?)).map(drop)?))?);
        }
        let (began, before) = (Instant::now(), store.transactions());
        // Every commit of the crowd is sent before the first is answered, and again when all are.
        for _ in 0..5 {
            let commits = (0..CROWD).map(|_| commit(&store)).collect::<Result<Vec<_>, _>>()?;
            let store = &store;
            let flights = commits.into_iter().map(|commit| async move {
                let began = Instant::now();
                store.commit(commit).await.map(|_| began.elapsed())
            });
            for took in block_on(join_all(flights)) {
                crowd.push(took?);
            }
        }
        crowd_took += began.elapsed();
        crowd_transactions += store.transactions() - before;
    }
    let marks = marks(&store)?;
    let create = creates(&store)?;

    let unit = middle(&mut floor);
    println!("fdatasync of 4 KiB appended (F)  p50 {unit:>10.1?}");
    let least = middle(&mut overwrite);
    println!("fdatasync of 4 KiB overwritten   p50 {least:>10.1?}  {:.2} F", ratio(least, unit));
    let each = middle(&mut lonely);
    println!("commit, 1 in flight              p50 {each:>10.1?}  {:.2} F", ratio(each, unit));
    let in_crowd = middle(&mut crowd);
    let many = crowd.len();
    println!(
        "commit, {CROWD} in flight             p50 {in_crowd:>10.1?}  {:.2} F  {:.0}/s, {many} commits in {crowd_transactions} transactions",
        ratio(in_crowd, unit),
        f64::from(u32::try_from(many)?) / crowd_took.as_secs_f64(),
    );
    println!("create path: C1, 8 marks, C2     p50 {create:>10.1?}  {:.2} F  (goal 2 F + 0.3 ms)", ratio(create, unit));
    println!("mark                             p50 {marks:>10.1?}  (goal 2 µs)");
    Ok(())
}

fn timed(run: impl FnOnce() -> Result<(), Failure>) -> Result<Duration, Failure> {
    let began = Instant::now();
    run()?;
    Ok(began.elapsed())
}

fn middle(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn ratio(time: Duration, unit: Duration) -> f64 {
    time.as_secs_f64() / unit.as_secs_f64()
}

fn sync_one(file: &mut File) -> Result<(), Failure> {
    file.write_all(&[0; 4096])?;
    Ok(file.sync_data()?)
}

/// The commit of an operation that has ended: about as many bytes as a C2's.
fn commit(store: &SqliteStore) -> Result<Commit, Failure> {
    let operation = operation(store)?;
    Ok(Commit { number: operation.commit, checks: Vec::new(), writes: vec![Write::PutOperation(Box::new(operation))] })
}

fn operation(store: &SqliteStore) -> Result<OperationRecord, Failure> {
    let number = store.next_commit();
    Ok(OperationRecord {
        id: OperationId::new(format!("op-{number}"))?,
        subject: Subject::Sandbox(SandboxId::new(format!("s-{number}"))?),
        kind: OperationKind::Create,
        start_reason: None,
        stop_reason: None,
        principal: Principal { subject: "uid:0".to_owned(), claims: std::collections::BTreeMap::new() },
        commit: number,
        marks: store.mark_position(),
        epoch: store.info().epoch,
        started_at: Timestamp::UNIX_EPOCH,
        started_boot_ms: 0,
        deleted: false,
        ended_at: Some(Timestamp::UNIX_EPOCH),
        outcome: Some(chiton_lifecycle::journal::OperationOutcome::Succeeded),
        steps: Vec::new(),
        total_us: 0,
    })
}

fn step(operation: &OperationId, status: StepStatus) -> Mark {
    Mark { operation: operation.clone(), event: MarkEvent::Step { step: StepKey::Driver(DriverCall::Create), status } }
}

fn marks(store: &SqliteStore) -> Result<Duration, Failure> {
    let mark = step(&OperationId::new("op-mark")?, StepStatus::Started);
    let mut times = (0..50_000).map(|_| timed(|| Ok(store.mark(&mark)?))).collect::<Result<Vec<_>, _>>()?;
    Ok(middle(&mut times))
}

/// What the store adds to a create: intent, marks of four steps, outcome.
fn creates(store: &SqliteStore) -> Result<Duration, Failure> {
    let mut times = Vec::new();
    for _ in 0..200 {
        let ended = operation(store)?;
        let begun = OperationRecord { outcome: None, ended_at: None, ..ended.clone() };
        times.push(timed(|| {
            block_on(store.commit(put(&begun)))?;
            for _ in 0..4 {
                store.mark(&step(&begun.id, StepStatus::Started))?;
                store.mark(&step(&begun.id, StepStatus::Completed))?;
            }
            block_on(store.commit(put(&ended)))?;
            Ok(())
        })?);
    }
    Ok(middle(&mut times))
}

fn put(operation: &OperationRecord) -> Commit {
    Commit { number: 0, checks: Vec::new(), writes: vec![Write::PutOperation(Box::new(operation.clone()))] }
}
