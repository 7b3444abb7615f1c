//! An image is brought to the engine once, however many wait for it, and for as long as somebody does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard::models::ImageInspect;
use chiton_driver::{CallError, CallResult, DriverEvent};
use chiton_model::{Error, SandboxId};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::{load, pull};
use crate::client::Failure;
use crate::engine::Engine;
use crate::options::PullPolicy;
use crate::plan::ImagePlan;

/// The longest time that an image may take to come; sandboxes wait for a shorter one.
const WHOLE: Duration = Duration::from_hours(1);
/// After so long without news those who wait are told that it goes on.
const QUIET: Duration = Duration::from_secs(10);

/// What is known of an image on its way.
#[derive(Clone, Debug, Default)]
pub(super) struct Stage {
    /// In words.
    said: Option<String>,
    ended: Option<CallResult<()>>,
}

/// An image on its way. The last who lets go of it ends it.
pub(super) struct Work {
    stage: watch::Receiver<Stage>,
    task: AbortHandle,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where a bringer says how far it is.
#[derive(Clone)]
pub(super) struct Say(Arc<watch::Sender<Stage>>);

impl Say {
    pub(super) fn say(&self, text: String) {
        self.0.send_modify(|stage| stage.said = Some(text));
    }
}

impl Engine {
    /// Brings a plan's image to the engine, and keeps it there until the sandbox is made. It ends with the future.
    pub(crate) async fn ensure_image(self: &Arc<Self>, id: &SandboxId, image: &ImagePlan) -> CallResult<()> {
        let tell = |message: String| {
            // Nobody listening is fine.
            let _ = self.news.send(DriverEvent::Progress { id: id.clone(), message });
        };
        let found = self.bring_image(image, &tell, |found| {
            if let Some(image) = &found.id {
                self.images.lease(id, image);
            }
        });
        found.await.map(drop)
    }

    /// Brings an image to the engine. `found` is called while nothing can be removed.
    pub(super) async fn bring_image(
        self: &Arc<Self>,
        image: &ImagePlan,
        tell: &(dyn Fn(String) + Sync),
        found: impl Fn(&ImageInspect),
    ) -> CallResult<ImageInspect> {
        loop {
            {
                let _kept = self.images.gate.read().await;
                match self.inspect_image(&image.pin).await {
                    Ok(there) => {
                        found(&there);
                        self.remember_use(image);
                        return Ok(there);
                    }
                    Err(Failure::Absent(_)) => {}
                    Err(failure) => return Err(failure.into()),
                }
            }
            // Whoever removes an image between its coming and the look at it makes this go round once more.
            wait(&self.join(image), tell).await?;
        }
    }

    fn remember_use(&self, image: &ImagePlan) {
        if let Err(error) = self.images.brought.used(&image.pin, &image.reference) {
            tracing::warn!(%error, pin = image.pin, "that an image is used was not written down; a prune may come early");
        }
    }

    /// The work on this image: that which is under way, or a new one.
    fn join(self: &Arc<Self>, image: &ImagePlan) -> Arc<Work> {
        let mut works = self.images.works.lock();
        works.retain(|_, work| work.strong_count() > 0);
        let under_way = works.get(&image.pin).and_then(std::sync::Weak::upgrade);
        if let Some(work) = under_way.filter(|work| work.stage.borrow().ended.is_none()) {
            return work;
        }
        let (sender, stage) = watch::channel(Stage::default());
        let (engine, plan, sender) = (Arc::clone(self), image.clone(), Arc::new(sender));
        let task = tokio::spawn(async move {
            let say = Say(Arc::clone(&sender));
            let done = tokio::time::timeout(WHOLE, bring(&engine, &plan, &say)).await;
            let ended = done.unwrap_or_else(|_| {
                let text =
                    format!("the image {:?} did not come within {} minutes", plan.reference, WHOLE.as_secs() / 60);
                Err(CallError::Failed(
                    Error::deadline(text).cure("bring it to the engine by its own means, and try again"),
                ))
            });
            sender.send_modify(|stage| stage.ended = Some(ended));
        });
        let work = Arc::new(Work { stage, task: task.abort_handle() });
        works.insert(image.pin.clone(), Arc::downgrade(&work));
        work
    }
}

/// Waits for work, and passes on what it says.
async fn wait(work: &Work, tell: &(dyn Fn(String) + Sync)) -> CallResult<()> {
    let (begun, mut news) = (Instant::now(), work.stage.clone());
    let mut last = None;
    loop {
        let stage = news.borrow_and_update().clone();
        // Also of work that was over before anybody looked.
        if stage.said != last {
            last.clone_from(&stage.said);
            stage.said.into_iter().for_each(tell);
        }
        if let Some(ended) = stage.ended {
            return ended;
        }
        match tokio::time::timeout(QUIET, news.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                return Err(CallError::Failed(Error::internal("the work on an image ended without a word")));
            }
            Err(_) => {
                let text = last.as_deref().unwrap_or("waiting for the image");
                tell(format!("{text} ({} s)", begun.elapsed().as_secs()));
            }
        }
    }
}

async fn bring(engine: &Arc<Engine>, image: &ImagePlan, say: &Say) -> CallResult<()> {
    // It may have come between the look and this work.
    match engine.inspect_image(&image.pin).await {
        Ok(_) => return Ok(()),
        Err(Failure::Absent(_)) => {}
        Err(failure) => return Err(failure.into()),
    }
    let registry = image.pin.split_once('@').filter(|_| image.pull != PullPolicy::Never);
    if image.file.is_none() && registry.is_none() {
        let text = format!("the image {} of {:?} is no longer on the engine", image.pin, image.reference);
        return Err(CallError::NotRun(Error::not_found(text).cure("load it again, and create the sandbox anew")));
    }
    let begun = engine.images.brought.begin(&image.pin, &image.reference);
    begun.map_err(|error| {
        let text = format!("what is brought to the engine cannot be written down: {error}");
        CallError::NotRun(Error::unavailable("driver", text).cure("make room where the gateway keeps its data"))
    })?;
    match (&image.file, registry) {
        (Some(file), _) => load::load(engine, &image.pin, file, say).await,
        (None, Some((name, digest))) => pull::pull(engine, name, digest, say).await,
        (None, None) => Ok(()),
    }
}
