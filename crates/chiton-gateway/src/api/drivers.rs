//! The drivers: what each is and offers, whether it can be reached, and what it has.

use std::sync::Arc;

use chiton_driver::{ComputeDriver, Rule};
use chiton_model::{DriverId, Error, Principal};
use chiton_proto::v1 as wire;

use super::convert;
use super::service::Api;

impl Api {
    pub(super) async fn list_drivers(
        &self,
        _: Principal,
        _: wire::ListDriversRequest,
    ) -> Result<wire::ListDriversResponse, Error> {
        let sandboxes = self.engine.sandboxes_by_driver().await?;
        // All at once: one that does not answer delays no other.
        let asked = self.engine.drivers().map(|driver| async {
            let mut shown = self.driver(driver).await;
            let count = sandboxes.iter().find(|(id, _)| id.as_str() == shown.id).map_or(0, |(_, count)| *count);
            shown.sandboxes = u32::try_from(count).unwrap_or(u32::MAX);
            shown
        });
        Ok(wire::ListDriversResponse { drivers: futures::future::join_all(asked).await })
    }

    async fn driver(&self, driver: &Arc<dyn ComputeDriver>) -> wire::Driver {
        let capabilities = driver.capabilities();
        let deadline = driver.deadlines().look;
        let (backend, unavailable) = match tokio::time::timeout(deadline, driver.backend_id()).await {
            Ok(Ok(backend)) => (backend.to_string(), None),
            Ok(Err(error)) => (String::new(), Some(error.into_error())),
            Err(_) => (String::new(), Some(Error::deadline(format!("it did not answer within {deadline:?}")))),
        };
        let since = match &unavailable {
            Some(_) => self.engine.unreachable_driver(&capabilities.id).map(|unreachable| unreachable.since),
            None => self.engine.reachable_since(&capabilities.id),
        };
        let rules = driver.field_rules().iter().map(|rule| wire::FieldRule {
            path: rule.path.clone(),
            rule: match &rule.rule {
                Rule::Sealed => "sealed".to_owned(),
                Rule::SetOnce => "set_once".to_owned(),
                Rule::MergeMap => "merge_map".to_owned(),
                Rule::Append { key: None } => "append".to_owned(),
                Rule::Append { key: Some(key) } => format!("append by {key}"),
            },
        });
        let configured = self.configured.get(&capabilities.id);
        // Where the table says nothing it is ours or none.
        let own = if capabilities.agent { "chiton" } else { "none" };
        wire::Driver {
            id: capabilities.id.to_string(),
            kind: capabilities.kind.clone(),
            version: capabilities.version.clone(),
            default_image: capabilities.default_image.clone(),
            is_default: capabilities.id == *self.engine.default_driver(),
            points: capabilities.points.iter().map(|point| point.as_str().to_owned()).collect(),
            features: capabilities.features.iter().map(|feature| feature.as_str().to_owned()).collect(),
            limits: capabilities.limits.iter().map(|limit| limit.as_str().to_owned()).collect(),
            networks: capabilities.networks.iter().map(|kind| kind.as_str().to_owned()).collect(),
            field_rules: rules.collect(),
            plan_schema: driver.plan_schema().to_string(),
            backend,
            cure: unavailable.as_ref().and_then(|error| error.cure.clone()).unwrap_or_default(),
            unavailable: unavailable.map(|error| error.message).unwrap_or_default(),
            agent: configured.and_then(|said| said.agent.as_deref()).unwrap_or(own).to_owned(),
            socket: configured.and_then(|said| said.socket.clone()).unwrap_or_default(),
            sandboxes: 0,
            since: since.map(convert::time),
            gateway_manages_lifecycle: capabilities.gateway_manages_lifecycle,
        }
    }
}

/// What drivers failed at, as it goes over the wire.
pub(super) fn failures(failed: impl IntoIterator<Item = (DriverId, Error)>) -> Vec<wire::DriverFailure> {
    let failure = |(driver, error): (DriverId, Error)| wire::DriverFailure {
        driver: driver.to_string(),
        error: Some(chiton_client::to_detail(&error)),
    };
    failed.into_iter().map(failure).collect()
}
