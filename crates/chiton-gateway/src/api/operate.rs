//! What operators look at and do by hand.

use chiton_driver::ObservedStatus;
use chiton_lifecycle::OrphanVerdict;
use chiton_lifecycle::extension::ReconcileSupport;
use chiton_lifecycle::policy::FailurePolicy;
use chiton_model::{DriverId, Error, Principal, SandboxId, WorkspaceName};
use chiton_proto::v1 as wire;

use super::convert;
use super::drivers::failures;
use super::service::Api;

impl Api {
    pub(super) async fn get_info(
        &self,
        principal: Principal,
        _: wire::GetInfoRequest,
    ) -> Result<wire::GetInfoResponse, Error> {
        let store = self.engine.store();
        let extensions = self.engine.extensions().await?;
        Ok(wire::GetInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            gateway_id: store.gateway.to_string(),
            epoch: store.epoch.to_string(),
            started_at: Some(convert::time(self.started_at)),
            drivers: self.engine.drivers().map(|driver| driver.capabilities().id.to_string()).collect(),
            extensions: extensions
                .iter()
                .filter(|info| info.position.is_some())
                .map(|info| info.descriptor.name.to_string())
                .collect(),
            default_driver: self.engine.default_driver().to_string(),
            principal: principal.subject,
        })
    }

    #[expect(clippy::unused_async, reason = "every method of the service is awaited")]
    pub(super) async fn list_obligations(
        &self,
        _: Principal,
        _: wire::ListObligationsRequest,
    ) -> Result<wire::ListObligationsResponse, Error> {
        Ok(wire::ListObligationsResponse {
            obligations: self.engine.obligations().iter().map(convert::obligation).collect(),
        })
    }

    pub(super) async fn discharge_obligation(
        &self,
        principal: Principal,
        request: wire::DischargeObligationRequest,
    ) -> Result<wire::DischargeObligationResponse, Error> {
        self.engine.discharge(principal, request.id, request.force).await?;
        Ok(wire::DischargeObligationResponse {})
    }

    pub(super) async fn list_orphans(
        &self,
        _: Principal,
        _: wire::ListOrphansRequest,
    ) -> Result<wire::ListOrphansResponse, Error> {
        let all = self.engine.orphans().await?;
        let orphans = all.found.into_iter().map(|orphan| {
            let status = match orphan.observed.status {
                ObservedStatus::Created => "created",
                ObservedStatus::Running => "running",
                ObservedStatus::Exited(_) => "exited",
                ObservedStatus::Broken(_) => "broken",
            };
            let verdict = match orphan.verdict {
                OrphanVerdict::Sweepable => "sweepable",
                OrphanVerdict::OtherEpoch => "other_epoch",
                OrphanVerdict::Unowned => "unowned",
            };
            wire::Orphan {
                driver: orphan.driver.to_string(),
                id: orphan.observed.id.to_string(),
                status: status.to_owned(),
                verdict: verdict.to_owned(),
                epoch: orphan.observed.epoch.to_string(),
                gateway: orphan.observed.gateway.to_string(),
            }
        });
        Ok(wire::ListOrphansResponse { orphans: orphans.collect(), failed: failures(all.failed) })
    }

    pub(super) async fn adopt_orphan(
        &self,
        principal: Principal,
        request: wire::OrphanRequest,
    ) -> Result<wire::OrphanResponse, Error> {
        self.engine.adopt_orphan(principal, SandboxId::new(request.id)?).await?;
        Ok(wire::OrphanResponse {})
    }

    pub(super) async fn delete_orphan(
        &self,
        principal: Principal,
        request: wire::OrphanRequest,
    ) -> Result<wire::OrphanResponse, Error> {
        self.engine.delete_orphan(principal, DriverId::new(request.driver)?, SandboxId::new(request.id)?).await?;
        Ok(wire::OrphanResponse {})
    }

    pub(super) async fn list_extensions(
        &self,
        _: Principal,
        _: wire::ListExtensionsRequest,
    ) -> Result<wire::ListExtensionsResponse, Error> {
        let extensions = self.engine.extensions().await?.into_iter().map(|info| {
            let failure = match info.policy.failure {
                FailurePolicy::Required => "required",
                FailurePolicy::Optional => "optional",
                FailurePolicy::Observe => "observe",
            };
            let authoritative =
                info.policy.authoritative && info.descriptor.reconcile == ReconcileSupport::Authoritative;
            wire::Extension {
                name: info.descriptor.name.to_string(),
                version: info.descriptor.version.clone(),
                summary: info.descriptor.summary.clone(),
                phases: info.descriptor.phases.iter().map(ToString::to_string).collect(),
                position: info.position.and_then(|position| u32::try_from(position).ok()),
                activation: info.policy.activation.as_str().to_owned(),
                failure: failure.to_owned(),
                reconcile: if authoritative { "authoritative" } else { "advisory" }.to_owned(),
                deadline_ms: u64::try_from(info.policy.deadline.as_millis()).unwrap_or(u64::MAX),
                sandboxes: u32::try_from(info.sandboxes).unwrap_or(u32::MAX),
                draining: info.draining,
                config_schema: info.descriptor.config_schema.to_string(),
            }
        });
        Ok(wire::ListExtensionsResponse { extensions: extensions.collect() })
    }

    pub(super) async fn list_workspaces(
        &self,
        _: Principal,
        _: wire::ListWorkspacesRequest,
    ) -> Result<wire::ListWorkspacesResponse, Error> {
        let workspaces = self.engine.workspaces().await?.into_iter().map(|row| wire::Workspace {
            name: row.key.workspace.to_string(),
            driver: row.key.driver.to_string(),
            ready: row.ready,
        });
        Ok(wire::ListWorkspacesResponse { workspaces: workspaces.collect() })
    }

    pub(super) async fn delete_workspace(
        &self,
        principal: Principal,
        request: wire::DeleteWorkspaceRequest,
    ) -> Result<wire::DeleteWorkspaceResponse, Error> {
        self.engine.delete_workspace(principal, WorkspaceName::new(request.name)?).await?;
        Ok(wire::DeleteWorkspaceResponse {})
    }

    #[expect(clippy::unused_async, reason = "every method of the service is awaited")]
    pub(super) async fn get_config(
        &self,
        _: Principal,
        _: wire::GetConfigRequest,
    ) -> Result<wire::GetConfigResponse, Error> {
        let values = self.config.iter().map(|(key, value, origin)| wire::ConfigValue {
            key: key.clone(),
            value: value.clone(),
            origin: origin.clone(),
        });
        Ok(wire::GetConfigResponse { values: values.collect() })
    }
}
