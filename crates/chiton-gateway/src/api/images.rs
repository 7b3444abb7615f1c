//! Images that drivers keep.

use std::sync::Arc;
use std::time::Duration;

use chiton_client::to_status;
use chiton_driver::{CallError, ImageEvent, ImageInfo, Images, Removed};
use chiton_model::{DriverId, Error, Principal};
use chiton_proto::v1 as wire;
use chiton_proto::v1::pull_image_event::Event;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tonic::Status;

use super::convert;
use super::service::Api;

type Stores = Vec<(DriverId, Arc<dyn Images>)>;

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
        let mut images = Vec::new();
        for (id, store) in self.stores(&request.driver)? {
            images.extend(store.list().await.map_err(CallError::into_error)?.into_iter().map(|info| image(&id, info)));
        }
        Ok(wire::ListImagesResponse { images })
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
        Ok(answer(vec![(id, removed)]))
    }

    pub(super) async fn prune_images(
        &self,
        principal: Principal,
        request: wire::PruneImagesRequest,
    ) -> Result<wire::RemoveImagesResponse, Error> {
        operator(&principal)?;
        let mut all = Vec::new();
        for (id, store) in self.stores(&request.driver)? {
            let older = request.older_seconds.map(Duration::from_secs);
            all.push((id, store.prune(older).await.map_err(CallError::into_error)?));
        }
        Ok(answer(all))
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

fn answer(all: Vec<(DriverId, Removed)>) -> wire::RemoveImagesResponse {
    let bytes = all.iter().map(|(_, removed)| removed.bytes).sum();
    let images = all
        .into_iter()
        .flat_map(|(id, removed)| removed.images.into_iter().map(move |info| image(&id, info)).collect::<Vec<_>>());
    wire::RemoveImagesResponse { images: images.collect(), bytes }
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
