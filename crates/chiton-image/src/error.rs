//! What can be wrong with an image or with getting one.

use std::io;

use chiton_model::Error;

use crate::Digest;

/// Shorthand.
pub type Result<T, E = ImageError> = std::result::Result<T, E>;

/// A failure of the image store.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The reference cannot be read, or names what this gateway does not take.
    #[error("image {reference:?}: {why}")]
    Reference {
        /// As it was given.
        reference: String,
        /// What is wrong.
        why: String,
        /// What to do.
        cure: String,
    },
    /// The operator does not allow it.
    #[error("image {reference:?} is not allowed here: {why}")]
    Refused {
        /// As it was given.
        reference: String,
        /// Which rule says so.
        why: String,
        /// What to do.
        cure: String,
    },
    /// There is no such image.
    #[error("image {reference:?} is not there: {why}")]
    Missing {
        /// As it was given.
        reference: String,
        /// What was looked for.
        why: String,
    },
    /// What came is not what its digest names.
    #[error("{what} has digest {found}, and {wanted} was asked for")]
    Digest {
        /// What was read.
        what: String,
        /// What it should be.
        wanted: Digest,
        /// What it is.
        found: Digest,
    },
    /// A manifest, a config or an index breaks its form.
    #[error("{what} cannot be read: {why}")]
    Form {
        /// Which document.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// The image's user is none that the sandbox has.
    #[error("the image's user {user:?} is {uid}:{gid}, and the sandbox has {}", ids_shown(*.ids))]
    Ids {
        /// As the image's config names it, printable.
        user: String,
        /// What that comes to.
        uid: u32,
        /// Its group.
        gid: u32,
        /// How many ids the sandbox has, from 0 up.
        ids: u32,
    },
    /// An entry of a layer that is not taken.
    #[error("layer entry {entry:?} is refused: {why}")]
    Entry {
        /// The entry's name, printable.
        entry: String,
        /// Why.
        why: String,
    },
    /// More than the operator allows.
    #[error("the image has more than the allowed {limit} {what}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A registry does not do as it was asked.
    #[error("registry {registry}: {why}")]
    Registry {
        /// Host and port.
        registry: String,
        /// What happened.
        why: String,
        /// Whether the same may work later.
        transient: bool,
    },
    /// A registry wants somebody else, or somebody at all.
    #[error("registry {registry} refuses access to {repository:?}")]
    Unauthorized {
        /// Host and port.
        registry: String,
        /// The repository.
        repository: String,
    },
    /// The image is in use and stays.
    #[error("image {image} is used by {by}")]
    InUse {
        /// Which.
        image: String,
        /// Who uses it.
        by: String,
    },
    /// Somebody ended the work.
    #[error("the work on the image was ended")]
    Cancelled,
    /// The machine.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// What the kernel said.
        source: io::Error,
    },
}

fn ids_shown(ids: u32) -> String {
    if ids <= 1 { "the id 0 alone".to_owned() } else { format!("the ids 0 to {}", ids - 1) }
}

/// Names what failed.
pub(crate) trait Doing<T> {
    fn doing(self, doing: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, doing: impl Into<String>) -> Result<T> {
        self.map_err(|error| from_io(doing.into(), error.into()))
    }
}

/// Readers of ours report their own conditions through [`io::Error`]; these come out as they went in.
pub(crate) fn from_io(doing: String, error: io::Error) -> ImageError {
    if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<ImageError>) {
        let inner = error.into_inner().and_then(|inner| inner.downcast::<ImageError>().ok());
        return inner.map_or(ImageError::Cancelled, |inner| *inner);
    }
    ImageError::Io { doing, source: error }
}

impl From<ImageError> for io::Error {
    fn from(error: ImageError) -> Self {
        io::Error::other(error)
    }
}

impl From<ImageError> for Error {
    fn from(error: ImageError) -> Self {
        let text = error.to_string();
        match error {
            ImageError::Reference { cure, .. } => Self::invalid("image", text).cure(cure),
            ImageError::Refused { cure, .. } => Self::refused("policy", text).cure(cure),
            ImageError::Missing { .. } => {
                Self::not_found(text).cure("check the name, and that it was pushed or saved there")
            }
            ImageError::Digest { .. } => Self::refused("driver", text)
                .cure("do not use this source: it serves other bytes than it names, or they were damaged on the way"),
            ImageError::Form { .. } => Self::refused("driver", text).cure("build the image anew with another tool"),
            // One id is what an ordinary user's gateway gives a sandbox with an image.
            ImageError::Ids { ids: 0..=1, .. } => Self::refused("driver", text)
                .cure("use an image that runs as root (\"USER 0\"), or run the gateway as root"),
            ImageError::Ids { .. } => {
                Self::refused("driver", text).cure("build the image with a user and a group among these")
            }
            ImageError::Entry { .. } => Self::refused("driver", text)
                .cure("build the image without this entry; docs/images.md lists what is taken"),
            ImageError::TooLarge { .. } => Self::refused("policy", text)
                .cure("use a smaller image, or let the operator raise the limit of the driver's images table"),
            ImageError::Registry { transient: true, registry, .. } => {
                Self::unavailable(registry, text).cure("try again; look at the network and at the registry's state")
            }
            ImageError::Registry { .. } => Self::refused("driver", text).cure("look at the registry's log"),
            ImageError::Unauthorized { .. } => Self::refused("registry", text).cure(
                "check the name; for a private image let the operator set username and password_file of this registry",
            ),
            ImageError::InUse { .. } => {
                Self::conflict(text).cure("delete these sandboxes first, or take the pin out of the config")
            }
            ImageError::Cancelled => Self::conflict(text),
            ImageError::Io { ref source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Self::exhausted("disk", text)
                    .cure("make room where the gateway keeps its data, for example with: chiton image prune")
            }
            ImageError::Io { .. } => Self::internal(text),
        }
    }
}
