//! The gateway's own network on the engine: there while a sandbox needs it.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use bollard::query_parameters::{InspectNetworkOptions, ListNetworksOptionsBuilder};
use chiton_driver::{CallError, CallResult, Identity};
use chiton_model::label::managed;
use chiton_model::{Error, NetworkMode, SandboxId};
use tokio::time::{Instant, timeout_at};

use crate::client::{ACT, Answer, Failure};
use crate::engine::Engine;
use crate::names;
use crate::plan::NetworkPlan;

impl Engine {
    /// Makes the gateway's network where a plan needs it. The caller keeps `bridge` locked until its container is made.
    pub(crate) async fn ensure_network(
        &self,
        plan: &NetworkPlan,
        identity: &Identity,
        deadline: Instant,
    ) -> CallResult<()> {
        if plan.mode != NetworkMode::Bridge {
            return Ok(());
        }
        let labels = [managed::MANAGED_BY, managed::GATEWAY_ID, managed::STORE_EPOCH];
        let labels = identity.labels().into_iter().filter(|(key, _)| labels.contains(key));
        let labels = labels.map(|(key, value)| (key.to_owned(), value)).collect();
        self.make_network(names::network(&self.options, &identity.sandbox), labels, deadline).await
    }

    /// Makes the network of all supervisors' sandboxes, before there is any.
    pub(crate) async fn ensure_supervisors_network(&self, deadline: Instant) -> CallResult<String> {
        let name = names::shared_network(&self.options);
        let labels = [(managed::MANAGED_BY, "chiton"), (managed::GATEWAY_ID, self.options.gateway.as_str())];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        self.make_network(name.clone(), labels, deadline).await.map(|()| name)
    }

    async fn make_network(&self, name: String, labels: HashMap<String, String>, deadline: Instant) -> CallResult<()> {
        if self.network_exists(&name).await? {
            return Ok(());
        }
        // Docker takes a second network of the same name, and refuses a second of the same range: one after another.
        let _alone = timeout_at(deadline, self.networks_lock.lock())
            .await
            .map_err(|_| CallError::NotRun(Error::deadline("the gateway's network was not made in time")))?;
        if self.network_exists(&name).await? {
            return Ok(());
        }
        let bridge = &self.options.bridge;
        // With its gateway, which Docker takes but does not tell of where it was not asked for.
        let subnet = bridge.subnet.map(|range| IpamConfig {
            subnet: Some(range.to_string()),
            gateway: bridge.gateway().map(|gateway| gateway.to_string()),
            ..IpamConfig::default()
        });
        let request = NetworkCreateRequest {
            name: name.clone(),
            driver: Some("bridge".to_owned()),
            internal: Some(bridge.internal),
            attachable: Some(false),
            // Sandboxes of one gateway do not reach each other.
            options: Some(self.options.dialect.isolation()),
            labels: Some(labels),
            ipam: subnet.map(|subnet| Ipam { config: Some(vec![subnet]), ..Ipam::default() }),
            ..NetworkCreateRequest::default()
        };
        let made = self
            .client
            .act("make the gateway's network", deadline, |api| async move { api.create_network(request).await });
        match made.await {
            // A request that an earlier life of the gateway left under way was faster.
            Ok(_) | Err(Failure::Conflict(_)) => Ok(()),
            Err(Failure::Refused(_)) if self.network_exists(&name).await? => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }

    /// The IPv4 address of a network's gateway, which is this machine's, if the engine says it.
    pub(crate) async fn gateway_of(&self, name: &str) -> Answer<Option<String>> {
        let found = self.client.look("look at a network", |api| {
            let name = name.to_owned();
            async move { api.inspect_network(&name, None::<InspectNetworkOptions>).await }
        });
        let ranges = found.await?.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
        let mut gateways = ranges.into_iter().filter_map(|range| range.gateway);
        Ok(gateways.find(|gateway| gateway.parse::<Ipv4Addr>().is_ok()))
    }

    async fn network_exists(&self, name: &str) -> Answer<bool> {
        let found = self.client.look("look at the gateway's network", |api| {
            let name = name.to_owned();
            async move { api.inspect_network(&name, None::<InspectNetworkOptions>).await }
        });
        match found.await {
            Ok(_) => Ok(true),
            Err(Failure::Absent(_)) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Removes the network of a deleted sandbox when no other is made for it.
    pub(crate) async fn release_network(&self, id: &SandboxId, deadline: Instant) -> Answer<()> {
        if self.options.agent.supervisor().is_some() {
            // Its gateway listens there, and would lose its address.
            return Ok(());
        }
        let name = names::network(&self.options, id);
        // Creates are not made to wait for a network that stays.
        if !self.network_exists(&name).await? || self.is_used(&name).await? {
            return Ok(());
        }
        let _alone = self.bridge.write().await;
        self.remove_unused(name, deadline).await
    }

    /// Removes all networks of this gateway that no sandbox is made for: what a crash between two requests left.
    pub(crate) async fn sweep_networks(&self) -> Answer<()> {
        if self.options.agent.supervisor().is_some() {
            return Ok(());
        }
        let label = format!("{}={}", managed::GATEWAY_ID, self.options.gateway);
        let filters = HashMap::from([("label", vec![label.as_str()])]);
        let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
        let _alone = self.bridge.write().await;
        let found = self.client.look("list the gateway's networks", |api| {
            let options = options.clone();
            async move { api.list_networks(Some(options)).await }
        });
        for name in found.await?.into_iter().filter_map(|network| network.name) {
            self.remove_unused(name, Instant::now() + ACT).await?;
        }
        Ok(())
    }

    async fn is_used(&self, name: &str) -> Answer<bool> {
        let users = self.client.list_containers("look for sandboxes on a network", Some(("network", name)));
        Ok(!users.await?.is_empty())
    }

    async fn remove_unused(&self, name: String, deadline: Instant) -> Answer<()> {
        if self.is_used(&name).await? {
            return Ok(());
        }
        let removed =
            self.client.act("remove the network", deadline, |api| async move { api.remove_network(&name).await });
        match removed.await {
            // In use after all (403 or 409), or gone.
            Ok(()) | Err(Failure::Absent(_) | Failure::Conflict(_) | Failure::Refused(_)) => Ok(()),
            Err(failure) => Err(failure),
        }
    }
}
