//! Request ids: a repeat never runs twice (rule 17).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use async_lock::Mutex as AsyncMutex;
use chiton_model::{Error, OperationId};
use parking_lot::Mutex;
use serde::Serialize;

use super::inner::{Inner, store_error};
use super::{Accepted, Engine, Request};
use crate::crash::CommitKind;
use crate::journal::{RequestKey, RequestRecord, SandboxRecord, Write};
use crate::plan::{SealedPlan, digest_json};

/// One gate per request id that is on its way to C1: a repeat that arrives meanwhile waits and then finds the record.
#[derive(Default)]
pub(super) struct Gates(Mutex<HashMap<RequestKey, Weak<AsyncMutex<()>>>>);

impl Gates {
    fn gate(&self, key: &RequestKey) -> Arc<AsyncMutex<()>> {
        let mut gates = self.0.lock();
        if let Some(gate) = gates.get(key).and_then(Weak::upgrade) {
            return gate;
        }
        gates.retain(|_, gate| gate.strong_count() > 0);
        let gate = Arc::new(AsyncMutex::new(()));
        gates.insert(key.clone(), Arc::downgrade(&gate));
        gate
    }
}

/// A request id that is being used: its record goes into C1.
pub(super) struct Claim {
    key: Option<(RequestKey, String)>,
    _gate: Option<async_lock::MutexGuardArc<()>>,
}

/// What a request id came to.
pub(super) enum Claimed {
    /// Not seen before: run, and put [`Claim::writes`] into C1.
    Fresh(Claim),
    /// Seen: this is the answer.
    Repeat(Box<Accepted>),
}

impl Claim {
    /// What C1 must write.
    pub(super) fn writes(&self, inner: &Inner, operation: Option<&OperationId>, sandbox: &SandboxRecord) -> Vec<Write> {
        let Some((key, body)) = &self.key else { return Vec::new() };
        let keep =
            jiff::SignedDuration::try_from(inner.config.keep_requests).unwrap_or(jiff::SignedDuration::from_hours(24));
        let now = inner.world.clock.now();
        vec![Write::PutRequest(Box::new(RequestRecord {
            key: key.clone(),
            body: body.clone(),
            operation: operation.cloned(),
            subject: sandbox.subject(),
            sandbox: Some(Box::new(outline(sandbox))),
            expires_at: now.checked_add(keep).unwrap_or(now),
        }))]
    }
}

impl Inner {
    /// Answers a request that began no operation of its own, and remembers the answer under its id: it joined one that was
    /// running already, or nothing was to be done.
    pub(super) async fn answer(
        &self,
        claim: &Claim,
        sandbox: SandboxRecord,
        operation: Option<OperationId>,
    ) -> Result<Accepted, Error> {
        let writes = claim.writes(self, operation.as_ref(), &sandbox);
        if !writes.is_empty() {
            self.journal.write(CommitKind::Request, None, writes).await.map_err(store_error)?;
        }
        Ok(Accepted { sandbox, operation })
    }

    /// Looks a request id up, or claims it.
    pub(super) async fn claim(&self, request: &Request, method: &str, body: &impl Serialize) -> Result<Claimed, Error> {
        let Some(request_id) = &request.request_id else {
            return Ok(Claimed::Fresh(Claim { key: None, _gate: None }));
        };
        if request_id.is_empty() || request_id.len() > 128 || request_id.chars().any(char::is_control) {
            return Err(Error::invalid(
                "request_id",
                format!("request id {:?} is not valid", request_id.chars().take(128).collect::<String>()),
            )
            .cure("use 1 to 128 characters without control characters, for example a UUID"));
        }
        let document = serde_json::to_value(body)
            .map_err(|error| Error::internal(format!("the request has no JSON form: {error}")))?;
        let body = digest_json(&document)?;
        let key = RequestKey {
            principal: request.principal.subject.clone(),
            method: method.to_owned(),
            request_id: request_id.clone(),
        };
        let guard = self.gates.gate(&key).lock_arc().await;
        let Some(record) = self.journal.request(&key).await.map_err(store_error)? else {
            return Ok(Claimed::Fresh(Claim { key: Some((key, body)), _gate: Some(guard) }));
        };
        if record.body != body {
            return Err(Error::conflict(format!("request id {request_id:?} was used for another {method} request"))
                .cure("use a fresh request id for a new request"));
        }
        let sandbox = match record.subject.sandbox() {
            Some(id) => self.journal.sandbox(id).await.map_err(store_error)?,
            None => None,
        };
        match sandbox.or_else(|| record.sandbox.map(|sandbox| *sandbox)) {
            Some(sandbox) => Ok(Claimed::Repeat(Box::new(Accepted { sandbox, operation: record.operation }))),
            None => Err(Error::not_found(format!(
                "request id {request_id:?} was answered before, and its sandbox is gone by now"
            ))
            .cure("use a fresh request id for a new request")),
        }
    }
}

impl Engine {
    /// The sandbox of which a request with this id was answered before. A caller that names a sandbox needs it when the
    /// row is gone, or when another one has the name by now.
    pub async fn answered(&self, request: &Request, method: &str) -> Result<Option<SandboxRecord>, Error> {
        let Some(request_id) = request.request_id.clone() else { return Ok(None) };
        let key = RequestKey { principal: request.principal.subject.clone(), method: method.to_owned(), request_id };
        let record = self.inner.journal.request(&key).await.map_err(store_error)?;
        Ok(record.and_then(|record| record.sandbox).map(|sandbox| *sandbox))
    }
}

/// A row without what is large and of no use once it is gone.
fn outline(sandbox: &SandboxRecord) -> SandboxRecord {
    let plan = SealedPlan {
        plan: serde_json::Value::Null,
        slots: BTreeMap::new(),
        owners: BTreeMap::new(),
        writes: Vec::new(),
        ..sandbox.plan.clone()
    };
    SandboxRecord { plan, debts: Vec::new(), ..sandbox.clone() }
}
