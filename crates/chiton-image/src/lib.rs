//! Container images: how they are named, where they come from, and a store of their unpacked layers.
//!
//! An image is resolved first ([`Images::resolve`]: what does this name mean now, every byte by digest), then brought
//! here ([`Images::ensure`]: fetched, checked, unpacked once), then handed to a sandbox ([`Images::adopt`]). What no
//! sandbox uses and no operator pinned is removed by age and size. All that is read is hostile until its digest was
//! checked, and a layer's archive also afterwards.
//!
//! The calls block: they belong on threads that may.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod cancel;
mod digest;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod join;
mod manifest;
mod policy;
mod reference;
mod source;
mod store;
mod unpack;
mod user;

pub use cancel::{Cancel, CancelOnDrop};
pub use digest::{Digest, NotADigest};
pub use error::{ImageError, Result};
pub use manifest::ImageConfig;
pub use policy::{Credential, Policy};
pub use reference::{Reference, is_authority as is_registry};
pub use store::{Freed, Images, Layer, Listener, Pinned, Progress, Stored, Use, Uses};
pub use unpack::{Limits, Owner};
pub use user::{User, resolve_user};
