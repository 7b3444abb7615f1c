//! The blocking core: everything that touches the machine. The async driver calls it on blocking threads.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use chiton_driver::{CallError, CallResult, Observed, ObservedStatus};
use chiton_image::Images;
use chiton_model::{Error, SandboxId};
use chiton_oci_monitor::cgroup::{self, Hierarchy};
use chiton_oci_monitor::exit::ExitRecord;
use chiton_oci_monitor::lock::{self, Guard};
use chiton_oci_monitor::{files, wire::State};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::connection::{Connection, exit_status};
use crate::disk;
use crate::means::{Limit, Means, Way};
use crate::network::Network;
use crate::options::OciOptions;
use crate::record::{self, Paths, Record};

mod act;
mod confine;
mod end;
mod image;
mod ranges;
mod spawn;
mod user;
mod volumes;

use confine::Filters;
pub(crate) use image::Unpacked;
pub(crate) use spawn::Monitor;
use user::UserSpace;

/// How long one call may take: a little less than the engine waits, so that the answer says what hung.
pub(crate) const ACT: Duration = Duration::from_secs(55);
/// How long a monitor may take to say its state.
const LOOK: Duration = Duration::from_secs(5);
/// How long a tombstone is kept.
const TOMBSTONE_AGE: Duration = Duration::from_hours(24);

/// The driver's view of the machine.
pub(crate) struct Host {
    pub(crate) options: OciOptions,
    ready: Mutex<Option<Arc<Ready>>>,
    /// One lock an id, so that two calls for one sandbox never prepare its files at once.
    busy: Mutex<Locks>,
    /// Another one an id, held by whoever makes its container until that stands. Stop and delete do not wait for it: they
    /// end what is being made.
    making: Mutex<Locks>,
    /// Profiles of system calls that were compiled lately.
    filters: Mutex<Filters>,
    ranges: Mutex<ranges::Used>,
    /// The image store, opened when it is needed first.
    pub(crate) images: Mutex<Option<Images>>,
    /// When old tombstones were last looked for.
    swept: Mutex<Option<Instant>>,
    /// By what a writable layer can be limited here.
    disk: OnceLock<disk::DiskAbility>,
    /// Held while a volume is made or deleted, so that none is deleted from under a sandbox.
    volumes: Mutex<()>,
    /// The bridge and who has which address on it.
    pub(crate) network: Arc<Network>,
}

type Locks = BTreeMap<SandboxId, Arc<Mutex<()>>>;

/// The lock of an id; those that nobody has are forgotten.
fn lock_of(locks: &Mutex<Locks>, id: &SandboxId) -> Arc<Mutex<()>> {
    let mut locks = locks.lock();
    locks.retain(|_, lock| Arc::strong_count(lock) > 1);
    Arc::clone(locks.entry(id.clone()).or_default())
}

/// What is set up once.
pub(crate) struct Ready {
    pub(crate) agent_program: PathBuf,
    pub(crate) means: Means,
    /// Of an ordinary user.
    user: Option<UserSpace>,
}

/// Names what failed.
pub(crate) trait Doing<T> {
    /// The call certainly did nothing.
    fn not_run(self, what: &str) -> CallResult<T>;
    /// The call failed; what it left is found by id.
    fn failed(self, what: &str) -> CallResult<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn not_run(self, what: &str) -> CallResult<T> {
        self.map_err(|error| CallError::NotRun(Error::internal(format!("{what}: {error}"))))
    }

    fn failed(self, what: &str) -> CallResult<T> {
        self.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => CallError::Unknown(Error::deadline(format!("{what} took too long"))),
            _ => CallError::Failed(Error::internal(format!("{what}: {error}"))),
        })
    }
}

impl Host {
    pub(crate) fn new(options: OciOptions) -> Self {
        Self {
            network: Network::new(&options),
            options,
            ready: Mutex::default(),
            busy: Mutex::default(),
            making: Mutex::default(),
            ranges: Mutex::default(),
            images: Mutex::default(),
            filters: Mutex::default(),
            swept: Mutex::default(),
            disk: OnceLock::new(),
            volumes: Mutex::default(),
        }
    }

    /// By what a writable layer can be limited on this machine; looked at once.
    pub(crate) fn disk_means(&self) -> &disk::DiskAbility {
        self.disk.get_or_init(disk::DiskAbility::detect)
    }

    /// Sets folders and the agent's program up, once; forgets old tombstones.
    pub(crate) fn ready(&self) -> CallResult<Arc<Ready>> {
        let mut ready = self.ready.lock();
        if let Some(ready) = &*ready {
            return Ok(Arc::clone(ready));
        }
        let options = &self.options;
        for dir in [&options.state_dir, &options.run_dir] {
            make_folder(dir).not_run("make the driver's folder")?;
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).not_run("close the driver's folder")?;
        }
        for dir in [record::sandboxes(options), record::locks(options), options.state_dir.join("bin")] {
            make_folder(&dir).not_run("make the driver's folder")?;
        }
        for dir in ["monitors", "agent"] {
            make_folder(&options.run_dir.join(dir)).not_run("make the driver's folder")?;
        }
        self.forget_tombstones().not_run("remove old tombstones")?;
        let agent_program = self.install_agent().not_run("install the agent's program")?;
        let mut means = Means::detect().not_run("find the cgroup hierarchies")?.take();
        let user = if means.root() {
            None
        } else {
            Some(UserSpace::make(&agent_program, &mut means).map_err(|error| no_namespace(&error))?)
        };
        // Bridges are root's.
        if means.root()
            && let Err(error) = self.recover_network()
        {
            // Each call that needs the network says so itself; sandboxes without one are not concerned.
            tracing::warn!(error = %error.into_error(), "the bridge and its rules were not restored");
        }
        let made = Arc::new(Ready { agent_program, means, user });
        made.remove_leftovers(&self.options).not_run("look for what is left of volumes")?;
        *ready = Some(Arc::clone(&made));
        Ok(made)
    }

    /// The operator's options for a plan: without default limits that nothing enforces here, which only a request's own
    /// limits may be refused for.
    pub(crate) fn planning(&self) -> CallResult<OciOptions> {
        let ready = self.ready()?;
        let held = |limit| !matches!(ready.means.way(limit), Way::Nothing { .. });
        let mut options = self.options.clone();
        options.default_pids = options.default_pids.filter(|_| held(Limit::Pids));
        options.default_memory = options.default_memory.filter(|_| held(Limit::Memory));
        Ok(options)
    }

    /// What is not enforced here, as far as the machine was looked at.
    pub(crate) fn shortfall(&self) -> Option<String> {
        self.ready.lock().as_ref().and_then(|ready| ready.means.gaps())
    }

    /// Takes up the places on the bridge that an earlier gateway gave out.
    fn recover_network(&self) -> CallResult<()> {
        let mut leases = Vec::new();
        for id in record::ids(&self.options).not_run("list the sandboxes")? {
            let dir = Paths::new(&self.options, &id).dir;
            if let Some(record) = Record::load(&dir).not_run("read a sandbox's record")? {
                leases.extend(record.network.map(|lease| (id, lease)));
            }
        }
        self.network.recover(leases)
    }

    /// Writes the agent's program under its digest, once per content.
    fn install_agent(&self) -> io::Result<PathBuf> {
        let digest = hex::encode(Sha256::digest(self.options.agent_binary));
        let dir = self.options.state_dir.join("bin");
        let name = format!("chiton-agent-{}", &digest[..16]);
        let path = dir.join(&name);
        let present = fs::read(&path).is_ok_and(|bytes| bytes == self.options.agent_binary);
        if !present {
            files::replace(&dir, &name, self.options.agent_binary, false)?;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    /// Removes tombstones that are older than their age, at most once an hour.
    fn forget_tombstones(&self) -> io::Result<()> {
        let mut swept = self.swept.lock();
        if swept.is_some_and(|at| at.elapsed() < Duration::from_hours(1)) {
            return Ok(());
        }
        *swept = Some(Instant::now());
        drop(swept);
        for entry in fs::read_dir(record::locks(&self.options))? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "deleted") {
                continue;
            }
            let age = fs::metadata(&path)?.modified()?;
            let old = SystemTime::now().duration_since(age).is_ok_and(|age| age > TOMBSTONE_AGE);
            let lock = path.with_extension("lock");
            if old && let Some(_held) = Guard::try_take(&lock)? {
                files::remove(&path)?;
                files::remove(&lock)?;
            }
        }
        Ok(())
    }

    /// The name of the folder in every cgroup hierarchy that holds this gateway's sandboxes.
    fn cgroup_parent(&self) -> String {
        format!("chiton-{}", self.options.gateway)
    }

    /// A sandbox's cgroups on this machine.
    fn cgroups(&self, id: &SandboxId) -> CallResult<Vec<Hierarchy>> {
        Ok(cgroup::layout(&self.ready()?.means.cgroups, &self.cgroup_parent(), id.as_str()))
    }

    fn busy(&self, id: &SandboxId) -> Arc<Mutex<()>> {
        lock_of(&self.busy, id)
    }

    fn making(&self, id: &SandboxId) -> Arc<Mutex<()>> {
        lock_of(&self.making, id)
    }

    /// One sandbox as it is now, or none.
    pub(crate) fn observe(&self, id: &SandboxId) -> CallResult<Option<Observed>> {
        let paths = Paths::new(&self.options, id);
        let Some(record) = Record::load(&paths.dir).not_run("read the sandbox's record")? else { return Ok(None) };
        let status = Self::status(&paths)?;
        Ok(Some(observed(&record, status)))
    }

    /// What a sandbox with a record is doing.
    fn status(paths: &Paths) -> CallResult<ObservedStatus> {
        // Twice: a monitor may end, or a new one begin to listen, between two looks.
        for _ in 0..2 {
            let connection = Connection::open(&paths.run).not_run("connect to the monitor")?;
            if let Some(mut connection) = connection {
                let deadline = Instant::now() + LOOK;
                if let Some(state) = connection.next(deadline).not_run("ask the monitor")? {
                    return Ok(status_of(state));
                }
            }
            if let Some(exit) = ExitRecord::load(&paths.dir).not_run("read the exit record")? {
                return Ok(ObservedStatus::Exited(exit_status(&exit)));
            }
            if lock::holder(&paths.lock).not_run("read the lock")?.is_some() {
                return Ok(ObservedStatus::Broken("it is being made".to_owned()));
            }
        }
        Ok(ObservedStatus::Broken("its monitor is gone without an exit record".to_owned()))
    }

    /// All sandboxes with a record.
    pub(crate) fn list(&self) -> CallResult<Vec<Observed>> {
        self.ready()?;
        let mut found = Vec::new();
        for id in record::ids(&self.options).not_run("list the sandboxes")? {
            found.extend(self.observe(&id)?);
        }
        Ok(found)
    }

    /// Connects to every monitor that listens.
    pub(crate) fn monitors(&self) -> CallResult<Vec<(SandboxId, Option<Connection>)>> {
        self.ready()?;
        let mut found = Vec::new();
        for id in record::ids(&self.options).not_run("list the sandboxes")? {
            let run = Paths::new(&self.options, &id).run;
            let connection = Connection::open(&run).not_run("connect to the monitor")?;
            found.push((id, connection));
        }
        Ok(found)
    }

    /// A state of a sandbox's monitor as the engine wants to hear it.
    pub(crate) fn interpret(&self, id: &SandboxId, state: State) -> CallResult<Option<Observed>> {
        let dir = Paths::new(&self.options, id).dir;
        let record = Record::load(&dir).not_run("read the sandbox's record")?;
        Ok(record.map(|record| observed(&record, status_of(state))))
    }
}

fn observed(record: &Record, status: ObservedStatus) -> Observed {
    Observed {
        id: record.id.clone(),
        status,
        attempt: record.attempt.clone(),
        gateway: record.gateway.clone(),
        epoch: record.epoch.clone(),
        commit: record.commit,
    }
}

fn status_of(state: State) -> ObservedStatus {
    match state {
        State::Launching => ObservedStatus::Broken("it is being made".to_owned()),
        State::Created => ObservedStatus::Created,
        // What was dropped is no state, and said only of what runs.
        State::Running | State::Dropped { .. } => ObservedStatus::Running,
        State::Exited { exit } => ObservedStatus::Exited(exit_status(&exit)),
        State::Failed { step, message, .. } => ObservedStatus::Broken(format!("{step}: {message}")),
    }
}

/// Without a user namespace an ordinary user can run nothing.
fn no_namespace(error: &io::Error) -> CallError {
    let text = format!("this user cannot make a user namespace: {error}");
    CallError::NotRun(Error::unavailable("oci driver", text).cure(
        "allow it (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone or \
         kernel.apparmor_restrict_unprivileged_userns), or run the gateway as root",
    ))
}

/// Makes a folder that only its owner may enter, and its parents.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent()
        && !parent.exists()
    {
        fs::create_dir_all(parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
