//! Manifests, indexes and configs: of OCI (image specification 1.1) and of Docker (schema 2).
//!
//! Unknown fields are ignored, as the specification wants it; what is used is checked.

use serde::Deserialize;

use crate::Digest;
use crate::error::{ImageError, Result};

/// What a reader of manifests accepts.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// Points to a blob.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Descriptor {
    #[serde(rename = "mediaType", default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// What an image runs on.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
}

/// A manifest or an index.
#[derive(Clone, Debug)]
pub(crate) enum Document {
    Manifest { config: Descriptor, layers: Vec<Descriptor> },
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "schemaVersion")]
    version: u32,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    #[serde(rename = "fsLayers")]
    of_old: Option<serde::de::IgnoredAny>,
}

fn form(what: &str, why: impl Into<String>) -> ImageError {
    ImageError::Form { what: what.to_owned(), why: why.into() }
}

fn parse<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| form(what, chiton_model::printable(&error.to_string())))
}

impl Document {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let what = "the image's manifest";
        let raw: Raw = parse(what, bytes)?;
        if raw.version != 2 || raw.of_old.is_some() {
            return Err(form(what, "it is of a version that is not supported (only 2 is)"));
        }
        match (raw.config, raw.layers, raw.manifests) {
            (Some(config), Some(layers), None) => Ok(Self::Manifest { config, layers }),
            (None, None, Some(manifests)) => Ok(Self::Index(manifests)),
            // One that can be read as both means different things to different readers.
            _ => Err(form(what, "it is neither a manifest nor an index")),
        }
    }
}

/// The architecture of this machine in the words of images.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The image of an index for this machine.
pub(crate) fn choose(manifests: &[Descriptor]) -> Result<&Descriptor> {
    let images: Vec<&Descriptor> = manifests.iter().filter(|found| !is_attachment(found)).collect();
    let fits = |found: &&&Descriptor| {
        found.platform.as_ref().is_some_and(|on| on.os == "linux" && on.architecture == architecture())
    };
    if let Some(found) = images.iter().find(fits) {
        return Ok(found);
    }
    match images.as_slice() {
        [one] if one.platform.is_none() => Ok(one),
        _ => {
            let there: Vec<String> = images
                .iter()
                .filter_map(|found| found.platform.as_ref().map(|on| format!("{}/{}", on.os, on.architecture)))
                .collect();
            let there = chiton_model::printable(&there.join(", "));
            Err(form("the image's index", format!("it has no image for linux/{}; it has: {there}", architecture())))
        }
    }
}

/// Signatures and statements about an image that stand beside it.
fn is_attachment(found: &Descriptor) -> bool {
    let about = found.annotations.as_ref().is_some_and(|notes| notes.contains_key("vnd.docker.reference.digest"));
    about || found.platform.as_ref().is_some_and(|on| on.os == "unknown")
}

/// Checks that a layer is one that can be fetched and read.
pub(crate) fn check_layer(layer: &Descriptor) -> Result<()> {
    let known = [
        "",
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    ];
    if known.contains(&layer.media_type.as_str()) {
        return Ok(());
    }
    let kind = chiton_model::printable(&layer.media_type);
    Err(form("the image's manifest", format!("a layer of type {kind:?} is not supported")))
}

/// How an image wants to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group` or `uid:gid`; empty means root.
    pub user: String,
    /// Variables in order.
    pub env: Vec<(String, String)>,
    /// The program that a command is handed to.
    pub entrypoint: Vec<String>,
    /// The command when the request has none.
    pub command: Vec<String>,
    /// The working folder; empty means `/`.
    pub workdir: String,
}

/// A config: how to run it, and the digests of its unpacked layers.
pub(crate) struct Config {
    pub(crate) run: ImageConfig,
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct RawConfig {
    architecture: String,
    os: String,
    #[serde(default)]
    config: Option<RawRun>,
    rootfs: RawRoot,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawRun {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
}

#[derive(Deserialize)]
struct RawRoot {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Option<Vec<Digest>>,
}

impl Config {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let what = "the image's config";
        let raw: RawConfig = parse(what, bytes)?;
        if raw.os != "linux" || raw.architecture != architecture() {
            let on = chiton_model::printable(&format!("{}/{}", raw.os, raw.architecture));
            return Err(form(what, format!("the image is for {on}, and this machine is linux/{}", architecture())));
        }
        if raw.rootfs.kind != "layers" {
            return Err(form(what, "its root is not made of layers"));
        }
        let run = raw.config.unwrap_or_default();
        let mut env = Vec::new();
        for variable in run.env.unwrap_or_default() {
            let (name, value) = variable
                .split_once('=')
                .filter(|(name, _)| !name.is_empty())
                .ok_or_else(|| form(what, "a variable of its environment has no name or no \"=\""))?;
            env.push((name.to_owned(), value.to_owned()));
        }
        let run = ImageConfig {
            user: run.user.unwrap_or_default(),
            env,
            entrypoint: run.entrypoint.unwrap_or_default(),
            command: run.cmd.unwrap_or_default(),
            workdir: run.working_dir.unwrap_or_default(),
        };
        let texts = run.env.iter().flat_map(|(name, value)| [name, value]);
        let texts = texts.chain(&run.entrypoint).chain(&run.command).chain([&run.user, &run.workdir]);
        if texts.into_iter().any(|text| text.contains('\0')) {
            return Err(form(what, "it holds a NUL byte"));
        }
        if !run.workdir.is_empty() && !run.workdir.starts_with('/') {
            return Err(form(what, "its working folder is not absolute"));
        }
        Ok(Self { run, diff_ids: raw.rootfs.diff_ids.unwrap_or_default() })
    }
}
