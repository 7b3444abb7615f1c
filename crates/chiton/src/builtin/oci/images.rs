//! Images of the `oci` driver: from whom, how large, how long.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::checks::Issues;
use super::super::registries::{LoginConfig, Registries};

/// `[compute.driver.oci.images]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ImagesConfig {
    /// The registry of names that have none. Default: none, and such names are refused.
    default_registry: Option<String>,
    /// The only registries that may be asked. Default: all.
    registries: Option<BTreeSet<String>>,
    /// Registries that are asked over plain HTTP. Those on the loopback interface always are.
    insecure_registries: BTreeSet<String>,
    /// Who the gateway is to a registry.
    login: BTreeMap<String, LoginConfig>,
    /// Names and digests of images that are never removed.
    pinned: BTreeSet<String>,
    /// Hours that an image stays that no sandbox uses. Default: 168.
    keep_hours: Option<u64>,
    /// Unpacked bytes of images that no sandbox uses and that may stay. Default: 20 GiB.
    keep_bytes: Option<u64>,
    /// Layers that an image may have, at most 300. Default: 128.
    max_layers: Option<usize>,
    /// Files, folders and links that a layer may have. Default: 1,000,000.
    max_entries: Option<u64>,
    /// Bytes that a layer may have, unpacked. Default: 32 GiB.
    max_layer_bytes: Option<u64>,
    /// Bytes that an image may have, as it is stored. Default: 32 GiB.
    max_image_bytes: Option<u64>,
    /// How many times its stored size a layer larger than 128 MiB may be unpacked. Default: 200.
    max_ratio: Option<u64>,
}

impl ImagesConfig {
    pub(super) fn check(&self, issues: &mut Issues) {
        let registries = Registries {
            default: self.default_registry.as_ref(),
            only: self.registries.as_ref(),
            insecure: &self.insecure_registries,
            login: &self.login,
        };
        registries.check("/images", issues);
        if self.max_layers.is_some_and(|layers| layers == 0 || layers > 300) {
            let message = "the names of more than 300 layers do not fit into one mount call";
            issues.add("/images/max_layers", message, "use 1 to 300");
        }
        if self.max_ratio == Some(0) {
            issues.add("/images/max_ratio", "no layer is smaller unpacked than 0 times its size", "use at least 1");
        }
    }

    pub(super) fn policy(self) -> chiton_image::Policy {
        let default = chiton_image::Policy::default();
        let limits = chiton_image::Limits {
            layers: self.max_layers.unwrap_or(default.limits.layers),
            entries: self.max_entries.unwrap_or(default.limits.entries),
            layer_bytes: self.max_layer_bytes.unwrap_or(default.limits.layer_bytes),
            image_bytes: self.max_image_bytes.unwrap_or(default.limits.image_bytes),
            ratio: self.max_ratio.unwrap_or(default.limits.ratio),
            ..default.limits
        };
        chiton_image::Policy {
            default_registry: self.default_registry,
            registries: self.registries,
            insecure: self.insecure_registries,
            credentials: self.login.into_iter().map(|(host, login)| (host, login.into())).collect(),
            limits,
            pinned: self.pinned,
            keep: self.keep_hours.map_or(default.keep, |hours| Duration::from_secs(hours.saturating_mul(3600))),
            keep_bytes: self.keep_bytes.unwrap_or(default.keep_bytes),
            ..default
        }
    }
}
