//! One engine as one gateway uses it: looking at containers, and where things are.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bollard::models::{ContainerInspectResponse, ContainerSummaryStateEnum as Word, SystemInfo};
use chiton_driver::{CallError, CallResult, DriverEvent, Observed, ObservedStatus};
use chiton_model::label::managed;
use chiton_model::{Error, SandboxId};
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OnceCell, RwLock, broadcast};

use crate::client::{Client, Failure};
use crate::dialect::LaterAbilities;
use crate::images::Keep;
use crate::names;
use crate::observe::{Owner, inspected};
use crate::options::EngineOptions;
use crate::supervisor::Programs;
use crate::tombstones::Tombstones;

/// How many events a slow watcher may lag behind; only progress goes this way.
const LAG: usize = 1024;
/// How many containers are looked at at a time.
const LOOKS: usize = 16;

/// What is known of the engine after a look at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Abilities {
    pub(crate) selinux: bool,
    pub(crate) cpu: bool,
    pub(crate) memory: bool,
    pub(crate) pids: bool,
    pub(crate) open_files: bool,
    pub(crate) image_mounts: bool,
    pub(crate) cdi: bool,
    pub(crate) rootless: bool,
}

impl Abilities {
    /// Which limits the engine would ignore, as a sentence.
    pub(crate) fn not_limited(self) -> Option<String> {
        let limits = [("cpu", self.cpu), ("memory", self.memory), ("pids", self.pids), ("open_files", self.open_files)];
        let missing: Vec<&str> = limits.iter().filter(|(_, able)| !able).map(|(name, _)| *name).collect();
        let missing = missing.join(", ");
        (!missing.is_empty())
            .then(|| format!("the engine cannot limit {missing}: it is rootless or its kernel lacks it"))
    }
}

/// The engine.
pub(crate) struct Engine {
    pub(crate) options: EngineOptions,
    pub(crate) client: Arc<Client>,
    pub(crate) tombstones: Tombstones,
    pub(crate) news: broadcast::Sender<DriverEvent>,
    /// Whoever puts a container on the gateway's network reads; whoever removes the network writes.
    pub(crate) bridge: RwLock<()>,
    /// Networks are made one by one.
    pub(crate) networks_lock: tokio::sync::Mutex<()>,
    /// Volumes are made and removed one by one.
    pub(crate) volumes_lock: tokio::sync::Mutex<()>,
    busy: Mutex<HashMap<SandboxId, Arc<tokio::sync::Mutex<()>>>>,
    agent: OnceCell<PathBuf>,
    abilities: OnceCell<Abilities>,
    pub(crate) images: Keep,
    pub(crate) programs: Programs,
}

impl Engine {
    pub(crate) fn new(options: EngineOptions) -> Self {
        let client = Arc::new(Client::new(options.dialect, options.socket.clone()));
        let tombstones = Tombstones(options.state_dir.join("deleted"));
        tombstones.sweep();
        Self {
            client,
            tombstones,
            news: broadcast::channel(LAG).0,
            bridge: RwLock::default(),
            networks_lock: tokio::sync::Mutex::default(),
            volumes_lock: tokio::sync::Mutex::default(),
            busy: Mutex::default(),
            agent: OnceCell::new(),
            abilities: OnceCell::new(),
            images: Keep::new(&options.state_dir, options.images.clone()),
            programs: Programs::default(),
            options,
        }
    }

    /// The lock of one sandbox: its calls come one after another.
    pub(crate) fn busy(&self, id: &SandboxId) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.busy.lock();
        busy.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(busy.entry(id.clone()).or_default())
    }

    /// The folder that a sandbox sees at `/run/chiton`.
    pub(crate) fn agent_folder(&self, id: &SandboxId) -> PathBuf {
        self.options.run_dir.join("agent").join(id.as_str())
    }

    /// Makes what a container shows of this machine: a reboot may have taken it.
    pub(crate) fn make_agent_folder(&self, id: &SandboxId) -> CallResult<PathBuf> {
        let folder = self.agent_folder(id);
        make_folder(&folder).map(|()| folder)
    }

    /// The agent's program, written once for each build of it.
    pub(crate) async fn agent_program(&self) -> CallResult<&Path> {
        let made = self.agent.get_or_try_init(|| async {
            let binary = self.options.agent_binary;
            let digest = hex::encode(Sha256::digest(binary));
            let folder = self.options.state_dir.join("agent");
            let path = folder.join(format!("chiton-agent-{}", &digest[..16]));
            make_folder(&folder)?;
            let written = tokio::task::spawn_blocking({
                let (folder, path) = (folder.clone(), path.clone());
                move || write_program(&folder, &path, binary)
            });
            match written.await {
                Ok(Ok(())) => Ok(path),
                Ok(Err(error)) => Err(unwritable(&path, &error)),
                Err(error) => Err(unwritable(&path, &io::Error::other(error))),
            }
        });
        made.await.map(PathBuf::as_path)
    }

    /// What the engine can limit. Asked once: it changes with the machine's kernel and the engine's user, not while it runs.
    pub(crate) async fn abilities(&self) -> CallResult<Abilities> {
        let found = self.abilities.get_or_try_init(|| async {
            let said: Value = self.client.document("look at the engine", "/info").await?;
            // Podman says it in a word of its own, which the library does not know.
            let says_so = said["Rootless"] == true;
            let info: SystemInfo = serde_json::from_value(said)
                .map_err(|error| self.client.failure("look at the engine", error.into()))?;
            let options = info.security_options.unwrap_or_default();
            let rootless = says_so || options.iter().any(|option| option == "name=rootless");
            let LaterAbilities { image_mounts, cdi } =
                self.options.dialect.later_abilities(&self.client.api().await?.client_version());
            // Without the unified hierarchy a rootless engine ignores limits, whatever it says of the kernel.
            let unified = info.cgroup_version.map(|version| version.to_string()) == Some("2".to_owned());
            let limits = !rootless || unified;
            Ok::<_, Failure>(Abilities {
                selinux: options.iter().any(|option| option == "name=selinux"),
                cpu: limits && info.cpu_cfs_quota != Some(false),
                memory: limits && info.memory_limit != Some(false),
                pids: limits && info.pids_limit != Some(false),
                // An ordinary user's podman passes over limits of this kind that come by this API.
                open_files: !says_so,
                image_mounts,
                cdi,
                rootless,
            })
        });
        Ok(*found.await?)
    }

    /// What is not enforced for any sandbox, as far as the engine was asked already.
    pub(crate) fn shortfall(&self) -> Option<String> {
        self.abilities.get().and_then(|found| found.not_limited())
    }

    /// One container of this gateway; none when there is none, whoever else has that name.
    pub(crate) async fn observe(&self, id: &SandboxId) -> Result<Option<Observed>, Failure> {
        Ok(self.inspect(id).await?.as_ref().and_then(inspected))
    }

    /// The same in the engine's words.
    pub(crate) async fn inspect(&self, id: &SandboxId) -> Result<Option<ContainerInspectResponse>, Failure> {
        let path = format!("/containers/{}/json", names::container(id));
        match self.client.document::<ContainerInspectResponse>("look at the sandbox", &path).await {
            Ok(found) => Ok(Some(found).filter(|found| {
                inspected(found).is_some_and(|observed| observed.gateway == self.options.gateway && observed.id == *id)
            })),
            Err(Failure::Absent(_)) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// All containers of this gateway.
    pub(crate) async fn list(&self) -> Result<Vec<Observed>, Failure> {
        let label = format!("{}={}", managed::GATEWAY_ID, self.options.gateway);
        let listed = self.client.list_containers("list the sandboxes", Some(("label", &label))).await?;
        let looks = futures::stream::iter(listed).map(|found| async move {
            let Some(owner) = found.labels.as_ref().and_then(Owner::read) else { return Ok(None) };
            if owner.gateway != self.options.gateway {
                return Ok(None);
            }
            match found.state {
                Some(Word::CREATED) => Ok(Some(owner.observed(ObservedStatus::Created))),
                Some(Word::RUNNING | Word::PAUSED) => Ok(Some(owner.observed(ObservedStatus::Running))),
                // The list does not say how it ended.
                _ => self.observe(&owner.sandbox).await,
            }
        });
        looks.buffered(LOOKS).try_filter_map(|found| std::future::ready(Ok(found))).try_collect().await
    }
}

pub(crate) fn unwritable(path: &Path, error: &io::Error) -> CallError {
    let text = format!("{} cannot be written: {error}", path.display());
    CallError::NotRun(Error::unavailable("driver", text).cure("make room, or mend the folder's permissions"))
}

pub(crate) fn make_folder(path: &Path) -> CallResult<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    // The engine's own users enter through it; its parents are the gateway's alone.
    let opened = made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)));
    opened.map_err(|error| unwritable(path, &error))
}

fn write_program(folder: &Path, path: &Path, binary: &[u8]) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|found| found.len() == binary.len() as u64) {
        return Ok(());
    }
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(binary)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o555))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error).map(drop)
}
