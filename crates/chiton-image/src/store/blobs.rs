//! Blobs: what registries sent, whole and checked.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::{Inner, Listener, Progress};
use crate::error::{Doing, ImageError, Result};
use crate::source::open_plain;
use crate::source::registry::Repository;
use crate::{Cancel, Digest, Layer};

/// How often a download that breaks off is taken up again.
const ATTEMPTS: u32 = 5;
/// The longest time that one download may take; whoever waits for it has a shorter deadline.
const DOWNLOAD: Duration = Duration::from_hours(2);
/// How long a download that has ended may still be locked, and the pause between two looks: a program that this process
/// just starts has all of its locks until it is executed.
const LETTING_GO: (Duration, Duration) = (Duration::from_secs(3), Duration::from_millis(5));
/// How many bytes come between two reports.
const REPORT: u64 = 4 << 20;

/// The bytes of one pull, counted over all its layers.
pub(super) struct Meter<'a> {
    tell: Listener<'a>,
    bytes: AtomicU64,
    told: AtomicU64,
    of: u64,
}

impl<'a> Meter<'a> {
    pub(super) fn new(tell: Listener<'a>, of: u64) -> Self {
        Self { tell, bytes: AtomicU64::new(0), told: AtomicU64::new(0), of }
    }

    pub(super) fn add(&self, more: u64) {
        let bytes = self.bytes.fetch_add(more, Ordering::Relaxed) + more;
        let told = self.told.load(Ordering::Relaxed);
        if bytes >= self.of || bytes - told.min(bytes) >= REPORT {
            self.told.store(bytes, Ordering::Relaxed);
            (self.tell)(Progress::Fetched { bytes: bytes.min(self.of), of: self.of });
        }
    }
}

impl Inner {
    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs").join(digest.hex())
    }

    /// A small blob that is here; a damaged one is as good as none.
    pub(super) fn document(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        match fs::read(self.blob_path(digest)) {
            Ok(bytes) if Digest::of(&bytes) == *digest => Ok(Some(bytes)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).doing("read a blob"),
        }
    }

    pub(super) fn keep_document(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        let mut file = self.temporary()?;
        file.write_all(bytes).doing("write a blob")?;
        file.as_file().sync_all().doing("write a blob")?;
        file.persist(self.blob_path(digest)).map_err(|error| error.error).doing("name a blob").map(drop)
    }

    /// A layer of a registry, downloaded or here. Its bytes are checked again when they are unpacked.
    pub(super) fn blob(&self, at: Repository<'_>, layer: &Layer, cancel: &Cancel, meter: &Meter<'_>) -> Result<File> {
        let _turn = self.joins.turn(format!("blob {}", layer.digest), cancel)?;
        let path = self.blob_path(&layer.digest);
        if let Ok(file) = open_plain(&path) {
            meter.add(layer.size);
            return Ok(file);
        }
        let partial = self.dir.join("partial").join(layer.digest.hex());
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(&partial).doing("make a blob")?;
        let began = Instant::now();
        while let Err(error) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != Errno::WOULDBLOCK || began.elapsed() >= LETTING_GO.0 {
                return Err(error).doing("lock a download, which another process runs");
            }
            cancel.check()?;
            Self::wait(at, Instant::now() + LETTING_GO.0, async {
                tokio::time::sleep(LETTING_GO.1).await;
                Ok(())
            })?;
            // It may have come to its end meanwhile.
            if let Ok(whole) = open_plain(&path) {
                meter.add(layer.size);
                return Ok(whole);
            }
        }
        let mut hash = Sha256::new();
        let mut have = resume(&mut file, &mut hash, layer.size).doing("read the download that broke off")?;
        meter.add(have);
        let deadline = Instant::now() + DOWNLOAD;
        let mut pause = Duration::from_millis(500);
        for attempt in 1.. {
            let got = self.download(at, layer, &mut file, &mut hash, &mut have, cancel, deadline, meter);
            match got {
                Ok(()) => break,
                Err(ImageError::Registry { transient: true, .. }) if attempt < ATTEMPTS => {
                    tracing::warn!(registry = at.registry, digest = %layer.digest, have, attempt, "a download broke off; taking it up again");
                    Self::wait(at, deadline, async {
                        tokio::time::sleep(pause).await;
                        Ok(())
                    })?;
                    cancel.check()?;
                    pause = (pause * 2).min(Duration::from_secs(10));
                }
                // What came by now is kept, and taken up by the next pull.
                Err(error) => return Err(error),
            }
        }
        let found = Digest::finish(hash);
        if found != layer.digest {
            fs::remove_file(&partial).doing("remove a blob that is not what it should be")?;
            return Err(ImageError::Digest {
                what: "a layer that the registry sent".to_owned(),
                wanted: layer.digest,
                found,
            });
        }
        file.sync_all().doing("write a blob")?;
        fs::rename(&partial, &path).doing("name a blob")?;
        self.sync_folder("blobs")?;
        file.rewind().doing("read a blob")?;
        Ok(file)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the state of one download, which lives in the caller across attempts"
    )]
    fn download(
        &self,
        at: Repository<'_>,
        layer: &Layer,
        file: &mut File,
        hash: &mut Sha256,
        have: &mut u64,
        cancel: &Cancel,
        deadline: Instant,
        meter: &Meter<'_>,
    ) -> Result<()> {
        if *have == layer.size {
            return Ok(());
        }
        let (mut response, begins) = Self::wait(at, deadline, self.registries.blob(at, &layer.digest, *have))?;
        if begins != *have {
            file.set_len(0).doing("begin a blob anew")?;
            (*hash, *have) = (Sha256::new(), 0);
        }
        file.seek(SeekFrom::Start(*have)).doing("write a blob")?;
        loop {
            cancel.check()?;
            let piece = Self::wait(at, deadline, async {
                response.chunk().await.map_err(|error| ImageError::Registry {
                    registry: at.registry.to_owned(),
                    why: format!("a layer broke off: {}", error.without_url()),
                    transient: true,
                })
            })?;
            let Some(piece) = piece else { break };
            *have += piece.len() as u64;
            if *have > layer.size {
                file.set_len(0).doing("begin a blob anew")?;
                return Err(ImageError::Registry {
                    registry: at.registry.to_owned(),
                    why: format!("it sent more than the {} bytes that a layer has", layer.size),
                    transient: false,
                });
            }
            hash.update(&piece);
            file.write_all(&piece).doing("write a blob")?;
            meter.add(piece.len() as u64);
        }
        if *have == layer.size {
            return Ok(());
        }
        Err(ImageError::Registry {
            registry: at.registry.to_owned(),
            why: format!("it sent {have} of the {} bytes of a layer", layer.size),
            transient: true,
        })
    }

    pub(super) fn sync_folder(&self, name: &str) -> Result<()> {
        File::open(self.dir.join(name)).and_then(|folder| folder.sync_all()).doing("write a folder of the image store")
    }
}

/// Hashes what an earlier download left; one that has too much begins anew.
fn resume(file: &mut File, hash: &mut Sha256, size: u64) -> io::Result<u64> {
    let length = file.metadata()?.len();
    if length > size {
        file.set_len(0)?;
        return Ok(0);
    }
    file.rewind()?;
    let mut buffer = vec![0; 256 * 1024];
    let mut have = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(have);
        }
        hash.update(&buffer[..read]);
        have += read as u64;
    }
}
