//! The image store, as sandboxes use it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use chiton_driver::{CallError, CallResult};
use chiton_image::{Freed, ImageConfig, ImageError, Images, Owner, Pinned, Policy, Use, User, resolve_user};
use chiton_model::Error;

use super::Host;
use crate::plan::OciPlan;
use crate::record::{self, ImageUse, Paths, Record};

/// How long a source may take to say what a name means: a little less than the engine waits for a plan.
const RESOLVE: Duration = Duration::from_secs(8);

/// What a plan's image comes to on this machine.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    /// Folders of layers, the lowest first.
    pub(crate) layers: Vec<PathBuf>,
    /// Who the programs run as; none means root.
    pub(crate) user: Option<User>,
}

/// An error of the image store that came before the call did anything.
fn not_run(error: ImageError) -> CallError {
    CallError::NotRun(error.into())
}

impl Host {
    /// The image store.
    pub(crate) fn images(&self) -> CallResult<Images> {
        self.ready()?;
        let mut images = self.images.lock();
        if let Some(images) = &*images {
            return Ok(images.clone());
        }
        // Only root can give files away.
        let owner = if rustix::process::geteuid().is_root() { Owner::Keep } else { Owner::Single };
        let policy = Policy { roots: self.options.dir_roots.clone(), owner, ..self.options.images.clone() };
        let opened = Images::open(&self.options.state_dir.join("images"), policy).map_err(not_run)?;
        *images = Some(opened.clone());
        Ok(opened)
    }

    /// What a name means now.
    pub(crate) fn resolve_image(&self, reference: &str) -> Result<(Pinned, ImageConfig), Error> {
        let images = self.images().map_err(CallError::into_error)?;
        images.resolve(reference, RESOLVE).map_err(|error| {
            let mut error = Error::from(error);
            // A registry's error is about the registry; the request named an image.
            if !error.message.contains(reference) {
                error.message = format!("image {reference:?}: {}", error.message);
            }
            error
        })
    }

    /// Hands the plan's image over to the sandbox that `record` makes known.
    pub(super) fn adopt_image(
        &self,
        used: Option<&ImageUse>,
        record: impl FnOnce() -> CallResult<()>,
    ) -> CallResult<()> {
        let Some(used) = used else { return record() };
        let mut kept = Ok(());
        let adopted = self.images()?.adopt(&used.digest, &used.chains, || {
            kept = record();
            // An error here keeps the lease, as it should.
            if kept.is_ok() { Ok(()) } else { Err(ImageError::Cancelled) }
        });
        kept.and_then(|()| adopted.map_err(not_run))
    }

    /// The unpacked layers of a plan's image, and its user among so many ids.
    pub(super) fn unpacked(&self, plan: &OciPlan, ids: u32) -> CallResult<Unpacked> {
        let Some(need) = image_use(plan)? else { return Ok(Unpacked::default()) };
        let images = self.images()?;
        let layers = images.layers(&need.chains).map_err(not_run)?;
        let user = resolve_user(&plan.image.user, &layers, images.policy().owner, ids).map_err(not_run)?;
        Ok(Unpacked { layers, user: Some(user) })
    }

    /// Which images sandboxes need, by their records. One that cannot be read ends the question.
    pub(crate) fn image_uses(&self) -> io::Result<Vec<Use>> {
        let mut uses = Vec::new();
        for id in record::ids(&self.options)? {
            let record = Record::load(&Paths::new(&self.options, &id).dir)?;
            if let Some(ImageUse { digest, chains }) = record.and_then(|record| record.image) {
                uses.push(Use { by: format!("sandbox {id}"), digest, chains });
            }
        }
        Ok(uses)
    }

    /// Removes what the operator's limits do not let stay.
    pub(crate) fn prune_images(&self, older: Option<Duration>) -> CallResult<Freed> {
        let images = self.images()?;
        let (age, bytes) = match older {
            Some(older) => (older, u64::MAX),
            None => (images.policy().keep, images.policy().keep_bytes),
        };
        images.prune(age, bytes, &|| self.image_uses()).map_err(|error| CallError::Failed(error.into()))
    }
}

/// What a sandbox of this plan needs of the image store.
pub(super) fn image_use(plan: &OciPlan) -> CallResult<Option<ImageUse>> {
    let pinned = plan.image.pinned().map_err(CallError::NotRun)?;
    Ok(pinned.map(|pinned| ImageUse { digest: pinned.digest, chains: pinned.chains() }))
}
