//! The engine's images, as operators look after them.
//!
//! They are shown all, for who asks what a sandbox can be made of; and removed without being named only those that this
//! driver brought. An image that anybody's container uses stays, whatever is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bollard::models::{ContainerSummary, ImageInspect, ImageSummary};
use bollard::query_parameters::{ListImagesOptionsBuilder, RemoveImageOptionsBuilder};
use chiton_driver::{CallError, CallResult, ImageEvent, ImageInfo, Images, Removed};
use chiton_model::{Error, SandboxId};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::brought::Kept;
use super::name::{Name, is_part_of_id};
use super::{FILES, blocking};
use crate::client::{ACT, Answer, Failure};
use crate::engine::Engine;
use crate::observe::Owner;
use crate::options::PullPolicy;
use crate::plan::ImagePlan;

/// How many images are looked at at a time.
const LOOKS: usize = 16;

/// The engine's images.
pub(crate) struct Store(pub(crate) Arc<Engine>);

/// One image, looked at.
struct Seen {
    info: ImageInfo,
    /// Contents of its layers.
    layers: Vec<String>,
}

/// Who has a container of an image.
#[derive(Default)]
struct Users {
    ours: Vec<SandboxId>,
    others: Vec<String>,
}

impl Engine {
    async fn containers(&self) -> Answer<Vec<ContainerSummary>> {
        self.client.list_containers("list the containers", None).await
    }

    /// Who uses which image, by its id.
    async fn users(&self) -> Answer<BTreeMap<String, Users>> {
        let mut users: BTreeMap<String, Users> = BTreeMap::new();
        for container in self.containers().await? {
            let Some(image) = container.image_id else { continue };
            let users = users.entry(whole_id(&image)).or_default();
            let owner = container.labels.as_ref().and_then(Owner::read);
            if let Some(owner) = owner.filter(|owner| owner.gateway == self.options.gateway) {
                users.ours.push(owner.sandbox);
            } else {
                let name = container.names.into_iter().flatten().next().or(container.id).unwrap_or_default();
                users.others.push(name.trim_start_matches('/').to_owned());
            }
        }
        Ok(users)
    }

    async fn records(self: &Arc<Self>) -> CallResult<Vec<Kept>> {
        let engine = Arc::clone(self);
        let read = blocking(move || {
            engine.images.brought.list().map_err(|source| chiton_image::ImageError::Io {
                doing: "read what was brought to the engine".to_owned(),
                source,
            })
        });
        read.await.map_err(CallError::Failed)
    }

    fn forget_image(&self, pin: &str) {
        if let Err(error) = self.images.brought.forget(pin) {
            tracing::warn!(%error, pin, "the record of a removed image stays; the next prune removes it");
        }
    }

    async fn seen(self: &Arc<Self>) -> CallResult<Vec<Seen>> {
        let options = ListImagesOptionsBuilder::new().digests(true).build();
        let listed = self.client.look("list the images", |api| {
            let options = options.clone();
            async move { api.list_images(Some(options)).await }
        });
        let (mut users, records) = (self.users().await?, self.records().await?);
        let by_id: BTreeMap<String, ImageSummary> =
            listed.await?.into_iter().map(|image| (whole_id(&image.id), image)).collect();
        let looks = futures::stream::iter(by_id).map(|(id, summary)| async move {
            match self.inspect_image(&id).await {
                Ok(found) => Ok(Some((id, summary, found))),
                // Somebody removed it meanwhile.
                Err(Failure::Absent(_)) => Ok(None),
                Err(failure) => Err(CallError::from(failure)),
            }
        });
        let found: Vec<_> =
            looks.buffered(LOOKS).try_filter_map(|found| std::future::ready(Ok(found))).try_collect().await?;
        let mut seen: Vec<Seen> = found
            .into_iter()
            .map(|(id, summary, inspected)| {
                let used_by = users.remove(&id).map(|users| users.ours).unwrap_or_default();
                self.look_at(id, &summary, inspected, used_by, &records)
            })
            .collect();
        seen.sort_by(|one, other| {
            (&one.info.references, &one.info.digest).cmp(&(&other.info.references, &other.info.digest))
        });
        Ok(seen)
    }

    fn look_at(
        &self,
        id: String,
        summary: &ImageSummary,
        inspected: ImageInspect,
        used_by: Vec<SandboxId>,
        records: &[Kept],
    ) -> Seen {
        let mut references = names(&summary.repo_tags);
        let digests = names(&summary.repo_digests);
        if references.is_empty() {
            references.clone_from(&digests);
        }
        let engine_names: BTreeSet<String> = references.iter().chain(&digests).cloned().collect();
        let mut used = None;
        for kept in records.iter().filter(|kept| engine_names.contains(&kept.record.pin)) {
            references.push(kept.record.pin.clone());
            references.extend(kept.record.names.iter().cloned());
            used = used.max(Some(kept.used));
        }
        let tagged = inspected.metadata.and_then(|metadata| metadata.last_tag_time);
        let tagged = tagged.and_then(|time| time.parse::<Timestamp>().ok());
        let used_at = used
            .and_then(|used| Timestamp::try_from(used).ok())
            .or(tagged.filter(|time| *time > Timestamp::UNIX_EPOCH))
            .or_else(|| Timestamp::from_second(summary.created).ok())
            .unwrap_or(Timestamp::UNIX_EPOCH);
        let layers = inspected.root_fs.and_then(|root| root.layers).unwrap_or_default();
        references.sort();
        references.dedup();
        let pinned = self.is_pinned(&id, &references);
        let info = ImageInfo {
            references,
            digest: id,
            bytes: u64::try_from(summary.size).unwrap_or(0),
            layers: u32::try_from(layers.len()).unwrap_or(u32::MAX),
            used_at,
            used_by,
            pinned,
        };
        Seen { info, layers }
    }

    /// The operator's config names it: sandboxes that name no image are made of it.
    fn is_pinned(&self, id: &str, references: &[String]) -> bool {
        let default = &self.options.default_image;
        let pinned = &self.options.images.pinned;
        pinned.contains(id) || references.iter().any(|name| pinned.contains(name) || name == default) || id == default
    }

    /// Takes a name from an image, and the image when it was the last; whether the image went.
    async fn remove_name(&self, name: &str) -> Answer<bool> {
        let options = RemoveImageOptionsBuilder::new().force(false).noprune(false).build();
        let (deadline, name) = (Instant::now() + ACT, name.to_owned());
        let removed = self
            .client
            .act("remove the image", deadline, |api| async move { api.remove_image(&name, Some(options), None).await });
        Ok(removed.await?.iter().any(|step| step.deleted.is_some()))
    }

    /// Why an image stays, if it does.
    fn kept_for(&self, image: &ImageInfo, users: &Users) -> Option<String> {
        if let Some(id) = self.images.leased(&image.digest) {
            return Some(format!("sandbox {id}, which is being made"));
        }
        let all: Vec<String> = users.ours.iter().map(|id| format!("sandbox {id}")).collect();
        let all: Vec<String> =
            all.into_iter().chain(users.others.iter().map(|name| format!("container {name}"))).collect();
        match all.as_slice() {
            [] => image.pinned.then(|| "the operator's config".to_owned()),
            [one] => Some(one.clone()),
            [one, rest @ ..] => Some(format!("{one} and {} more", rest.len())),
        }
    }

    /// The name or id that the engine knows an image by which an operator names.
    async fn named(self: &Arc<Self>, image: &str) -> CallResult<(String, ImageInspect)> {
        let kind = self.options.dialect.kind();
        if Name::read(kind, self.options.id.as_str(), image).map_err(CallError::NotRun)? != Name::File {
            match self.inspect_image(image).await {
                Ok(found)
                    if image.starts_with("sha256:")
                        || !is_part_of_id(image, found.id.as_deref().unwrap_or_default()) =>
                {
                    return Ok((image.to_owned(), found));
                }
                Ok(_) | Err(Failure::Absent(_) | Failure::Refused(_)) => {}
                Err(failure) => return Err(failure.into()),
            }
        }
        for kept in self.records().await?.into_iter().rev().filter(|kept| kept.record.names.contains(image)) {
            match self.inspect_image(&kept.record.pin).await {
                Ok(found) => return Ok((kept.record.pin, found)),
                Err(Failure::Absent(_)) => {}
                Err(failure) => return Err(failure.into()),
            }
        }
        let error = Error::not_found(format!("{kind} has no image {image:?}"));
        Err(CallError::NotRun(error.cure("name one that chiton image list shows, or its digest whole")))
    }

    async fn remove_image(self: &Arc<Self>, image: &str) -> CallResult<Removed> {
        let _alone = self.images.gate.write().await;
        let (name, found) = self.named(image).await?;
        let id = found.id.unwrap_or_default();
        let all = self.seen().await?;
        let gone = || CallError::NotRun(Error::not_found(format!("the image {image:?} was removed meanwhile")));
        let seen = all.iter().find(|seen| seen.info.digest == id).ok_or_else(gone)?;
        let users = self.users().await?.remove(&id).unwrap_or_default();
        if let Some(by) = self.kept_for(&seen.info, &users) {
            let text = format!("image {image:?} is used by {by}");
            return Err(CallError::NotRun(
                Error::conflict(text).cure("delete what uses it first, or name another default_image in the config"),
            ));
        }
        let deleted = self.remove_name(&name).await?;
        for kept in self.records().await? {
            if kept.record.pin == name || (deleted && (seen.info.references.contains(&kept.record.pin))) {
                self.forget_image(&kept.record.pin);
            }
        }
        Ok(Removed { bytes: if deleted { freed(seen, &all) } else { 0 }, images: vec![seen.info.clone()] })
    }

    /// Removes what this driver brought, nobody uses, and is old or too much.
    async fn prune_images(self: &Arc<Self>, older: Option<Duration>) -> CallResult<Removed> {
        let policy = &self.options.images;
        let (age, room) = older.map_or((policy.keep, policy.keep_bytes), |older| (older, u64::MAX));
        let mut removed = Removed::default();
        self.adopt().await?;
        let (now, mut kept_bytes) = (SystemTime::now(), 0_u64);
        // Those used last stay where there is room.
        for kept in self.records().await?.into_iter().rev() {
            let _alone = self.images.gate.write().await;
            let pin = &kept.record.pin;
            let all = self.seen().await?;
            let Some(seen) = all.iter().find(|seen| seen.info.references.contains(pin)) else {
                // Not there any more, unless it is on its way.
                if self.images.works.lock().get(pin).is_none_or(|work| work.strong_count() == 0) {
                    self.forget_image(pin);
                }
                continue;
            };
            let users = self.users().await?.remove(&seen.info.digest).unwrap_or_default();
            if self.kept_for(&seen.info, &users).is_some() {
                continue;
            }
            let idle = now.duration_since(kept.used).unwrap_or_default();
            if idle < age && kept_bytes.saturating_add(seen.info.bytes) <= room {
                kept_bytes += seen.info.bytes;
                continue;
            }
            match self.remove_name(pin).await {
                Ok(deleted) => {
                    self.forget_image(pin);
                    if deleted {
                        removed.bytes += freed(seen, &all);
                        removed.images.push(seen.info.clone());
                    }
                }
                // Somebody uses it by now, or took it away.
                Err(Failure::Conflict(error) | Failure::Absent(error)) => {
                    tracing::debug!(%error, pin, "an image is not removed");
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        self.prune_documents().await?;
        Ok(removed)
    }

    /// Images under our own name that no record tells of: an earlier state folder's, or another gateway's, which may need
    /// them. They are counted as used now, and go when they are not used for as long as the operator keeps images.
    async fn adopt(self: &Arc<Self>) -> CallResult<()> {
        let records = self.records().await?;
        for seen in self.seen().await? {
            let ours = |name: &&String| name.starts_with(&format!("{FILES}:"));
            for pin in seen.info.references.iter().filter(ours) {
                if !records.iter().any(|kept| kept.record.pin == *pin)
                    && let Err(error) = self.images.brought.begin(pin, pin)
                {
                    tracing::warn!(%error, pin, "an image was not written down");
                }
            }
        }
        Ok(())
    }

    async fn prune_documents(self: &Arc<Self>) -> CallResult<()> {
        let engine = Arc::clone(self);
        let work = blocking(move || {
            let images = engine.images.documents()?;
            images.prune(Duration::ZERO, 0, &|| Ok(Vec::new())).map(drop)
        });
        work.await.map_err(CallError::Failed)
    }

    async fn pull_image(self: &Arc<Self>, reference: &str, tell: &(dyn Fn(String) + Sync)) -> CallResult<ImageInfo> {
        // Who pulls wants what the name means now.
        let policy = if self.options.pull == PullPolicy::Never { PullPolicy::Never } else { PullPolicy::Always };
        let found = self.resolve_by(reference, policy).await.map_err(CallError::NotRun)?;
        let image = ImagePlan { pull: policy, ..found.image };
        let there = self.bring_image(&image, tell, |_| ()).await?;
        let id = there.id.unwrap_or_default();
        let seen = self.seen().await?.into_iter().find(|seen| seen.info.digest == id);
        let gone = || CallError::Failed(Error::conflict("the image was removed as soon as it was there"));
        seen.map(|seen| seen.info).ok_or_else(gone)
    }
}

/// Podman's lists have ids without their algorithm.
fn whole_id(id: &str) -> String {
    if id.starts_with("sha256:") { id.to_owned() } else { format!("sha256:{id}") }
}

fn names(all: &[String]) -> Vec<String> {
    all.iter().filter(|name| !name.contains("<none>")).cloned().collect()
}

/// How many bytes certainly go with an image. What it shares with others stays, and engines do not say how much that is
/// but where another image is its beginning.
fn freed(image: &Seen, all: &[Seen]) -> u64 {
    let mut shared: BTreeSet<(usize, u64)> = BTreeSet::new();
    for other in all.iter().filter(|other| other.info.digest != image.info.digest) {
        let same = image.layers.iter().zip(&other.layers).take_while(|(one, two)| one == two).count();
        let bytes = if same == other.layers.len() { other.info.bytes } else { image.info.bytes };
        shared.insert((same, bytes));
    }
    match shared.last() {
        Some((same, _)) if *same == 0 => image.info.bytes,
        Some((_, bytes)) => image.info.bytes.saturating_sub(*bytes),
        None => image.info.bytes,
    }
}

#[async_trait]
impl Images for Store {
    async fn list(&self) -> CallResult<Vec<ImageInfo>> {
        Ok(self.0.seen().await?.into_iter().map(|seen| seen.info).collect())
    }

    fn pull(&self, reference: &str) -> BoxStream<'static, CallResult<ImageEvent>> {
        let (sender, receiver) = mpsc::channel(64);
        let (engine, reference) = (Arc::clone(&self.0), reference.to_owned());
        tokio::spawn(async move {
            let told = sender.clone();
            // Words for people: a reader that is slow misses some.
            let tell = move |text| drop(told.try_send(Ok(ImageEvent::Progress(text))));
            tokio::select! {
                ended = engine.pull_image(&reference, &tell) => drop(sender.send(ended.map(ImageEvent::Pulled)).await),
                () = sender.closed() => {}
            }
        });
        ReceiverStream::new(receiver).boxed()
    }

    async fn remove(&self, image: &str) -> CallResult<Removed> {
        self.0.remove_image(image).await
    }

    async fn prune(&self, older: Option<Duration>) -> CallResult<Removed> {
        self.0.prune_images(older).await
    }
}
