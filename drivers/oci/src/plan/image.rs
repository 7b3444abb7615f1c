//! What the root is made of.

use chiton_image::{Digest, Layer, Pinned, Policy, Reference};
use chiton_model::Error;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kinds of image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageKind {
    /// A read-only view of the host's programs and libraries.
    Host,
    /// A folder of the host as the lowest layer.
    Dir,
    /// Layers of a layout, an archive or a registry.
    Oci,
}

/// What the root is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImagePlan {
    /// Its kind.
    pub kind: ImageKind,
    /// As the request named it.
    pub reference: String,
    /// The folder of a `dir` image, with links resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Where an `oci` image is fetched from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What the reference meant when the plan was made: `sha256:` and the manifest's digest, or the config's where the
    /// image has no manifest (`docker save`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Its layers, the lowest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerPlan>,
    /// Who the programs run as, in the image's words: `user`, `uid`, `user:group` or `uid:gid`; empty means root.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Whether the root cannot be written; `/tmp` then is a tmpfs.
    pub read_only: bool,
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LayerPlan {
    /// Of its bytes as they are stored.
    pub digest: String,
    /// How many those are.
    pub size: u64,
    /// Of its bytes as they are unpacked.
    pub diff_id: String,
}

impl ImagePlan {
    /// The plan of an image that was resolved.
    pub(crate) fn resolved(reference: &str, pinned: &Pinned, user: &str, read_only: bool) -> Self {
        let layer = |layer: &Layer| LayerPlan {
            digest: layer.digest.to_string(),
            size: layer.size,
            diff_id: layer.diff_id.to_string(),
        };
        Self {
            kind: ImageKind::Oci,
            reference: reference.to_owned(),
            path: None,
            source: Some(pinned.reference.to_string()),
            digest: Some(pinned.digest.to_string()),
            layers: pinned.layers.iter().map(layer).collect(),
            user: user.to_owned(),
            read_only,
        }
    }

    /// What the image store is asked for; none for images that it does not keep.
    pub(crate) fn pinned(&self) -> Result<Option<Pinned>, Error> {
        if self.kind != ImageKind::Oci {
            return Ok(None);
        }
        let wrong = |what: &str| {
            Error::invalid(format!("image.{what}"), "the plan's image is not one that this driver resolved")
        };
        let digest = |text: &str| text.parse::<Digest>().map_err(|_| wrong("digest"));
        let source = self.source.as_deref().ok_or_else(|| wrong("source"))?;
        let layers = self.layers.iter().map(|layer| {
            Ok(Layer { digest: digest(&layer.digest)?, size: layer.size, diff_id: digest(&layer.diff_id)? })
        });
        Ok(Some(Pinned {
            // It names its registry, so that no default is looked for.
            reference: Reference::parse(source, &Policy::default()).map_err(|_| wrong("source"))?,
            digest: digest(self.digest.as_deref().unwrap_or_default())?,
            layers: layers.collect::<Result<_, Error>>()?,
        }))
    }
}
