//! The supervisor's program: a file of this machine, or of an image. What sandboxes are shown is a copy below the driver's
//! state folder, kept by what it came from and used only while its content is what was put there.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder, RemoveContainerOptionsBuilder,
};
use chiton_driver::{CallError, CallResult};
use chiton_model::label::managed;
use chiton_model::{Error, SandboxId, printable};
use futures::StreamExt as _;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::{ProgramPlan, Supervisor, SupervisorOptions, names};
use crate::client::{ACT, Failure};
use crate::engine::{Engine, make_folder, unwritable};
use crate::plan::ImagePlan;

/// A program in its folder, and what says what it was.
const KEPT: &str = "program";
const NOTE: &str = "digest";

/// The largest program.
const LARGEST: u64 = 512 << 20;

/// What tells a file's content apart without reading it.
type Stamp = (u64, u64, u64, i64, i64);

/// What is known of programs.
#[derive(Default)]
pub(crate) struct Programs {
    /// Digests of files that were read, as they were then.
    read: Mutex<HashMap<PathBuf, (Stamp, String)>>,
    /// Programs are copied and taken out of images one by one.
    one_by_one: Arc<tokio::sync::Mutex<()>>,
}

fn stamp(metadata: &fs::Metadata) -> Stamp {
    (metadata.dev(), metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec())
}

impl Programs {
    /// The digest of a file's content, `sha256:…`. Read once for each content. Blocking.
    fn digest(&self, path: &Path) -> io::Result<String> {
        let mut file = open(path)?;
        let metadata = file.metadata()?;
        let stamp = stamp(&metadata);
        if let Some((of, digest)) = self.read.lock().get(path)
            && *of == stamp
        {
            return Ok(digest.clone());
        }
        let mut hash = Sha256::new();
        let read = io::copy(&mut (&mut file).take(LARGEST + 1), &mut Hashing(&mut hash))?;
        if read == 0 || read > LARGEST {
            return Err(io::Error::other(format!("it has {read} bytes or more, from 1 to {LARGEST} are a program")));
        }
        let digest = format!("sha256:{}", hex::encode(hash.finalize()));
        self.read.lock().insert(path.to_owned(), (stamp, digest.clone()));
        Ok(digest)
    }
}

#[cfg(test)]
impl Programs {
    /// As somebody does who brings one.
    pub(crate) async fn brings_one(&self) -> impl Drop + use<> {
        Arc::clone(&self.one_by_one).lock_owned().await
    }
}

struct Hashing<'a>(&'a mut Sha256);

impl io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens a file and nothing else; a pipe would wait for somebody to write.
fn open(path: &Path) -> io::Result<fs::File> {
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no file")) }
}

/// Whether a file begins as what the kernel executes.
fn executable(path: &Path) -> io::Result<()> {
    let mut begin = [0; 4];
    open(path)?.read_exact(&mut begin)?;
    if begin == *b"\x7fELF" || begin.starts_with(b"#!") {
        return Ok(());
    }
    Err(io::Error::other("it is no program for Linux"))
}

fn no_program(path: &Path, error: &io::Error) -> Error {
    Error::unavailable("supervisor", format!("the supervisor's program {} cannot be used: {error}", path.display()))
        .cure("set supervisor.bin to a static program for this machine that the gateway may read")
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

impl Engine {
    /// What the supervisor's program is now. Reads only.
    pub(crate) async fn plan_program(self: &Arc<Self>, options: &SupervisorOptions) -> Result<ProgramPlan, Error> {
        match &options.program {
            Supervisor::Bin(path) => {
                let (engine, of) = (Arc::clone(self), path.clone());
                let digest = blocking(move || executable(&of).and_then(|()| engine.programs.digest(&of))).await;
                let digest = digest.map_err(|error| no_program(path, &error))?;
                Ok(ProgramPlan::Bin { path: path.to_string_lossy().into_owned(), digest })
            }
            Supervisor::Image(reference) => {
                let found = self.resolve(reference).await.map_err(|mut error| {
                    error.message = format!("the supervisor's image {reference:?}: {}", error.message);
                    error
                })?;
                Ok(ProgramPlan::Image { image: found.image, path: names::IN_IMAGE.to_owned() })
            }
        }
    }

    /// Brings the program to where sandboxes are shown it; slow the first time.
    pub(crate) async fn ensure_program(self: &Arc<Self>, id: &SandboxId, plan: &ProgramPlan) -> CallResult<PathBuf> {
        let key = match plan {
            ProgramPlan::Bin { digest, .. } => digest.trim_start_matches("sha256:").to_owned(),
            ProgramPlan::Image { image, path } => hex::encode(Sha256::digest(format!("{}\n{path}", image.pin))),
        };
        if key.len() != 64 || !key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let error = Error::invalid("agent.program.digest", "the digest of the supervisor's program is none");
            return Err(CallError::NotRun(error.cure("leave /agent as the driver made it")));
        }
        let folder = self.programs_folder().join(&key[..32]);
        let program = folder.join(KEPT);
        // What is there is not made to wait for another that is being brought.
        if self.is_kept(&folder).await {
            return Ok(program);
        }
        let alone = Arc::clone(&self.programs.one_by_one).lock_owned().await;
        if self.is_kept(&folder).await {
            return Ok(program);
        }
        make_folder(&folder)?;
        if let ProgramPlan::Image { image, .. } = plan {
            self.ensure_image(id, image).await?;
        }
        // Whoever waits for it may stop waiting; what was begun is finished and cleaned up all the same.
        let (engine, plan) = (Arc::clone(self), plan.clone());
        let brought = tokio::spawn(async move {
            let _alone = alone;
            engine.bring(&plan, &folder).await
        });
        let failed = |error| CallError::Unknown(Error::internal(format!("bringing the supervisor ended: {error}")));
        brought.await.map_err(failed)?.map(|()| program)
    }

    fn programs_folder(&self) -> PathBuf {
        self.options.state_dir.join("supervisor")
    }

    /// Whether the program in a folder is there and is what was put there.
    async fn is_kept(self: &Arc<Self>, folder: &Path) -> bool {
        let (engine, program, note) = (Arc::clone(self), folder.join(KEPT), folder.join(NOTE));
        let same = blocking(move || Ok(fs::read_to_string(note)? == engine.programs.digest(&program)?)).await;
        matches!(same, Ok(true))
    }

    /// Puts the program into its folder. Nobody else does meanwhile.
    async fn bring(self: &Arc<Self>, plan: &ProgramPlan, folder: &Path) -> CallResult<()> {
        let (program, note) = (folder.join(KEPT), folder.join(NOTE));
        match plan {
            ProgramPlan::Bin { path, digest } => self.copy(Path::new(path), digest, &program).await?,
            ProgramPlan::Image { image, path } => self.take_out(image, path, &program).await?,
        }
        let (engine, folder, brought) = (Arc::clone(self), folder.to_owned(), program.clone());
        let written = blocking(move || {
            executable(&brought)?;
            let digest = engine.programs.digest(&brought)?;
            let mut file = tempfile::NamedTempFile::new_in(&folder)?;
            file.write_all(digest.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(note).map_err(|error| error.error).map(drop)
        });
        written.await.map_err(|error| unwritable(&program, &error))
    }

    /// Copies a file, if it is still the one that was planned.
    async fn copy(self: &Arc<Self>, from: &Path, digest: &str, to: &Path) -> CallResult<()> {
        let (source, target, wanted) = (from.to_owned(), to.to_owned(), digest.to_owned());
        let copied = blocking(move || {
            let folder = target.parent().unwrap_or(&target).to_owned();
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            let mut hash = Sha256::new();
            let mut bytes = open(&source)?.take(LARGEST);
            let mut buffer = vec![0; 1 << 16];
            loop {
                let read = bytes.read(&mut buffer)?;
                if read == 0 {
                    break;
                }
                hash.update(&buffer[..read]);
                file.write_all(&buffer[..read])?;
            }
            let found = format!("sha256:{}", hex::encode(hash.finalize()));
            // What is kept under a digest has that digest: sandboxes may be shown it already.
            if found == wanted {
                finish(file, &target)?;
            }
            Ok(found)
        });
        let found = copied.await.map_err(|error| CallError::NotRun(no_program(from, &error)))?;
        if found == digest {
            return Ok(());
        }
        let text =
            format!("the supervisor's program {} is not what it was when the sandbox was planned", from.display());
        Err(CallError::NotRun(Error::conflict(text).cure("create the sandbox again, which plans it anew")))
    }

    /// What the container is called whose only use is that a file is taken out of it. It never runs.
    fn extractor(&self) -> String {
        format!("chiton.supervisor.{}.{}", self.options.gateway, self.options.id)
    }

    /// Takes a file out of an image.
    async fn take_out(&self, image: &ImagePlan, path: &str, to: &Path) -> CallResult<()> {
        let deadline = Instant::now() + ACT;
        // What a crash left is in the way.
        self.remove_extractor(deadline).await?;
        let name = self.extractor();
        let body = ContainerCreateBody {
            image: Some(image.pin.clone()),
            entrypoint: Some(vec![path.to_owned()]),
            cmd: Some(Vec::new()),
            labels: Some([(managed::MANAGED_BY.to_owned(), "chiton".to_owned())].into()),
            host_config: Some(HostConfig { network_mode: Some("none".to_owned()), ..HostConfig::default() }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let made = self.client.act("look into the supervisor's image", deadline, |api| async move {
            api.create_container(Some(options), body).await
        });
        made.await?;
        let taken = self.download(&name, path, to, deadline).await;
        let removed = self.remove_extractor(deadline).await;
        taken?;
        removed
    }

    /// Removes the container that a file is taken out of; the next start of a watch does it after a crash.
    async fn remove_extractor(&self, deadline: Instant) -> CallResult<()> {
        let name = self.extractor();
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let removed = self.client.act("remove what the supervisor was taken from", deadline, |api| async move {
            api.remove_container(&name, Some(options)).await
        });
        match removed.await {
            Ok(()) | Err(Failure::Absent(_)) => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Removes what a crash left of bringing a program: a container, and files that are not whole.
    pub(crate) async fn sweep_programs(&self) -> CallResult<()> {
        let Ok(_alone) = self.programs.one_by_one.try_lock() else { return Ok(()) };
        let folders = fs::read_dir(self.programs_folder()).into_iter().flatten().flatten();
        let files = folders.filter_map(|folder| fs::read_dir(folder.path()).ok()).flatten().flatten();
        let whole = [KEPT, NOTE];
        for file in files.filter(|file| !whole.iter().any(|name| file.file_name() == *name)) {
            fs::remove_file(file.path()).map_err(|error| unwritable(&file.path(), &error))?;
        }
        self.remove_extractor(Instant::now() + ACT).await
    }

    async fn download(&self, name: &str, path: &str, to: &Path, deadline: Instant) -> CallResult<()> {
        let bad = |why: &str| {
            let text = format!("the supervisor cannot be taken out of its image: {path}: {}", printable(why));
            CallError::NotRun(
                Error::unavailable("supervisor", text).cure("name an image that has the supervisor at that path"),
            )
        };
        let folder = to.parent().unwrap_or(to);
        let mut archive = tempfile::tempfile_in(folder).map_err(|error| unwritable(folder, &error))?;
        let api = self.client.api().await?;
        let options = DownloadFromContainerOptionsBuilder::new().path(path).build();
        let mut stream = Box::pin(api.download_from_container(name, Some(options)));
        let mut got: u64 = 0;
        loop {
            let next = tokio::time::timeout_at(deadline, stream.next()).await;
            match next.map_err(|_| CallError::from(self.client.late("take the supervisor out of its image", ACT)))? {
                Some(Ok(piece)) => {
                    got += piece.len() as u64;
                    if got > LARGEST {
                        return Err(bad("it is too large"));
                    }
                    archive.write_all(&piece).map_err(|error| unwritable(folder, &error))?;
                }
                Some(Err(error)) => {
                    return Err(match self.client.failure("take the supervisor out of its image", error) {
                        Failure::Absent(error) => bad(&error.message),
                        failure => failure.into(),
                    });
                }
                None => break,
            }
        }
        let target = to.to_owned();
        let unpacked = blocking(move || {
            io::Seek::rewind(&mut archive)?;
            let mut archive = tar::Archive::new(archive);
            let first = archive.entries()?.next().ok_or_else(|| io::Error::other("the engine sent nothing"))?;
            let mut entry = first?;
            if !entry.header().entry_type().is_file() {
                return Err(io::Error::other("it is no file"));
            }
            let mut file = tempfile::NamedTempFile::new_in(target.parent().unwrap_or(&target))?;
            io::copy(&mut entry, &mut file)?;
            finish(file, &target)
        });
        unpacked.await.map_err(|error| bad(&error.to_string()))
    }
}

/// Puts a program in its place, for everybody to execute and nobody to write.
fn finish(file: tempfile::NamedTempFile, to: &Path) -> io::Result<()> {
    file.as_file().set_permissions(fs::Permissions::from_mode(0o555))?;
    file.as_file().sync_all()?;
    file.persist(to).map_err(|error| error.error).map(drop)
}
