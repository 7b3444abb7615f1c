//! Images that drivers keep.

use std::sync::Arc;
use std::time::Duration;

use chiton_client::to_status;
use chiton_driver::{CallError, CallResult, Deadlines, ImageEvent, ImageInfo, Images, Removed};
use chiton_model::{DriverId, Error, Principal};
use chiton_proto::v1 as wire;
use chiton_proto::v1::pull_image_event::Event;
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::BoxStream;
use tonic::Status;

use super::convert;
use super::drivers::failures;
use super::service::Api;

type Stores = Vec<(DriverId, Arc<dyn Images>)>;

/// Awaits a store for as long as its driver may take for such a call.
async fn within<T>(deadline: Duration, call: impl Future<Output = CallResult<T>>) -> Result<T, Error> {
    match tokio::time::timeout(deadline, call).await {
        Ok(answer) => answer.map_err(CallError::into_error),
        Err(_) => Err(Error::deadline(format!("it did not answer within {deadline:?}"))),
    }
}

impl Api {
    /// The stores of one driver, or of all.
    fn stores(&self, driver: &str) -> Result<Stores, Error> {
        let all = self.engine.drivers().map(|driver| (driver.capabilities().id.clone(), driver.images()));
        if driver.is_empty() {
            return Ok(all.filter_map(|(id, images)| images.map(|images| (id, images))).collect());
        }
        let mut named = all.filter(|(id, _)| id.as_str() == driver);
        match named.next() {
            Some((id, Some(images))) => Ok(vec![(id, images)]),
            Some((_, None)) => {
                Err(Error::unsupported(driver, "images", format!("driver {driver:?} keeps no images of its own"))
                    .cure("choose another driver"))
            }
            None => {
                let known: Vec<String> =
                    self.engine.drivers().map(|driver| driver.capabilities().id.to_string()).collect();
                Err(Error::invalid("driver", format!("driver {driver:?} is not configured on this gateway"))
                    .cure(format!("configured: {}", known.join(", "))))
            }
        }
    }

    fn deadlines(&self, id: &DriverId) -> Deadlines {
        let found = self.engine.drivers().find(|driver| driver.capabilities().id == *id);
        found.map(|driver| driver.deadlines()).unwrap_or_default()
    }

    /// The store of one driver; the default one when none is named.
    fn store_of(&self, driver: &str) -> Result<(DriverId, Arc<dyn Images>), Error> {
        let driver = if driver.is_empty() { self.engine.default_driver().as_str() } else { driver };
        self.stores(driver)?.pop().ok_or_else(|| Error::internal("a driver without images was found"))
    }

    pub(super) async fn list_images(
        &self,
        _: Principal,
        request: wire::ListImagesRequest,
    ) -> Result<wire::ListImagesResponse, Error> {
        let stores = self.stores(&request.driver)?;
        // All at once, and each for itself.
        let listed =
            stores.iter().map(|(id, store)| async move { (id, within(self.deadlines(id).look, store.list()).await) });
        let (mut images, mut failed) = (Vec::new(), Vec::new());
        for (id, answer) in join_all(listed).await {
            match answer {
                Ok(list) => images.extend(list.into_iter().map(|info| image(id, info))),
                Err(error) => failed.push((id.clone(), error)),
            }
        }
        Ok(wire::ListImagesResponse { images, failed: failures(failed) })
    }

    #[expect(clippy::unused_async, reason = "every method of the service is awaited")]
    pub(super) async fn pull_image(
        &self,
        _: Principal,
        request: wire::PullImageRequest,
    ) -> Result<BoxStream<'static, Result<wire::PullImageEvent, Status>>, Error> {
        let (id, store) = self.store_of(&request.driver)?;
        let events = store.pull(&request.reference).map(move |event| {
            let event = match event.map_err(|error| to_status(&error.into_error()))? {
                ImageEvent::Progress(text) => Event::Progress(text),
                ImageEvent::Pulled(info) => Event::Pulled(image(&id, info)),
            };
            Ok(wire::PullImageEvent { event: Some(event) })
        });
        Ok(events.boxed())
    }

    pub(super) async fn remove_image(
        &self,
        principal: Principal,
        request: wire::RemoveImageRequest,
    ) -> Result<wire::RemoveImagesResponse, Error> {
        operator(&principal)?;
        let (id, store) = self.store_of(&request.driver)?;
        let removed = store.remove(&request.image).await.map_err(CallError::into_error)?;
        Ok(answer(vec![(id, removed)], Vec::new()))
    }

    pub(super) async fn prune_images(
        &self,
        principal: Principal,
        request: wire::PruneImagesRequest,
    ) -> Result<wire::RemoveImagesResponse, Error> {
        operator(&principal)?;
        let (mut all, mut failed) = (Vec::new(), Vec::new());
        let older = request.older_seconds.map(Duration::from_secs);
        let stores = self.stores(&request.driver)?;
        let pruned = stores.into_iter().map(|(id, store)| async move {
            // Removing many layers takes as long as bringing them may.
            let removed = within(self.deadlines(&id).prepare, store.prune(older)).await;
            (id, removed)
        });
        for (id, answer) in join_all(pruned).await {
            match answer {
                Ok(removed) => all.push((id, removed)),
                Err(error) => failed.push((id, error)),
            }
        }
        Ok(answer(all, failed))
    }
}

/// Images are everybody's: who may take them away looks after the gateway.
fn operator(principal: &Principal) -> Result<(), Error> {
    let own = rustix::process::geteuid().as_raw();
    if [0, own].iter().any(|uid| principal.subject == format!("uid:{uid}")) {
        return Ok(());
    }
    Err(Error::refused("policy", "images are shared by all callers")
        .cure(format!("ask as root or as the gateway's own user (uid {own})")))
}

fn answer(all: Vec<(DriverId, Removed)>, failed: Vec<(DriverId, Error)>) -> wire::RemoveImagesResponse {
    let bytes = all.iter().map(|(_, removed)| removed.bytes).sum();
    let images = all
        .into_iter()
        .flat_map(|(id, removed)| removed.images.into_iter().map(move |info| image(&id, info)).collect::<Vec<_>>());
    wire::RemoveImagesResponse { images: images.collect(), bytes, failed: failures(failed) }
}

fn image(driver: &DriverId, info: ImageInfo) -> wire::Image {
    wire::Image {
        driver: driver.to_string(),
        references: info.references,
        digest: info.digest,
        bytes: info.bytes,
        layers: info.layers,
        used_at: Some(convert::time(info.used_at)),
        used_by: info.used_by.iter().map(ToString::to_string).collect(),
        pinned: info.pinned,
    }
}
