//! A driver's store of images, as operators look after it.

use std::time::Duration;

use async_trait::async_trait;
use chiton_model::SandboxId;
use futures::stream::BoxStream;
use jiff::Timestamp;

use crate::CallResult;

/// An image that is here whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// The names that it was pulled by. They may mean another image by now.
    pub references: Vec<String>,
    /// `sha256:…`.
    pub digest: String,
    /// Bytes on disk. Layers that images share count in each.
    pub bytes: u64,
    /// How many layers.
    pub layers: u32,
    /// When it was pulled, or used for a sandbox, last.
    pub used_at: Timestamp,
    /// Sandboxes that are made of it.
    pub used_by: Vec<SandboxId>,
    /// Whether the operator's config keeps it.
    pub pinned: bool,
}

/// How far an image on its way is, for people: `pulling the image: 12.0 of 80.5 MB`.
pub fn transfer_in_words(doing: &str, bytes: u64, of: u64) -> String {
    let megabytes = |bytes: u64| format!("{}.{}", bytes / 1_000_000, bytes / 100_000 % 10);
    format!("{doing} the image: {} of {} MB", megabytes(bytes), megabytes(of))
}

/// News of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageEvent {
    /// What is being done, for people.
    Progress(String),
    /// The image is here; sent once, last.
    Pulled(ImageInfo),
}

/// What a removal removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Images.
    pub images: Vec<ImageInfo>,
    /// Bytes on disk that are free again: those of layers that no other image has.
    pub bytes: u64,
}

/// A driver's images.
#[async_trait]
pub trait Images: Send + Sync {
    /// All that are here whole, by name.
    async fn list(&self) -> CallResult<Vec<ImageInfo>>;

    /// Brings an image here. Ends when the stream is dropped.
    fn pull(&self, reference: &str) -> BoxStream<'static, CallResult<ImageEvent>>;

    /// Removes the image of this name or digest. Refused while a sandbox needs it or the operator pinned it.
    async fn remove(&self, image: &str) -> CallResult<Removed>;

    /// Removes images that nobody needs and that were not used for so long; without an age, by the operator's limits.
    async fn prune(&self, older: Option<Duration>) -> CallResult<Removed>;
}
