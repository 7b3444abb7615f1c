//! What hooks get to see.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chiton_driver::Capabilities;
use chiton_lifecycle::extension::{HookContext, RemoteSandbox, RequestContext, RequestView};
use chiton_lifecycle::journal::{ExtensionState, Subject, WorkspaceKey};
use chiton_lifecycle::plan::Writer;
use chiton_lifecycle::runtime::CancelToken;
use chiton_model::{
    BackendId, DriverId, ExtensionName, OperationKind, Principal, SandboxId, SandboxName, WorkspaceName,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::document;
use crate::proto;

fn json(value: &impl Serialize) -> String {
    // What is encoded here came from JSON or has only text as keys.
    serde_json::to_string(value).unwrap_or_default()
}

fn typed<T: DeserializeOwned>(field: &str, text: &str) -> Result<T, String> {
    serde_json::from_value(document(field, text)?).map_err(|error| format!("{field} cannot be read: {error}"))
}

fn word<T>(field: &str, text: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, String> {
    parse(text).ok_or_else(|| format!("{field} {text:?} is not known"))
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
fn wrong(error: chiton_model::Error) -> String {
    error.to_string()
}

fn principal(principal: &Principal) -> proto::HookPrincipal {
    proto::HookPrincipal { subject: principal.subject.clone(), claims: principal.claims.clone().into_iter().collect() }
}

fn read_principal(said: Option<proto::HookPrincipal>) -> Result<Principal, String> {
    let said = said.ok_or("there is no principal")?;
    Ok(Principal { subject: said.subject, claims: said.claims.into_iter().collect() })
}

fn request(view: &RequestView) -> proto::HookRequestView {
    proto::HookRequestView {
        name: view.name.as_ref().map(ToString::to_string).unwrap_or_default(),
        workspace: view.workspace.to_string(),
        image: view.image.clone(),
        command: view.command.clone(),
        labels: view.labels.clone().into_iter().collect(),
        resources_json: json(&view.resources),
        network_json: json(&view.network),
        volumes_json: json(&view.volumes),
        driver_config_json: json(&view.driver_config),
    }
}

fn read_request(said: Option<proto::HookRequestView>) -> Result<RequestView, String> {
    let said = said.ok_or("there is no request")?;
    let name = Some(said.name).filter(|name| !name.is_empty());
    Ok(RequestView {
        name: name.map(|name| SandboxName::new(&name)).transpose().map_err(wrong)?,
        workspace: WorkspaceName::new(&said.workspace).map_err(wrong)?,
        image: said.image,
        command: said.command,
        labels: said.labels.into_iter().collect(),
        resources: typed("resources_json", &said.resources_json)?,
        network: typed("network_json", &said.network_json)?,
        volumes: typed("volumes_json", &said.volumes_json)?,
        driver_config: document("driver_config_json", &said.driver_config_json)?,
    })
}

pub(crate) fn driver_json(driver: &Capabilities) -> String {
    json(driver)
}

pub(crate) fn capabilities(text: &str) -> Result<Capabilities, String> {
    typed("driver_json", text)
}

pub(crate) fn preview(cx: &RequestContext) -> proto::HookPreview {
    proto::HookPreview {
        principal: Some(principal(&cx.principal)),
        request: Some(request(&cx.request)),
        driver_json: driver_json(&cx.driver),
        // The engine drops the call at its deadline, which ends it on the other side too.
        time_left_ms: 0,
    }
}

pub(crate) fn read_preview(said: Option<proto::HookPreview>, cancel: CancelToken) -> Result<RequestContext, String> {
    let said = said.ok_or("there is no preview")?;
    Ok(RequestContext {
        principal: read_principal(said.principal)?,
        request: Arc::new(read_request(said.request)?),
        driver: Arc::new(capabilities(&said.driver_json)?),
        cancel,
    })
}

pub(crate) fn owners(owners: &BTreeMap<String, Writer>) -> std::collections::HashMap<String, String> {
    owners.iter().map(|(path, writer)| (path.clone(), writer.to_string())).collect()
}

pub(crate) fn read_owners(said: std::collections::HashMap<String, String>) -> Result<BTreeMap<String, Writer>, String> {
    let read = |(path, writer): (String, String)| {
        let writer = match writer.strip_prefix("extension ") {
            Some(name) => Writer::Extension(ExtensionName::new(name).map_err(wrong)?),
            None => [Writer::Request, Writer::Image, Writer::Driver]
                .into_iter()
                .find(|known| known.to_string() == writer)
                .ok_or_else(|| format!("writer {writer:?} is not known"))?,
        };
        Ok((path, writer))
    };
    said.into_iter().map(read).collect()
}

pub(crate) fn subject(subject: &Subject) -> proto::HookSubject {
    use proto::hook_subject::Subject as Wire;
    proto::HookSubject {
        subject: Some(match subject {
            Subject::Sandbox(id) => Wire::Sandbox(id.to_string()),
            Subject::Workspace(key) => Wire::Workspace(proto::WorkspaceOnDriver {
                workspace: key.workspace.to_string(),
                driver: key.driver.to_string(),
            }),
        }),
    }
}

pub(crate) fn read_subject(said: Option<proto::HookSubject>) -> Result<Subject, String> {
    use proto::hook_subject::Subject as Wire;
    match said.and_then(|said| said.subject).ok_or("there is no subject")? {
        Wire::Sandbox(id) => SandboxId::new(&id).map(Subject::Sandbox).map_err(wrong),
        Wire::Workspace(key) => Ok(Subject::Workspace(WorkspaceKey {
            workspace: WorkspaceName::new(&key.workspace).map_err(wrong)?,
            driver: DriverId::new(&key.driver).map_err(wrong)?,
        })),
    }
}

pub(crate) fn saved_state(state: &ExtensionState) -> proto::SavedState {
    proto::SavedState { schema_version: state.schema_version, payload_json: json(&state.payload) }
}

pub(crate) fn read_state(said: &proto::SavedState) -> Result<ExtensionState, String> {
    let payload = document("payload_json", &said.payload_json)?;
    Ok(ExtensionState { schema_version: said.schema_version, payload })
}

pub(crate) fn sandbox_view(cx: &HookContext) -> proto::SandboxView {
    proto::SandboxView {
        id: cx.sandbox.to_string(),
        name: cx.name.to_string(),
        workspace: cx.workspace.to_string(),
        operation_kind: cx.kind.to_string(),
        principal: Some(principal(&cx.principal)),
        request: Some(request(&cx.request)),
        backend: cx.backend.to_string(),
        plan_json: json(&*cx.plan),
        slots: cx.slots.clone().into_iter().collect(),
    }
}

pub(crate) fn read_sandbox(said: proto::SandboxView, driver: Arc<Capabilities>) -> Result<RemoteSandbox, String> {
    Ok(RemoteSandbox {
        sandbox: SandboxId::new(&said.id).map_err(wrong)?,
        name: SandboxName::new(&said.name).map_err(wrong)?,
        workspace: WorkspaceName::new(&said.workspace).map_err(wrong)?,
        kind: word("operation_kind", &said.operation_kind, OperationKind::parse)?,
        principal: read_principal(said.principal)?,
        request: Arc::new(read_request(said.request)?),
        driver,
        backend: BackendId(said.backend),
        plan: Arc::new(document("plan_json", &said.plan_json)?),
        slots: said.slots.into_iter().collect(),
    })
}

/// Milliseconds as they are sent: never rounded to nothing.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
