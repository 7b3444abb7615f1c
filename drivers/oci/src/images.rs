//! The image store behind the driver contract.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chiton_driver::{CallError, CallResult, ImageEvent, ImageInfo, Images, Removed, transfer_in_words};
use chiton_image::{Cancel, Digest, Freed, ImageError, Pinned, Progress, Stored};
use chiton_model::{Error, SandboxId};
use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::host::Host;

/// Told of a pull, in words.
pub(crate) type Tell = Box<dyn Fn(String) + Send + Sync>;

/// How long a look at the store may take.
const LOOK: Duration = Duration::from_secs(30);

fn failed(error: ImageError) -> CallError {
    CallError::Failed(error.into())
}

/// Brings an image here and unpacks it. Ends with the future; what was fetched by then is kept and taken up again.
pub(crate) async fn ensure(host: Arc<Host>, image: Pinned, tell: Tell) -> CallResult<()> {
    let cancel = Cancel::default();
    let _ended = cancel.on_drop();
    let store = Arc::clone(&host);
    let work = tokio::task::spawn_blocking(move || {
        let said = move |progress| tell(in_words(&progress));
        store.images()?.ensure(&image, &cancel, &said).map_err(failed)
    });
    let pulled =
        work.await.map_err(|error| CallError::Failed(Error::internal(format!("pull the image: {error}"))))??;
    if pulled {
        // Room for what came is made of what nobody needs, when nobody waits for it.
        tokio::task::spawn_blocking(move || match host.prune_images(None) {
            Ok(freed) if !freed.images.is_empty() => {
                tracing::info!(images = freed.images.len(), bytes = freed.bytes, "removed images that nobody uses");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "images that nobody uses were not removed"),
        });
    }
    Ok(())
}

fn in_words(progress: &Progress) -> String {
    match progress {
        Progress::Fetched { bytes, of } => transfer_in_words("pulling", *bytes, *of),
        Progress::Unpacked { layers, of } => format!("unpacked {layers} of {of} layers of the image"),
    }
}

/// The store of one driver.
pub(crate) struct Store(pub(crate) Arc<Host>);

impl Store {
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Host) -> CallResult<T> + Send + 'static,
    ) -> CallResult<T> {
        let host = Arc::clone(&self.0);
        let task = tokio::task::spawn_blocking(move || work(&host));
        match tokio::time::timeout(LOOK, task).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(CallError::Unknown(Error::internal(format!("the image store: {error}")))),
            Err(_) => Err(CallError::Unknown(Error::deadline("the image store took too long"))),
        }
    }
}

/// Images with who uses them.
fn infos(host: &Host, stored: Vec<Stored>) -> CallResult<Vec<ImageInfo>> {
    let images = host.images()?;
    let mut uses: BTreeMap<Digest, Vec<SandboxId>> = BTreeMap::new();
    let all = host
        .image_uses()
        .map_err(|error| CallError::Failed(Error::internal(format!("read a sandbox's record: {error}"))))?;
    for used in all {
        let id = used.by.strip_prefix("sandbox ").and_then(|id| SandboxId::new(id).ok());
        uses.entry(used.digest).or_default().extend(id);
    }
    let info = |image: Stored| ImageInfo {
        pinned: images.is_pinned(&image),
        used_by: uses.get(&image.digest).cloned().unwrap_or_default(),
        digest: image.digest.to_string(),
        bytes: image.bytes,
        layers: u32::try_from(image.chains.len()).unwrap_or(u32::MAX),
        used_at: Timestamp::try_from(image.used).unwrap_or(Timestamp::UNIX_EPOCH),
        references: image.references,
    };
    Ok(stored.into_iter().map(info).collect())
}

fn removed(host: &Host, freed: Freed) -> CallResult<Removed> {
    Ok(Removed { bytes: freed.bytes, images: infos(host, freed.images)? })
}

#[async_trait]
impl Images for Store {
    async fn list(&self) -> CallResult<Vec<ImageInfo>> {
        self.blocking(|host| infos(host, host.images()?.list().map_err(failed)?)).await
    }

    fn pull(&self, reference: &str) -> BoxStream<'static, CallResult<ImageEvent>> {
        let (sender, receiver) = mpsc::channel(64);
        let (host, reference) = (Arc::clone(&self.0), reference.to_owned());
        tokio::spawn(async move {
            let told = sender.clone();
            // Words for people: a reader that is slow misses some.
            let tell: Tell = Box::new(move |text| drop(told.try_send(Ok(ImageEvent::Progress(text)))));
            tokio::select! {
                ended = pull(host, reference, tell) => drop(sender.send(ended.map(ImageEvent::Pulled)).await),
                () = sender.closed() => {}
            }
        });
        ReceiverStream::new(receiver).boxed()
    }

    async fn remove(&self, image: &str) -> CallResult<Removed> {
        let image = image.to_owned();
        self.blocking(move |host| {
            let freed = host.images()?.remove(&image, &|| host.image_uses()).map_err(failed)?;
            removed(host, freed)
        })
        .await
    }

    async fn prune(&self, older: Option<Duration>) -> CallResult<Removed> {
        self.blocking(move |host| removed(host, host.prune_images(older)?)).await
    }
}

async fn pull(host: Arc<Host>, reference: String, tell: Tell) -> CallResult<ImageInfo> {
    let store = Arc::clone(&host);
    let found = tokio::task::spawn_blocking(move || store.resolve_image(&reference)).await;
    let found = found.map_err(|error| CallError::Failed(Error::internal(format!("find the image: {error}"))))?;
    let (image, _) = found.map_err(CallError::Failed)?;
    let digest = image.digest;
    ensure(Arc::clone(&host), image, tell).await?;
    let info = tokio::task::spawn_blocking(move || {
        let images = host.images()?;
        // No sandbox is being made: what keeps it from here on are age, size and pins.
        images.release(&digest);
        let stored = images.list().map_err(failed)?.into_iter().filter(|image| image.digest == digest).collect();
        Ok(infos(&host, stored)?.pop())
    });
    let info =
        info.await.map_err(|error| CallError::Failed(Error::internal(format!("look at the image: {error}"))))??;
    info.ok_or_else(|| CallError::Failed(Error::conflict("the image was removed as soon as it was there")))
}
