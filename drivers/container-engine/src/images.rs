//! From an image's name to an image on the engine.

use std::time::{Duration, Instant as Clock};

use bollard::auth::DockerCredentials;
use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::CreateImageOptionsBuilder;
use chiton_driver::{CallError, CallResult, DriverEvent};
use chiton_image::{ImageConfig, ImageError, Reference};
use chiton_model::{Error, SandboxId, printable};
use futures::StreamExt;

use crate::client::{Answer, Failure};
use crate::engine::Engine;
use crate::options::PullPolicy;
use crate::plan::{Found, ImagePlan};

/// How long a registry may take to say what a name means.
const RESOLVE: Duration = Duration::from_secs(8);
/// How often progress is told.
const TELL: Duration = Duration::from_millis(250);

impl Engine {
    /// What an image's name means now. Reads only.
    pub(crate) async fn resolve(&self, asked: &str) -> Result<Found, Error> {
        let kind = self.options.dialect.kind();
        let reference = if asked.is_empty() { self.options.default_image.as_str() } else { asked };
        if reference.is_empty() {
            return Err(Error::invalid("image", "the request names no image, and this driver has no default").cure(
                format!("name one, or let the operator set default_image in [compute.driver.{}]", self.options.id),
            ));
        }
        if reference == "host" || reference.starts_with("dir:") {
            return Err(Error::unsupported(
                self.options.id.as_str(),
                "image",
                format!("{kind} runs images, and {reference:?} is none"),
            )
            .cure("name an image of the engine, a registry, oci:PATH or tar:PATH; or use the oci driver"));
        }
        let file = reference.starts_with("oci:") || reference.starts_with("tar:");
        if !file && self.options.pull != PullPolicy::Always {
            match self.inspect_image(reference).await {
                Ok(found) => return local(reference, &found, self.options.pull),
                // A name that the engine cannot read may still be one that we can.
                Err(Failure::Absent(_) | Failure::Refused(_)) => {}
                Err(failure) => return Err(failure.error()),
            }
            if self.options.pull == PullPolicy::Never {
                return Err(Error::not_found(format!("{kind} has no image {reference:?}, and pull is \"never\"")).cure(
                    "load it into the engine, name a file (tar:PATH, oci:PATH), or let the operator set another pull",
                ));
            }
        }
        self.resolve_elsewhere(reference).await
    }

    async fn resolve_elsewhere(&self, reference: &str) -> Result<Found, Error> {
        let (folder, policy) = (self.options.state_dir.join("images"), self.options.images.clone());
        let (asked, pull) = (reference.to_owned(), self.options.pull);
        let work = tokio::task::spawn_blocking(move || -> Result<Found, ImageError> {
            let (pinned, config) = chiton_image::Images::open(&folder, policy)?.resolve(&asked, RESOLVE)?;
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
        let found = work.await.map_err(|error| Error::internal(format!("resolve the image: {error}")))?;
        found.map_err(Error::from)
    }

    async fn inspect_image(&self, name: &str) -> Answer<ImageInspect> {
        let found = self.client.look("look at the image", |api| {
            let name = name.to_owned();
            async move { api.inspect_image(&name).await }
        });
        found.await
    }

    /// Brings a plan's image to the engine. It ends with the future; the engine may go on with what it began.
    pub(crate) async fn ensure_image(&self, id: &SandboxId, image: &ImagePlan) -> CallResult<()> {
        match self.inspect_image(&image.pin).await {
            Ok(_) => return Ok(()),
            Err(Failure::Absent(_)) => {}
            Err(failure) => return Err(failure.into()),
        }
        let tell = |message: String| {
            // Nobody listening is fine.
            let _ = self.news.send(DriverEvent::Progress { id: id.clone(), message });
        };
        if let Some(file) = &image.file {
            return Err(CallError::NotRun(Error::unsupported(
                self.options.id.as_str(),
                "image",
                format!("{file} cannot be loaded"),
            )));
        }
        let Some((name, digest)) = image.pin.split_once('@').filter(|_| image.pull != PullPolicy::Never) else {
            let text = format!("the image {} of {:?} is no longer on the engine", image.pin, image.reference);
            return Err(CallError::NotRun(Error::not_found(text).cure("load it again, and create the sandbox anew")));
        };
        self.pull(name, digest, &tell).await
    }

    async fn pull(&self, name: &str, digest: &str, tell: &(dyn Fn(String) + Sync)) -> CallResult<()> {
        let credentials = self.credentials(name)?;
        let options = CreateImageOptionsBuilder::new().from_image(name).tag(digest).build();
        let api = self.client.api().await?;
        let mut news = std::pin::pin!(api.create_image(Some(options), None, credentials));
        let mut progress = Progress::default();
        tell(format!("pulling the image {name}"));
        while let Some(piece) = news.next().await {
            let piece = piece.map_err(|error| pulled(name, self.client.failure("pull the image", error)))?;
            if let Some(message) = piece.error_detail.as_ref().and_then(|detail| detail.message.clone()) {
                let text = format!("the image {name} cannot be pulled: {}", printable(&message));
                return Err(CallError::Failed(Error::unavailable("registry", text)));
            }
            if let Some(text) = progress.told(&piece) {
                tell(text);
            }
        }
        // What the engine has now is what counts.
        self.inspect_image(&format!("{name}@{digest}")).await.map(drop).map_err(CallError::from)
    }

    fn credentials(&self, name: &str) -> CallResult<Option<DockerCredentials>> {
        let registry = name.split('/').next().unwrap_or_default();
        let Some(login) = self.options.images.credentials.get(registry) else { return Ok(None) };
        let password = std::fs::read_to_string(&login.password_file).map_err(|error| {
            let text =
                format!("the password of {registry} in {} cannot be read: {error}", login.password_file.display());
            CallError::NotRun(Error::unavailable("registry", text).cure("put it there, readable by the gateway"))
        })?;
        Ok(Some(DockerCredentials {
            username: Some(login.username.clone()),
            password: Some(password.trim_end_matches(['\r', '\n']).to_owned()),
            serveraddress: Some(registry.to_owned()),
            ..DockerCredentials::default()
        }))
    }
}

/// The name that images of files get on the engine; the tag is their digest.
const FILES: &str = "chiton.local/image";

fn pulled(name: &str, failure: Failure) -> CallError {
    // Nothing of a pull has to be undone.
    CallError::Failed(
        failure.error().cure(format!("look whether the engine's machine can reach the registry of {name}")),
    )
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

/// Bytes of layers, summed up from the engine's lines about each.
#[derive(Default)]
struct Progress {
    layers: std::collections::BTreeMap<String, (i64, i64)>,
    told: Option<Clock>,
}

impl Progress {
    fn told(&mut self, piece: &CreateImageInfo) -> Option<String> {
        let (layer, detail) = (piece.id.as_ref()?, piece.progress_detail.as_ref()?);
        if piece.status.as_deref() != Some("Downloading") {
            return None;
        }
        self.layers.insert(layer.clone(), (detail.current?, detail.total?));
        if self.told.is_some_and(|told| told.elapsed() < TELL) {
            return None;
        }
        self.told = Some(Clock::now());
        let (bytes, of) = self.layers.values().fold((0, 0), |(bytes, of), layer| (bytes + layer.0, of + layer.1));
        Some(format!("pulling the image: {} of {} MB", bytes / 1_000_000, of / 1_000_000))
    }
}
