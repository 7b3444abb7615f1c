//! From a request to a sealed plan. Stores nothing and has no effects: `plan` and `create` take exactly this path.

use std::sync::Arc;

use chiton_driver::{ComputeDriver, PlanRequest};
use chiton_model::{BackendId, Error, Phase, Principal, SandboxSpec};
use serde_json::{Value, json};

use super::chain::Link;
use super::hooks::within;
use super::inner::Inner;
use super::{CreateRequest, Engine};
use crate::activation::decide;
use crate::extension::{RequestContext, RequestView};
use crate::journal::{ChainEntry, FrozenChain};
use crate::plan::{PlanBuilder, SealedPlan};
use crate::policy::FailurePolicy;
use crate::runtime::CancelToken;

/// What a create would do.
#[derive(Clone, Debug)]
pub struct Preview {
    /// The plan.
    pub plan: SealedPlan,
    /// The chain.
    pub chain: FrozenChain,
}

/// A request that is ready to be committed.
pub(super) struct Prepared {
    pub(super) driver: Arc<dyn ComputeDriver>,
    pub(super) backend: BackendId,
    pub(super) plan: SealedPlan,
    pub(super) chain: FrozenChain,
    /// Config documents that the chain refers to.
    pub(super) configs: Vec<(String, Value)>,
}

impl Engine {
    /// The plan that a create would seal, and the chain that it would freeze. Stores nothing.
    pub async fn plan(&self, principal: &Principal, request: &CreateRequest) -> Result<Preview, Error> {
        let prepared = self.inner.prepare(principal, request).await?;
        Ok(Preview { plan: prepared.plan, chain: prepared.chain })
    }
}

impl Inner {
    pub(super) async fn prepare(&self, principal: &Principal, request: &CreateRequest) -> Result<Prepared, Error> {
        let spec = &request.spec;
        spec.check()?;
        let driver = self.choose_driver(spec)?;
        let id = driver.capabilities().id.clone();
        if self.unlisted.lock().contains(&id) {
            tracing::debug!(driver = %id, "creating before the driver's first snapshot");
        }
        let backend = self.backend(&id).await?;
        for reference in spec.secrets.values() {
            self.world.secrets.check(reference, principal, &request.workspace)?;
        }
        let decided = decide(&self.config.extensions, spec, &request.workspace, principal)?;
        let mut links = Vec::with_capacity(decided.len());
        let mut configs = Vec::with_capacity(decided.len());
        for (config, activation) in decided {
            let (extension, digest) = self.instances.configured(&self.registry, config)?;
            let kind = self.registry.get(&config.name).ok_or_else(|| super::chain::not_compiled_in(&config.name))?;
            let descriptor = Arc::clone(kind.descriptor());
            let entry = ChainEntry {
                name: config.name.clone(),
                version: descriptor.version.clone(),
                state_schema: descriptor.state_schema,
                config: digest.clone(),
                activation,
                observe: config.policy.failure == FailurePolicy::Observe,
            };
            configs.push((digest, config.document.clone()));
            links.push(Arc::new(Link { entry, descriptor, extension }));
        }
        let view = Arc::new(request_view(request, &driver));
        let cx = RequestContext {
            principal: principal.clone(),
            request: view,
            driver: driver.capabilities(),
            cancel: CancelToken::new(),
        };
        let (builder, links) = self.write_plan(&driver, request, links, &cx).await?;
        let chain: FrozenChain = links.iter().map(|link| link.entry.clone()).collect();
        let plan = builder.seal(&chain)?;
        if let Some(expected) = &request.expect_plan {
            plan.expect(expected)?;
        }
        configs.retain(|(digest, _)| chain.iter().any(|entry| entry.config == *digest));
        Ok(Prepared { driver, backend, plan, chain, configs })
    }

    /// The three phases without effects. Returns the plan and the links that stay in the chain.
    async fn write_plan(
        &self,
        driver: &Arc<dyn ComputeDriver>,
        request: &CreateRequest,
        mut links: Vec<Arc<Link>>,
        cx: &RequestContext,
    ) -> Result<(PlanBuilder, Vec<Arc<Link>>), Error> {
        let capabilities = driver.capabilities();
        let mut notes = Vec::new();
        for link in &links {
            link.descriptor.check_driver(&capabilities)?;
            for point in link.descriptor.wants.missing(&capabilities) {
                notes.push(format!(
                    "extension {} would use {point}, which driver {} does not offer: no-op",
                    link.name(),
                    capabilities.id
                ));
            }
            if let (Some((since, why)), FailurePolicy::Required) =
                (link.extension.unhealthy_since(), self.policy(link.name()).failure)
            {
                return Err(Error::unavailable(
                    link.name().as_str(),
                    format!("extension {:?} unavailable since {since}: {why}", link.name().as_str()),
                )
                .cure("try again when it is healthy, or make it optional for now"));
            }
        }
        for link in links.iter().filter(|link| link.descriptor.takes_part(Phase::ValidateRequest)) {
            let (extension, cx) = (Arc::clone(&link.extension), cx.clone());
            let checked = self.pure_hook(link.name(), &link.descriptor, Phase::ValidateRequest, move |cancel| {
                Box::pin(async move { extension.validate_request(&RequestContext { cancel, ..cx }).await })
            });
            self.tolerate(link, checked.await)?;
        }
        let spec = &request.spec;
        capabilities.check_offers(&spec.resources, &spec.network, &spec.volumes)?;
        let default =
            within(&*self.world.clock, driver.deadlines().look, driver.default_plan(&plan_request(request, driver)))
                .await
                .ok_or_else(|| {
                    Error::unavailable(
                        capabilities.id.as_str(),
                        format!("driver {:?} did not make a plan in time", capabilities.id.as_str()),
                    )
                })??;
        let mut builder = PlanBuilder::new(Arc::clone(driver), default);
        builder.notes = notes;
        let mut dropped = Vec::new();
        for link in links.iter().filter(|link| link.descriptor.takes_part(Phase::PreparePlan)) {
            if !self.write_one(&mut builder, link, cx).await? {
                dropped.push(link.name().clone());
            }
        }
        links.retain(|link| !dropped.contains(link.name()));
        for link in links.iter().filter(|link| link.descriptor.takes_part(Phase::ValidatePlan)) {
            let (extension, cx, view) = (Arc::clone(&link.extension), cx.clone(), builder.view());
            let checked = self.pure_hook(link.name(), &link.descriptor, Phase::ValidatePlan, move |cancel| {
                Box::pin(async move { extension.validate_plan(&RequestContext { cancel, ..cx }, &view).await })
            });
            self.tolerate(link, checked.await)?;
        }
        within(&*self.world.clock, driver.deadlines().look, driver.validate(&builder.plan)).await.ok_or_else(
            || {
                Error::unavailable(
                    capabilities.id.as_str(),
                    format!("driver {:?} did not validate the plan in time", capabilities.id.as_str()),
                )
            },
        )??;
        Ok((builder, links))
    }

    /// One extension's `prepare_plan`. False when an optional extension failed: its writes are dropped and it is off the
    /// chain.
    async fn write_one(&self, builder: &mut PlanBuilder, link: &Arc<Link>, cx: &RequestContext) -> Result<bool, Error> {
        let policy = self.policy(link.name());
        let (extension, cx) = (Arc::clone(&link.extension), cx.clone());
        let mut draft = builder.draft(link.name());
        let prepared = self
            .pure_hook(link.name(), &link.descriptor, Phase::PreparePlan, move |cancel| {
                Box::pin(async move {
                    extension.prepare_plan(&RequestContext { cancel, ..cx }, &mut draft).await?;
                    Ok(draft)
                })
            })
            .await;
        if let (Ok(draft), FailurePolicy::Optional) = (&prepared, policy.failure) {
            // Not a failure to tolerate: nobody could say what stands there if the extension fails later.
            bare_slot(link, draft)?;
        }
        let applied = prepared.and_then(|draft| {
            if link.entry.observe {
                // It writes to a copy: what it would have done is worth a look, not a change.
                let would_change = draft.json() != &builder.plan;
                tracing::info!(extension = %link.name(), would_change, "observed prepare_plan");
                return Ok(());
            }
            builder.apply(link.name(), draft, &|earlier, path| policy.may_override(earlier, path))
        });
        match applied {
            Ok(()) => Ok(true),
            Err(error) if link.entry.observe => {
                tracing::info!(extension = %link.name(), %error, "observed prepare_plan failed");
                Ok(true)
            }
            Err(error) if policy.failure == FailurePolicy::Optional => {
                tracing::warn!(extension = %link.name(), %error, "an optional extension failed in prepare_plan and is left out");
                builder.notes.push(format!("extension {} is optional and was left out: {error}", link.name()));
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// A refusal counts only from a required extension.
    fn tolerate(&self, link: &Link, checked: Result<(), Error>) -> Result<(), Error> {
        match checked {
            Err(error) if self.policy(link.name()).failure != FailurePolicy::Required => {
                tracing::warn!(extension = %link.name(), %error, "an extension that is not required refused");
                Ok(())
            }
            other => other,
        }
    }

    fn choose_driver(&self, spec: &SandboxSpec) -> Result<Arc<dyn ComputeDriver>, Error> {
        for key in spec.driver_config.keys() {
            if !self.drivers.keys().any(|id| id.as_str() == key) {
                return Err(self.unknown_driver("driver_config", key));
            }
        }
        let id = spec.driver.as_ref().unwrap_or(&self.config.default_driver);
        self.named_driver(id)
    }
}

fn own_config(spec: &SandboxSpec, driver: &Arc<dyn ComputeDriver>) -> Value {
    spec.driver_config.get(driver.capabilities().id.as_str()).cloned().unwrap_or_else(|| json!({}))
}

fn plan_request(request: &CreateRequest, driver: &Arc<dyn ComputeDriver>) -> PlanRequest {
    let spec = request.spec.clone();
    let driver_config = own_config(&spec, driver);
    PlanRequest {
        image: spec.image,
        command: spec.command,
        env: spec.env,
        secrets: spec.secrets,
        labels: spec.labels,
        resources: spec.resources,
        network: spec.network,
        volumes: spec.volumes,
        workdir: spec.workdir,
        name: request.name.as_ref().map(ToString::to_string),
        workspace: request.workspace.clone(),
        driver_config,
    }
}

fn request_view(request: &CreateRequest, driver: &Arc<dyn ComputeDriver>) -> RequestView {
    RequestView {
        name: request.name.clone(),
        workspace: request.workspace.clone(),
        image: request.spec.image.clone(),
        command: request.spec.command.clone(),
        labels: request.spec.labels.clone(),
        resources: request.spec.resources.clone(),
        network: request.spec.network.clone(),
        volumes: request.spec.volumes.clone(),
        driver_config: own_config(&request.spec, driver),
    }
}

/// An optional extension's slots need defaults.
fn bare_slot(link: &Link, draft: &crate::extension::Draft) -> Result<(), Error> {
    let Some((slot, _)) = draft.slots.iter().find(|(_, default)| default.is_none()) else { return Ok(()) };
    let name = link.name().as_str();
    Err(Error::refused(name, format!("extension {name:?} is optional and its slot {slot:?} has no default"))
        .cure("declare the slot with slot_or, or make the extension required"))
}
