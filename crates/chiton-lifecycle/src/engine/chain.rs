//! Chains: the extensions of one sandbox, built from the configs that were frozen with it.

use std::collections::HashMap;
use std::sync::Arc;

use chiton_model::{Error, ExtensionName, OperationId};
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;

use super::ExtensionConfig;
use super::inner::{Inner, store_error};
use crate::extension::{Descriptor, Extension, Fence, Registry};
use crate::journal::ChainEntry;
use crate::plan::digest_json;

/// One extension of a chain, ready to be called.
pub(super) struct Link {
    pub(super) entry: ChainEntry,
    pub(super) descriptor: Arc<Descriptor>,
    pub(super) extension: Arc<dyn Extension>,
}

impl Link {
    pub(super) fn name(&self) -> &ExtensionName {
        &self.entry.name
    }
}

/// Extension instances: one per name and config, shared by all chains that froze that config.
#[derive(Default)]
pub(super) struct Instances(Mutex<HashMap<(ExtensionName, String), Arc<dyn Extension>>>);

impl Instances {
    /// The instance of an extension as it is configured now, and its config's digest.
    pub(super) fn configured(
        &self,
        registry: &Registry,
        config: &ExtensionConfig,
    ) -> Result<(Arc<dyn Extension>, String), Error> {
        let digest = digest_json(&config.document)?;
        Ok((self.get(registry, &config.name, &digest, &config.document)?, digest))
    }

    fn get(
        &self,
        registry: &Registry,
        name: &ExtensionName,
        digest: &str,
        document: &serde_json::Value,
    ) -> Result<Arc<dyn Extension>, Error> {
        let key = (name.clone(), digest.to_owned());
        if let Some(extension) = self.0.lock().get(&key) {
            return Ok(Arc::clone(extension));
        }
        let kind = registry.get(name).ok_or_else(|| not_compiled_in(name))?;
        let extension = kind.build(document).map_err(|issues| {
            let list: Vec<String> = issues.iter().map(|issue| format!("{} {}", issue.pointer, issue.message)).collect();
            Error::invalid(
                format!("compute.extension.{name}"),
                format!("the config of extension {:?} is not valid: {}", name.as_str(), list.join("; ")),
            )
        })?;
        self.0.lock().insert(key, Arc::clone(&extension));
        Ok(extension)
    }

    /// An instance that exists already.
    fn known(&self, name: &ExtensionName, digest: &str) -> Option<Arc<dyn Extension>> {
        self.0.lock().get(&(name.clone(), digest.to_owned())).cloned()
    }
}

/// What must be over before an interrupted operation goes on: its hooks in other processes. None when its whole chain is in
/// this one.
pub(super) fn fences(chain: &[Arc<Link>], operation: &OperationId) -> Option<(Vec<String>, BoxFuture<'static, ()>)> {
    let (names, fences): (Vec<String>, Vec<BoxFuture<'static, ()>>) = chain
        .iter()
        .filter_map(|link| {
            let fence = link.extension.fence(Fence::Operation(operation.clone()))?;
            Some((link.name().to_string(), fence))
        })
        .unzip();
    (!names.is_empty()).then(|| (names, join_all(fences).map(drop).boxed()))
}

pub(super) fn not_compiled_in(name: &ExtensionName) -> Error {
    Error::unavailable(name.as_str(), format!("extension {:?} is not compiled into this gateway", name.as_str())).cure(
        format!(
            "run a build that has it, or give up its cleanups: [compute.policy.{:?}] abandon = true",
            name.as_str()
        ),
    )
}

impl Inner {
    /// The chain as it was frozen. An extension that is not there any more is an error that names it.
    pub(super) async fn links(&self, chain: &[ChainEntry]) -> Result<Vec<Arc<Link>>, Error> {
        let mut links = Vec::with_capacity(chain.len());
        for entry in chain {
            let kind = self.registry.get(&entry.name).ok_or_else(|| not_compiled_in(&entry.name))?;
            let extension = if let Some(extension) = self.instances.known(&entry.name, &entry.config) {
                extension
            } else {
                let document = self.journal.config(&entry.config).await.map_err(store_error)?.ok_or_else(|| {
                    Error::internal(format!(
                        "the store lost the config {} of extension {:?}",
                        entry.config,
                        entry.name.as_str()
                    ))
                })?;
                self.instances.get(&self.registry, &entry.name, &entry.config, &document)?
            };
            links.push(Arc::new(Link { entry: entry.clone(), descriptor: Arc::clone(kind.descriptor()), extension }));
        }
        Ok(links)
    }

    /// The chain as it was frozen, without the extensions that are gone and that the operator gave up.
    pub(super) async fn links_or_abandoned(&self, chain: &[ChainEntry]) -> Result<Vec<Arc<Link>>, Error> {
        let present: Vec<ChainEntry> = chain
            .iter()
            .filter(|entry| self.registry.get(&entry.name).is_some() || !self.policy(&entry.name).abandon)
            .cloned()
            .collect();
        self.links(&present).await
    }
}
