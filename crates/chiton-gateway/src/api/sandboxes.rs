//! Sandboxes: create, look, start, stop, delete.

use chiton_lifecycle::journal::SandboxQuery;
use chiton_lifecycle::{Accepted, Preview, Selector};
use chiton_model::{Error, Principal, SandboxId};
use chiton_proto::v1 as wire;

use super::convert;
use super::service::{Api, engine_request};

const PAGE: u32 = 500;
const LARGEST_PAGE: u32 = 1000;

/// What a listing asks for, without its labels.
pub(super) fn page(request: &wire::ListSandboxesRequest) -> Result<SandboxQuery, Error> {
    if request.page_size > LARGEST_PAGE {
        return Err(Error::invalid(
            "page_size",
            format!("a page has at most {LARGEST_PAGE} sandboxes, not {}", request.page_size),
        )
        .cure(format!("ask for {LARGEST_PAGE} and follow next_page_token")));
    }
    let size = if request.page_size == 0 { PAGE } else { request.page_size };
    Ok(SandboxQuery {
        workspace: if request.workspace.is_empty() { None } else { Some(convert::workspace(&request.workspace)?) },
        all: request.all,
        after: if request.page_token.is_empty() { None } else { Some(SandboxId::new(request.page_token.as_str())?) },
        limit: usize::try_from(size).unwrap_or(usize::MAX),
    })
}

impl Api {
    pub(super) async fn create_sandbox(
        &self,
        principal: Principal,
        request: wire::CreateSandboxRequest,
    ) -> Result<wire::OperationResponse, Error> {
        let engine_request = engine_request(principal, &request.request_id);
        let accepted = self.engine.create(engine_request, convert::create(request)?).await?;
        self.accepted(accepted).await
    }

    pub(super) async fn get_sandbox(
        &self,
        _: Principal,
        request: wire::GetSandboxRequest,
    ) -> Result<wire::Sandbox, Error> {
        Ok(self.shown(&self.select(request.sandbox, request.all).await?))
    }

    pub(super) async fn list_sandboxes(
        &self,
        _: Principal,
        request: wire::ListSandboxesRequest,
    ) -> Result<wire::ListSandboxesResponse, Error> {
        let mut query = page(&request)?;
        let limit = query.limit;
        let wanted = |labels: &std::collections::BTreeMap<String, String>| {
            request.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        };
        let (mut sandboxes, mut next) = (Vec::new(), String::new());
        // Filters thin out what the store pages by, so several of its pages may make one of ours.
        loop {
            let page = self.engine.list(&query).await?;
            for view in page.views {
                if wanted(&view.record.spec.labels) {
                    sandboxes.push(self.shown(&view));
                }
                if sandboxes.len() == limit {
                    next = view.record.id.to_string();
                    break;
                }
            }
            match page.next {
                Some(after) if sandboxes.len() < limit => query.after = Some(after),
                Some(_) => break,
                None => {
                    // The page ended exactly with the last row: an empty page follows, which is allowed and rare.
                    break;
                }
            }
        }
        Ok(wire::ListSandboxesResponse { sandboxes, next_page_token: next })
    }

    pub(super) async fn start_sandbox(
        &self,
        principal: Principal,
        request: wire::SandboxRequest,
    ) -> Result<wire::OperationResponse, Error> {
        let asked = engine_request(principal, &request.request_id);
        let id = self.target(&asked, "start", request.sandbox).await?;
        let accepted = self.engine.start(asked, id).await?;
        self.accepted(accepted).await
    }

    pub(super) async fn stop_sandbox(
        &self,
        principal: Principal,
        request: wire::SandboxRequest,
    ) -> Result<wire::OperationResponse, Error> {
        let asked = engine_request(principal, &request.request_id);
        let id = self.target(&asked, "stop", request.sandbox).await?;
        let accepted = self.engine.stop(asked, id).await?;
        self.accepted(accepted).await
    }

    pub(super) async fn delete_sandbox(
        &self,
        principal: Principal,
        request: wire::DeleteSandboxRequest,
    ) -> Result<wire::OperationResponse, Error> {
        let asked = engine_request(principal, &request.request_id);
        let id = self.target(&asked, "delete", request.sandbox).await?;
        let accepted = self.engine.delete(asked, id, request.force).await?;
        self.accepted(accepted).await
    }

    /// The sandbox that a request is about: of a repeated one the sandbox of the first, whoever has the name by now.
    async fn target(
        &self,
        asked: &chiton_lifecycle::Request,
        method: &str,
        selector: Option<wire::SandboxSelector>,
    ) -> Result<SandboxId, Error> {
        let selector = convert::selector(selector)?;
        if let Some(before) = self.engine.answered(asked, method).await? {
            let same = match &selector {
                Selector::Id(id) => *id == before.id,
                Selector::Name(workspace, name) => *workspace == before.workspace && *name == before.name,
            };
            if same {
                return Ok(before.id);
            }
        }
        Ok(self.engine.get(&selector, false).await?.record.id)
    }

    /// The answer to a request that changes something.
    async fn accepted(&self, accepted: Accepted) -> Result<wire::OperationResponse, Error> {
        // The row may be gone by now; then the answer is as it was.
        let sandbox = match self.view(&accepted.sandbox.id).await {
            Ok(view) => self.shown(&view),
            Err(_) => convert::sandbox(&chiton_lifecycle::SandboxView {
                record: accepted.sandbox,
                running: None,
                held: None,
                obligations: 0,
            }),
        };
        let operation = accepted.operation.map(|operation| operation.to_string()).unwrap_or_default();
        Ok(wire::OperationResponse { sandbox: Some(sandbox), operation })
    }

    pub(super) async fn plan_sandbox(
        &self,
        principal: Principal,
        request: wire::CreateSandboxRequest,
    ) -> Result<wire::PlanSandboxResponse, Error> {
        let Preview { plan, chain } = self.engine.plan(&principal, &convert::create(request)?).await?;
        let values = chiton_lifecycle::plan::explain(&plan, &plan.plan);
        let json = |value: &Option<serde_json::Value>| value.as_ref().map(ToString::to_string).unwrap_or_default();
        let writes = plan.writes.iter().map(|(extension, writes)| wire::PlanWrites {
            extension: extension.to_string(),
            writes: writes
                .iter()
                .map(|write| wire::PlanWrite {
                    path: write.path.clone(),
                    before: json(&write.before),
                    after: json(&write.after),
                    overrides: write.overrides.as_ref().map(ToString::to_string).unwrap_or_default(),
                })
                .collect(),
        });
        Ok(wire::PlanSandboxResponse {
            driver: plan.driver.to_string(),
            digest: plan.digest.clone(),
            plan: plan.plan.to_string(),
            chain: chain.iter().map(convert::chain).collect(),
            writes: writes.collect(),
            values: values.iter().map(convert::explained).collect(),
            notes: plan.notes.clone(),
        })
    }

    pub(super) async fn explain_sandbox(
        &self,
        _: Principal,
        request: wire::GetSandboxRequest,
    ) -> Result<wire::ExplainSandboxResponse, Error> {
        let view = self.select(request.sandbox, request.all).await?;
        let (_, values) = self.engine.explain(&view.record.id).await?;
        Ok(wire::ExplainSandboxResponse {
            sandbox: Some(self.shown(&view)),
            values: values.iter().map(convert::explained).collect(),
        })
    }

    pub(super) async fn get_timeline(
        &self,
        _: Principal,
        request: wire::GetSandboxRequest,
    ) -> Result<wire::GetTimelineResponse, Error> {
        let view = self.select(request.sandbox, request.all).await?;
        let operations = self.engine.timeline(&view.record.id).await?;
        Ok(wire::GetTimelineResponse {
            sandbox: Some(self.shown(&view)),
            operations: operations.iter().map(convert::operation).collect(),
        })
    }
}
