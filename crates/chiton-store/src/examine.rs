//! What state a data folder's store is in, by looking only: nothing is locked, made, mended or removed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use rustix::fs::{StatVfsMountFlags, statvfs};
use serde::Serialize;

use crate::check::{database_of, place_of, sound};
use crate::error::sql;
use crate::folder::io;
use crate::marks::damaged_segments;
use crate::schema::SCHEMA_VERSION;
use crate::witness::{self, Note};
use crate::{MachineFacts, StoreError, identity};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Fine,
    /// Good to know; a gateway serves all the same.
    Note,
    /// A gateway does not start, or will soon refuse work.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoreFinding {
    /// What was looked at: `folder`, `lock`, `room`, `database`, `marks`, `life` or `held`.
    pub check: &'static str,
    /// A stable word: `fine`, or one of [`StoreError::state`]'s, or `absent`, `open_to_others`, `nearly_full`, `older`,
    /// `damaged_marks`, `copied`, `held`.
    pub state: &'static str,
    /// How much it matters.
    pub level: Level,
    /// What was found.
    pub detail: String,
    /// What to do about it; empty when there is nothing to do.
    pub cure: String,
}

/// Less room than this is reported: a checkpoint, a segment of marks and a backup's copy need some.
const LITTLE_ROOM: u64 = 64 * 1024 * 1024;

fn finding(check: &'static str, state: &'static str, level: Level, detail: String, cure: &str) -> StoreFinding {
    StoreFinding { check, state, level, detail, cure: cure.to_owned() }
}

fn fine(check: &'static str, detail: String) -> StoreFinding {
    finding(check, "fine", Level::Fine, detail, "")
}

fn bad(check: &'static str, error: &StoreError) -> StoreFinding {
    StoreFinding { check, state: error.state(), level: Level::Bad, detail: error.to_string(), cure: error.cure() }
}

/// Looks at the store in `folder`. Without one, that is the only finding.
pub fn examine(folder: &Path) -> Vec<StoreFinding> {
    let found = match fs::metadata(folder) {
        Ok(found) if found.is_dir() => found,
        Ok(_) => {
            let error = io(folder)(std::io::ErrorKind::NotADirectory.into());
            return vec![bad("folder", &error)];
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let detail = format!("there is no store in {}", folder.display());
            return vec![finding("folder", "absent", Level::Note, detail, "the first gateway that uses it makes one")];
        }
        Err(error) => return vec![bad("folder", &io(folder)(error))],
    };
    let mut findings = vec![ownership(folder, &found)];
    let holder = holder(folder);
    findings.push(match holder {
        Some(pid) => finding("lock", "locked", Level::Fine, format!("a gateway holds it: process {pid}"), ""),
        None => fine("lock", "no gateway holds it".to_owned()),
    });
    findings.push(room(folder));
    match database(folder, holder.is_some()) {
        Ok(more) => findings.extend(more),
        Err(error) => findings.push(bad("database", &error)),
    }
    findings.push(marks(folder, holder.is_some()));
    findings
}

fn ownership(folder: &Path, found: &fs::Metadata) -> StoreFinding {
    let (user, mode) = (rustix::process::geteuid().as_raw(), found.mode() & 0o7777);
    if mode & 0o022 != 0 {
        return bad("folder", &StoreError::Exposed { folder: folder.to_owned(), mode });
    }
    if found.uid() != user {
        // Whoever looks need not be who runs the gateway.
        let error = StoreError::Foreign { folder: folder.to_owned(), owner: found.uid(), user };
        let cure = format!("if the gateway is to run as user {user}: {}", error.cure());
        return finding("folder", "foreign", Level::Note, error.to_string(), &cure);
    }
    if mode & 0o077 != 0 {
        let detail = format!("others can look into {} (mode {mode:04o})", folder.display());
        return finding("folder", "open_to_others", Level::Note, detail, "the next start makes it 0700");
    }
    fine("folder", format!("{} belongs to user {user} alone", folder.display()))
}

/// The process that holds the folder's lock, as the kernel lists it; asking the lock itself would take it for a moment.
fn holder(folder: &Path) -> Option<u32> {
    let inode = fs::metadata(folder.join("lock")).ok()?;
    let place =
        format!("{:02x}:{:02x}:{}", rustix::fs::major(inode.dev()), rustix::fs::minor(inode.dev()), inode.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let held = words.next() == Some("FLOCK");
        let pid = words.nth(2)?.parse().ok()?;
        (held && words.next() == Some(place.as_str())).then_some(pid)
    })
}

fn room(folder: &Path) -> StoreFinding {
    match statvfs(folder) {
        Err(error) => bad("room", &io(folder)(error.into())),
        Ok(found) if found.f_flag.contains(StatVfsMountFlags::RDONLY) => {
            bad("room", &io(folder)(std::io::ErrorKind::ReadOnlyFilesystem.into()))
        }
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let detail = format!("{} MiB are free on its file system", free / (1024 * 1024));
            if free < LITTLE_ROOM {
                let cure = "make room: on a full disk creates are refused, and deletes and stops cannot be recorded";
                finding("room", "nearly_full", Level::Bad, detail, cure)
            } else {
                fine("room", detail)
            }
        }
    }
}

/// A connection that changes nothing, and what it needs as long as it lives.
struct Look {
    connection: Connection,
    _copy: Option<tempfile::TempDir>,
}

fn look(folder: &Path, held: bool) -> Result<Look, StoreError> {
    let file = database_of(folder);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let log = folder.join("chiton.db-wal");
    let left = !held && fs::metadata(&log).is_ok_and(|found| found.len() > 0);
    if held {
        // Its log is in use and its index in shared memory is there: one more reader.
        let connection = Connection::open_with_flags(&file, flags).map_err(sql(&file))?;
        return Ok(Look { connection, _copy: None });
    }
    if left {
        // A log of a killed process: whoever reads it makes its index anew, so it is read elsewhere.
        let temporary = std::env::temp_dir();
        let copy = tempfile::Builder::new().prefix("chiton-doctor-").tempdir().map_err(io(&temporary))?;
        let copied = database_of(copy.path());
        fs::copy(&file, &copied).map_err(io(&file))?;
        fs::copy(&log, copy.path().join("chiton.db-wal")).map_err(io(&log))?;
        let connection = Connection::open_with_flags(&copied, flags).map_err(sql(&file))?;
        return Ok(Look { connection, _copy: Some(copy) });
    }
    fs::File::open(&file).map_err(io(&file))?;
    // Without a log nothing but the database is there, and nobody writes to it.
    let path = file.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let address = format!("file:{path}?immutable=1");
    let connection = Connection::open_with_flags(address, flags | OpenFlags::SQLITE_OPEN_URI).map_err(sql(&file))?;
    Ok(Look { connection, _copy: None })
}

fn database(folder: &Path, held: bool) -> Result<Vec<StoreFinding>, StoreError> {
    let file = database_of(folder);
    let note = witness::read(folder);
    let size = fs::metadata(&file).map_or(0, |found| found.len());
    if size == 0 {
        if note.is_some() {
            return Err(StoreError::Damaged { file, what: "it is gone or empty, and it was not".to_owned() });
        }
        let detail = "there is none yet".to_owned();
        return Ok(vec![finding("database", "absent", Level::Note, detail, "the next start makes one")]);
    }
    crate::check::header(&file)?;
    let place = place_of(&file)?;
    let look = look(folder, held)?;
    // A gateway that is at work may have committed since the note was read.
    let note: Option<Note> = note.filter(|note| !held && note.file == place);
    sound(&look.connection, folder, &file, note.as_ref())?;
    let query = |text: &str| look.connection.query_row(text, [], |row| row.get::<_, u32>(0)).map_err(sql(&file));
    let schema = query("PRAGMA user_version")?;
    let mut findings = Vec::new();
    if schema == 0 {
        let detail = "it was never used".to_owned();
        return Ok(vec![finding("database", "absent", Level::Note, detail, "the next start makes its tables")]);
    }
    let sandboxes = query("SELECT COUNT(*) FROM sandbox")?;
    let open = query("SELECT COUNT(*) FROM operation WHERE open = 1")?;
    let owed = query("SELECT COUNT(*) FROM obligation")?;
    let text = |key: &str| identity::read(&look.connection, key).map(Option::unwrap_or_default).map_err(sql(&file));
    let detail = format!(
        "whole: gateway {}, epoch {}, schema {schema}, {} KiB, {sandboxes} sandboxes, {open} interrupted or running operations, {owed} obligations",
        text("gateway")?,
        text("epoch")?,
        size / 1024
    );
    findings.push(if schema < SCHEMA_VERSION {
        let cure = "the next start brings it up to date, after which older versions refuse it; make a backup first";
        finding("database", "older", Level::Note, detail, cure)
    } else {
        fine("database", detail)
    });
    findings.extend(life(&text("place")?, &file, &text("epoch")?, sandboxes));
    findings.extend(held_rows(&look.connection, &text("epoch")?).map_err(sql(&file))?);
    Ok(findings)
}

/// Whether the next start begins a new life.
fn life(known: &str, file: &Path, epoch: &str, sandboxes: u32) -> Option<StoreFinding> {
    let here = MachineFacts::read().ok().and_then(|machine| identity::place(file, &machine).ok())?;
    (known != here).then(|| {
        let detail = format!(
            "it was copied or moved: the next start begins a new life of the store and holds its {sandboxes} sandboxes"
        );
        let cure = format!(
            "if the original is gone for good, start once with --adopt-epoch {epoch}; else delete this copy, or the original acts on the same sandboxes"
        );
        finding("life", "copied", Level::Note, detail, &cure)
    })
}

fn held_rows(connection: &Connection, epoch: &str) -> rusqlite::Result<Vec<StoreFinding>> {
    connection
        .prepare(
            "SELECT life, SUM(sandbox), SUM(1 - sandbox) FROM (
                 SELECT json_extract(doc, '$.epoch') AS life, 1 AS sandbox FROM sandbox
                 UNION ALL SELECT json_extract(doc, '$.epoch'), 0 FROM workspace)
             WHERE life <> ?1 GROUP BY life ORDER BY life",
        )?
        .query_map([epoch], |row| {
            let (life, sandboxes, workspaces): (String, u32, u32) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let detail = format!(
                "{sandboxes} sandboxes and {workspaces} workspaces belong to epoch {life} and are held: nothing touches them"
            );
            let cure = format!("if that store is gone for good, start once with --adopt-epoch {life}");
            Ok(finding("held", "held", Level::Note, detail, &cure))
        })?
        .collect()
}

fn marks(folder: &Path, held: bool) -> StoreFinding {
    let at: PathBuf = folder.join("marks");
    if held {
        return fine("marks", "the mark log is being written".to_owned());
    }
    match damaged_segments(&at) {
        Ok((all, damaged)) if damaged.is_empty() => fine("marks", format!("the mark log is whole, {all} segments")),
        Ok((_, damaged)) => {
            let detail = format!(
                "the mark log is damaged in {}: interrupted operations are taken up as if each of their steps might have run",
                damaged.join(", ")
            );
            let cure = "nothing has to be done: recovery is right without marks; if no power loss explains it, look at the disk";
            finding("marks", "damaged_marks", Level::Note, detail, cure)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => fine("marks", "there is no mark log".to_owned()),
        Err(error) => bad("marks", &io(&at)(error)),
    }
}
