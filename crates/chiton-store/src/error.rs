//! Why a store cannot be opened, saved or put back.

use std::io;
use std::path::{Path, PathBuf};

use chiton_model::{Error, ErrorKind};

/// Why a store cannot be opened, saved or put back. Whatever it is, nothing was changed by the refusal.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the data folder.
    #[error("the data folder {folder:?} is in use{}", .holder.map(|pid| format!(" by process {pid}")).unwrap_or_default())]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// The process that has it, where it said so.
        holder: Option<u32>,
    },
    /// The store was written by a newer version.
    #[error("the store in {folder:?} has schema version {found}, this version of Chiton reads up to {known}")]
    Newer {
        /// The folder.
        folder: PathBuf,
        /// The store's schema version.
        found: u32,
        /// The newest that this build reads.
        known: u32,
    },
    /// Others than the owner may write into the folder.
    #[error(
        "others than its owner can write into the data folder {folder:?} (mode {mode:04o}), and what is in it decides what is deleted"
    )]
    Exposed {
        /// The folder.
        folder: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The folder belongs to another user.
    #[error("the data folder {folder:?} belongs to user {owner}, this process runs as user {user}")]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// Its owner's uid.
        owner: u32,
        /// This process's effective uid.
        user: u32,
    },
    /// The folder or a file in it cannot be used.
    #[error("{path:?} cannot be used: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The database cannot be used, for a reason that is not damage.
    #[error("the database {file:?} cannot be used: {message}")]
    Database {
        /// The database.
        file: PathBuf,
        /// What `SQLite` said.
        message: String,
    },
    /// What is stored is not what was stored: it is not served, and left as it is.
    #[error("{file:?} is damaged: {what}")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What was found, and where.
        what: String,
    },
    /// There is no store where one is needed.
    #[error("there is no store in {folder:?}")]
    Missing {
        /// The folder.
        folder: PathBuf,
    },
    /// There is a store where none is expected.
    #[error("{folder:?} holds a store already")]
    Occupied {
        /// The folder.
        folder: PathBuf,
    },
    /// A file is no backup that this build can put back.
    #[error("{file:?} is no usable backup: {why}")]
    Backup {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// A stable word for each state, for scripts.
impl StoreError {
    /// `locked`, `newer`, `exposed`, `foreign`, `full`, `read_only`, `forbidden`, `descriptors`, `io`, `database`,
    /// `damaged`, `missing`, `occupied` or `backup`.
    pub fn state(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "locked",
            Self::Newer { .. } => "newer",
            Self::Exposed { .. } => "exposed",
            Self::Foreign { .. } => "foreign",
            Self::Io { source, .. } => trouble(source),
            Self::Database { .. } => "database",
            Self::Damaged { .. } => "damaged",
            Self::Missing { .. } => "missing",
            Self::Occupied { .. } => "occupied",
            Self::Backup { .. } => "backup",
        }
    }

    /// What to do about it.
    pub fn cure(&self) -> String {
        let cure = match self {
            Self::Locked { .. } => "stop the other gateway, or give this one a data folder of its own: --data-dir",
            Self::Newer { .. } => {
                "run the version that wrote it or a newer one, or restore a backup of before the upgrade"
            }
            Self::Exposed { folder, .. } => {
                return format!("look at what was changed there, then: chmod 700 {}", folder.display());
            }
            Self::Foreign { folder, owner, user } => {
                return format!("run as user {owner}, or give the folder away: chown -R {user} {}", folder.display());
            }
            Self::Io { source, .. } => match trouble(source) {
                "full" => "make room on that file system; what was stored is not touched",
                "read_only" => {
                    "mount it writable; if it became read-only by itself the kernel log says why, and the disk may be failing"
                }
                "forbidden" => "run as the user to whom it belongs, or correct its owner and mode",
                "descriptors" => "raise the limit of open files: ulimit -n, or LimitNOFILE= of the service",
                _ => "look at its owner, its permissions, the disk and the kernel log",
            },
            Self::Database { .. } => "look at its owner, its permissions, the disk and the kernel log",
            Self::Damaged { .. } => {
                "look at the disk and the kernel log, then put a backup back: chiton restore --replace FILE; the damaged store is kept beside it"
            }
            Self::Missing { .. } => "name the data folder: --data-dir DIR",
            Self::Occupied { .. } => {
                "name another data folder, or replace what is there, which is kept beside it: --replace"
            }
            Self::Backup { .. } => "use another backup; nothing was changed",
        };
        cure.to_owned()
    }
}

/// A word for what the system said.
fn trouble(error: &io::Error) -> &'static str {
    const NO_DESCRIPTOR: [i32; 2] = [rustix::io::Errno::MFILE.raw_os_error(), rustix::io::Errno::NFILE.raw_os_error()];
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "full",
        io::ErrorKind::ReadOnlyFilesystem => "read_only",
        io::ErrorKind::PermissionDenied => "forbidden",
        _ if error.raw_os_error().is_some_and(|code| NO_DESCRIPTOR.contains(&code)) => "descriptors",
        _ => "io",
    }
}

/// What `SQLite` said of a file as what it means. It tells too little of the system's reasons, so the system is asked again.
pub(crate) fn sql(file: &Path) -> impl Fn(rusqlite::Error) -> StoreError + use<> {
    let file = file.to_owned();
    move |error| {
        use rusqlite::ErrorCode;
        let code = error.sqlite_error_code();
        let io = |source| StoreError::Io { path: file.clone(), source };
        match code {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                StoreError::Damaged { file: file.clone(), what: error.to_string() }
            }
            Some(ErrorCode::DiskFull) => io(io::ErrorKind::StorageFull.into()),
            Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::SystemIoFailure) => {
                match std::fs::OpenOptions::new().read(true).write(true).open(&file) {
                    Err(source) => io(source),
                    Ok(opened) if rustix::fs::fstatvfs(&opened).is_ok_and(|found| found.f_bavail == 0) => {
                        io(io::ErrorKind::StorageFull.into())
                    }
                    Ok(_) => StoreError::Database { file: file.clone(), message: error.to_string() },
                }
            }
            // A value that is none of its column's kind, or no text where there was one.
            None => StoreError::Damaged { file: file.clone(), what: error.to_string() },
            _ => StoreError::Database { file: file.clone(), message: error.to_string() },
        }
    }
}

/// The same of a look at what is stored, which is sound itself: what it cannot understand is damaged.
pub(crate) fn unsound(file: &Path) -> impl Fn(rusqlite::Error) -> StoreError + use<> {
    let (file, sql) = (file.to_owned(), sql(file));
    move |error| match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::Unknown) => StoreError::Damaged { file: file.clone(), what: error.to_string() },
        _ => sql(error),
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Backup { .. } | StoreError::Occupied { .. } => ErrorKind::Refused { by: "store".to_owned() },
            StoreError::Missing { .. } => ErrorKind::NotFound,
            StoreError::Io { source, .. } if matches!(trouble(source), "full" | "descriptors") => {
                ErrorKind::Exhausted { what: if trouble(source) == "full" { "disk" } else { "open files" }.to_owned() }
            }
            _ => ErrorKind::Unavailable { what: "store".to_owned() },
        };
        Self::new(kind, error.to_string()).cure(error.cure())
    }
}
