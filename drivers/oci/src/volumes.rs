//! Named volumes on disk: `volumes/<workspace>/<name>/` with a record and the files.
//!
//! A volume appears and goes by a rename, so that it is whole or absent whenever a process ends: it is made in `.new`
//! and moved to its place; it is moved to `.deleted` and its files are removed there. What is found in these two after
//! a crash was never, or is no longer, a volume. Names of workspaces and volumes cannot begin with a dot.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use chiton_model::{GatewayId, SandboxId, StoreEpoch, VolumeName, WorkspaceName};
use chiton_oci_monitor::files;
use serde::{Deserialize, Serialize};

use crate::host::make_folder;
use crate::options::OciOptions;

const FILE: &str = "record.json";
const NEW: &str = ".new";
const DELETED: &str = ".deleted";

/// What is kept of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The form of this record.
    pub(crate) version: u32,
    /// The workspace that it is in.
    pub(crate) workspace: WorkspaceName,
    /// Its name there.
    pub(crate) name: VolumeName,
    /// The installation.
    pub(crate) gateway: GatewayId,
    /// The store's life in which it was made.
    pub(crate) epoch: StoreEpoch,
    /// Who asked for it.
    pub(crate) created_by: String,
    /// The sandbox that it was made for, when nobody asked for it by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created_for: Option<SandboxId>,
    /// When, in milliseconds since 1970.
    pub(crate) created_ms: u64,
    /// The most bytes; it is an image then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<u64>,
}

impl Record {
    pub(crate) const VERSION: u32 = 1;

    fn decode(bytes: &[u8]) -> io::Result<Self> {
        let record: Self = serde_json::from_slice(bytes)?;
        if record.version == Self::VERSION {
            return Ok(record);
        }
        let (found, known) = (record.version, Self::VERSION);
        Err(io::Error::other(format!("it has version {found}, known is {known}")))
    }
}

/// Now, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
    u64::try_from(now).unwrap_or(u64::MAX)
}

fn base(options: &OciOptions) -> PathBuf {
    options.state_dir.join("volumes")
}

/// A volume's folder.
pub(crate) fn folder(options: &OciOptions, workspace: &WorkspaceName, name: &VolumeName) -> PathBuf {
    base(options).join(workspace.as_str()).join(name.as_str())
}

/// Where the files of a volume are: a folder, or an image.
pub(crate) fn files(folder: &Path, size: Option<u64>) -> PathBuf {
    folder.join(if size.is_some() { "disk.img" } else { "data" })
}

/// Reads a volume's record; `None` when there is no such volume.
pub(crate) fn load(folder: &Path) -> io::Result<Option<Record>> {
    match fs::read(folder.join(FILE)) {
        Ok(bytes) => Record::decode(&bytes).map(Some).map_err(|error| {
            io::Error::new(error.kind(), format!("{} cannot be read: {error}", folder.join(FILE).display()))
        }),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every volume, by workspace and name.
pub(crate) fn list(options: &OciOptions) -> io::Result<Vec<Record>> {
    let mut found = Vec::new();
    for workspace in names(&base(options))? {
        for name in names(&workspace)? {
            found.extend(load(&name)?);
        }
    }
    Ok(found)
}

/// The entries of a folder but those that begin with a dot, in order; none when it is not there.
fn names(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") && entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Makes a volume; `false` when there is one of that name. `image` makes the image of one that has a size. When this
/// returns, the volume outlives a power loss.
pub(crate) fn make(
    options: &OciOptions,
    record: &Record,
    image: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<bool> {
    let folder = folder(options, &record.workspace, &record.name);
    if folder.symlink_metadata().is_ok() {
        return Ok(false);
    }
    let base = base(options);
    make_folder(&base)?;
    make_folder(&base.join(NEW))?;
    let work = base.join(NEW).join(unique());
    make_folder(&work)?;
    let made = (|| {
        let data = files(&work, record.size);
        if record.size.is_some() {
            image(&data)?;
            File::open(&data)?.sync_all()?;
        } else {
            make_folder(&data)?;
            // Its owner is the host's root, who is in every sandbox the sandbox's own.
            fs::set_permissions(&data, fs::Permissions::from_mode(0o755))?;
        }
        files::replace(&work, FILE, &serde_json::to_vec(record)?, true)?;
        sync(&work)?;
        let workspace = base.join(record.workspace.as_str());
        make_folder(&workspace)?;
        sync(&base)?;
        fs::rename(&work, &folder)?;
        sync(&workspace)
    })();
    match made {
        Ok(()) => Ok(true),
        Err(error) => {
            let _ = fs::remove_dir_all(&work);
            // Another process of this gateway's was faster; a folder is not replaced by one that holds something.
            let there = matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists);
            if there { Ok(false) } else { Err(error) }
        }
    }
}

/// Takes a volume away: after this it is gone for everybody, also after a power loss. Returns what remains to be removed.
pub(crate) fn take(options: &OciOptions, workspace: &WorkspaceName, name: &VolumeName) -> io::Result<PathBuf> {
    let base = base(options);
    make_folder(&base.join(DELETED))?;
    let gone = base.join(DELETED).join(unique());
    fs::rename(folder(options, workspace, name), &gone)?;
    let room = base.join(workspace.as_str());
    sync(&room)?;
    sync(&base.join(DELETED))?;
    // The last volume's room goes with it; another one's keeps it.
    let _ = fs::remove_dir(&room);
    Ok(gone)
}

/// Folders that a process which ended left of volumes that it was making or deleting.
pub(crate) fn leftovers(options: &OciOptions) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in [NEW, DELETED] {
        found.extend(names(&base(options).join(folder))?);
    }
    Ok(found)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A name that no folder of this or an earlier process has.
fn unique() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("{}-{}-{number}", now_ms(), std::process::id())
}
