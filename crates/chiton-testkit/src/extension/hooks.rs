//! The trait, phase by phase: which slot each action acquires and which cleanup releases it.

use async_trait::async_trait;
use chiton_lifecycle::extension::{
    Approval, Draft, Extension, HeldPage, HookContext, ReconcileOutcome, RequestContext, SlotValues, StepResult,
    WorkspaceContext,
};
use chiton_lifecycle::journal::{Subject, WorkspaceKey};
use chiton_lifecycle::plan::PlanView;
use chiton_model::{CreateFailure, Phase, Ran, SandboxId, StartReason, StopReason};

use super::instance::{Deed, ScriptedExtension, Told};
use super::script::Act;
use crate::ledger::What;

/// How many ids a page of `held` has: few, so that paging is always exercised.
const PAGE: usize = 2;

fn about(cx: &HookContext) -> Subject {
    Subject::Sandbox(cx.sandbox.clone())
}

fn workspace(cx: &WorkspaceContext) -> Subject {
    Subject::Workspace(WorkspaceKey { workspace: cx.workspace.clone(), driver: cx.driver.id.clone() })
}

fn ran(ran: Ran, reason: Option<String>) -> Told {
    Told { ran: Some(ran), reason }
}

fn because(reason: &str) -> Told {
    Told { ran: None, reason: Some(reason.to_string()) }
}

#[async_trait]
impl Extension for ScriptedExtension {
    fn unhealthy_since(&self) -> Option<(jiff::Timestamp, String)> {
        self.script.state.lock().unhealthy.clone()
    }

    async fn validate_request(&self, _cx: &RequestContext) -> StepResult {
        self.watch(Phase::ValidateRequest).await
    }

    async fn prepare_plan(&self, _cx: &RequestContext, draft: &mut Draft) -> StepResult {
        for (slot, variable, default) in &self.script.slots {
            let marker = match default {
                Some(default) => draft.slot_or(slot, default),
                None => draft.slot(slot),
            };
            draft.portable().env(variable, &marker)?;
        }
        if let Some(writes) = &self.script.writes {
            writes(draft)?;
        }
        // Written first: a failing optional extension's writes must be dropped by the engine.
        self.watch(Phase::PreparePlan).await
    }

    async fn validate_plan(&self, _cx: &RequestContext, _plan: &PlanView) -> StepResult {
        self.watch(Phase::ValidatePlan).await
    }

    async fn before_create(&self, cx: &HookContext) -> StepResult<SlotValues> {
        let act = self.run(cx, about(cx), Told::default(), Deed::Acquire(&["create"])).await?;
        let mut values: SlotValues = self
            .script
            .slots
            .iter()
            .map(|(slot, _, _)| (slot.clone(), format!("{}-of-{}", slot, cx.sandbox)))
            .collect();
        if act == Act::WrongSlots {
            values.pop_first();
        }
        Ok(values)
    }

    async fn after_create(&self, cx: &HookContext) -> StepResult {
        self.run(cx, about(cx), Told::default(), Deed::Acquire(&["object"])).await.map(drop)
    }

    async fn before_start(&self, cx: &HookContext, reason: StartReason) -> StepResult {
        self.run(cx, about(cx), because(reason.as_str()), Deed::Acquire(&["start"])).await.map(drop)
    }

    async fn after_ready(&self, cx: &HookContext, reason: StartReason) -> StepResult {
        self.run(cx, about(cx), because(reason.as_str()), Deed::Acquire(&["ready"])).await.map(drop)
    }

    async fn approve_stop(&self, cx: &HookContext, reason: StopReason) -> StepResult<Approval> {
        match self.run(cx, about(cx), because(reason.as_str()), Deed::Nothing).await? {
            Act::Veto(why) => Ok(Approval::Veto(why)),
            _ => Ok(Approval::Approve),
        }
    }

    async fn before_stop(&self, cx: &HookContext, reason: StopReason) -> StepResult {
        self.run(cx, about(cx), because(reason.as_str()), Deed::Nothing).await.map(drop)
    }

    async fn after_stop(&self, cx: &HookContext, told: Ran, reason: StopReason) -> StepResult {
        let told = ran(told, Some(reason.to_string()));
        self.run(cx, about(cx), told, Deed::Release(&["start", "ready"])).await.map(drop)
    }

    async fn on_create_failed(&self, cx: &HookContext, told: Ran, failure: &CreateFailure) -> StepResult {
        let told = ran(told, Some(failure.step.clone()));
        self.run(cx, about(cx), told, Deed::Release(&["create", "object"])).await.map(drop)
    }

    async fn before_delete(&self, cx: &HookContext) -> StepResult {
        self.run(cx, about(cx), Told::default(), Deed::Nothing).await.map(drop)
    }

    async fn after_delete(&self, cx: &HookContext, told: Ran) -> StepResult {
        self.run(cx, about(cx), ran(told, None), Deed::Release(&["create", "object", "repair"])).await.map(drop)
    }

    async fn reconcile(&self, cx: &HookContext) -> ReconcileOutcome {
        let outcome = self.script.outcome();
        let deed = match &outcome {
            ReconcileOutcome::Repaired(_) => Deed::Acquire(&["repair"]),
            _ => Deed::Nothing,
        };
        match self.run(cx, about(cx), Told::default(), deed).await {
            Ok(_) => outcome,
            Err(error) => ReconcileOutcome::Failed(error.to_string()),
        }
    }

    async fn held(&self, page: Option<String>) -> StepResult<HeldPage> {
        self.process.live().await;
        let mut ids = self.ledger.held_by(self.script.name());
        if let Some(after) = page {
            ids.retain(|id| id.as_str() > after.as_str());
        }
        let more = ids.len() > PAGE;
        ids.truncate(PAGE);
        let next = ids.last().filter(|_| more).map(ToString::to_string);
        Ok(HeldPage { ids, next })
    }

    async fn release(&self, ids: &[SandboxId]) -> StepResult {
        self.process.live().await;
        let extension = self.script.name().clone();
        self.ledger.by(&self.process, What::Sweep { extension: extension.clone(), ids: ids.to_vec() });
        match self.script.act(Phase::Sweep) {
            Act::Fail(error) | Act::Refuse(error) => return Err(error),
            Act::Hang | Act::Obey => std::future::pending::<()>().await,
            _ => {}
        }
        for ((holder, key), subject) in self.ledger.held() {
            if holder == extension && subject.sandbox().is_some_and(|id| ids.contains(id)) {
                self.process.live().await;
                self.ledger.by(&self.process, What::Release { extension: holder, subject, key, call: None });
            }
        }
        Ok(())
    }

    async fn ensure_workspace(&self, cx: &WorkspaceContext) -> StepResult {
        self.run(cx, workspace(cx), Told::default(), Deed::Acquire(&["workspace"])).await.map(drop)
    }

    async fn release_workspace(&self, cx: &WorkspaceContext, told: Ran) -> StepResult {
        self.run(cx, workspace(cx), ran(told, None), Deed::Release(&["workspace"])).await.map(drop)
    }
}
