//! From an image's name to an image of which every byte is fixed. Reads only.

use std::sync::Arc;
use std::time::Duration;

use bollard::models::ImageInspect;
use chiton_image::{ImageConfig, Reference};
use chiton_model::Error;

use super::name::{self, Name};
use super::{FILES, blocking};
use crate::client::{Answer, Failure};
use crate::engine::Engine;
use crate::options::PullPolicy;
use crate::plan::{Found, ImagePlan};

/// How long a registry may take to say what a name means.
const RESOLVE: Duration = Duration::from_secs(8);

impl Engine {
    /// What an image's name means now, by the operator's policy.
    pub(crate) async fn resolve(self: &Arc<Self>, asked: &str) -> Result<Found, Error> {
        self.resolve_by(asked, self.options.pull).await
    }

    /// The same by another policy.
    pub(super) async fn resolve_by(self: &Arc<Self>, asked: &str, policy: PullPolicy) -> Result<Found, Error> {
        let kind = self.options.dialect.kind();
        let reference = if asked.is_empty() { self.options.default_image.as_str() } else { asked };
        if reference.is_empty() {
            return Err(Error::invalid("image", "the request names no image, and this driver has no default").cure(
                format!("name one, or let the operator set default_image in [compute.driver.{}]", self.options.id),
            ));
        }
        let name = Name::read(kind, self.options.id.as_str(), reference)?;
        let absent = |more: &str| Error::not_found(format!("{kind} has no image {reference:?}{more}"));
        match (name, policy) {
            (Name::File, _) | (Name::Plain, PullPolicy::Always) => self.resolve_elsewhere(reference).await,
            // Ids mean the same for ever, and registries do not know them.
            (Name::Id, _) => match self.inspect_image(reference).await {
                Ok(found) => local(reference, &found, self.options.pull),
                Err(Failure::Absent(_)) => {
                    Err(absent(", and no registry knows ids").cure("name it, or load it into the engine"))
                }
                Err(failure) => Err(failure.error()),
            },
            (Name::Plain, PullPolicy::Missing | PullPolicy::Never) => {
                if let Some(found) = self.resolve_here(reference).await? {
                    return Ok(found);
                }
                if policy == PullPolicy::Never {
                    return Err(absent(", and pull is \"never\"").cure(
                        "load it into the engine, name a file (tar:PATH, oci:PATH), or let the operator set another pull",
                    ));
                }
                self.resolve_elsewhere(reference).await
            }
        }
    }

    /// An image that the engine has under this name, or that this driver brought under it.
    async fn resolve_here(self: &Arc<Self>, reference: &str) -> Result<Option<Found>, Error> {
        match self.inspect_image(reference).await {
            Ok(found) if name::is_part_of_id(reference, found.id.as_deref().unwrap_or_default()) => {}
            Ok(found) => return local(reference, &found, self.options.pull).map(Some),
            // A name that the engine cannot read may still be one that we can.
            Err(Failure::Absent(_) | Failure::Refused(_)) => {}
            Err(failure) => return Err(failure.error()),
        }
        // Images are pulled by digest, which gives them no tag: nobody else's names move.
        let record = {
            let (engine, reference) = (Arc::clone(self), reference.to_owned());
            blocking(move || {
                engine.images.brought.find(&reference).map_err(|source| chiton_image::ImageError::Io {
                    doing: "read what was brought to the engine".to_owned(),
                    source,
                })
            })
        };
        let Some(record) = record.await?.filter(|record| record.pin.contains('@')) else { return Ok(None) };
        match self.inspect_image(&record.pin).await {
            Ok(found) => {
                let mut found = local(reference, &found, self.options.pull)?;
                // Under this name it can be pulled again, should it go until it is used.
                found.image.pin = record.pin;
                Ok(Some(found))
            }
            Err(Failure::Absent(_)) => Ok(None),
            Err(failure) => Err(failure.error()),
        }
    }

    async fn resolve_elsewhere(self: &Arc<Self>, reference: &str) -> Result<Found, Error> {
        let (engine, asked, pull) = (Arc::clone(self), reference.to_owned(), self.options.pull);
        let found = blocking(move || {
            let (pinned, config) = engine.images.documents()?.resolve(&asked, RESOLVE)?;
            let (pin, file) = match &pinned.reference {
                Reference::Registry { registry, repository, .. } => {
                    (format!("{registry}/{repository}@{}", pinned.digest), None)
                }
                found @ (Reference::Layout { .. } | Reference::Archive { .. }) => {
                    (format!("{FILES}:{}", pinned.digest.hex()), Some(found.to_string()))
                }
            };
            Ok(Found { image: ImagePlan { reference: asked, pin, file, pull }, config })
        });
        found.await
    }

    pub(super) async fn inspect_image(&self, name: &str) -> Answer<ImageInspect> {
        let found = self.client.look("look at the image", |api| {
            let name = name.to_owned();
            async move { api.inspect_image(&name).await }
        });
        found.await
    }
}

/// An image that the engine has.
fn local(reference: &str, found: &ImageInspect, pull: PullPolicy) -> Result<Found, Error> {
    let Some(pin) = found.id.clone() else {
        return Err(Error::internal(format!("the engine does not say which image {reference:?} is")));
    };
    let config = found.config.clone().unwrap_or_default();
    let variables = config.env.unwrap_or_default();
    let env = variables.iter().map(|line| line.split_once('=').unwrap_or((line, "")));
    Ok(Found {
        image: ImagePlan { reference: reference.to_owned(), pin, file: None, pull },
        config: ImageConfig {
            user: config.user.unwrap_or_default(),
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            command: config.cmd.unwrap_or_default(),
            workdir: config.working_dir.unwrap_or_default(),
        },
    })
}
