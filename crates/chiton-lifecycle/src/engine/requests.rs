//! Request ids: a repeat never runs twice (rule 17).

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use async_lock::Mutex as AsyncMutex;
use chiton_model::Error;
use parking_lot::Mutex;
use serde::Serialize;

use super::inner::{Inner, store_error};
use super::{Accepted, Request};
use crate::crash::CommitKind;
use crate::journal::{RequestKey, RequestRecord, Subject, Write};
use crate::plan::digest_json;

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
    pub(super) fn writes(&self, inner: &Inner, operation: &chiton_model::OperationId, subject: &Subject) -> Vec<Write> {
        let Some((key, body)) = &self.key else { return Vec::new() };
        let keep =
            jiff::SignedDuration::try_from(inner.config.keep_requests).unwrap_or(jiff::SignedDuration::from_hours(24));
        let now = inner.world.clock.now();
        vec![Write::PutRequest(Box::new(RequestRecord {
            key: key.clone(),
            body: body.clone(),
            operation: operation.clone(),
            subject: subject.clone(),
            expires_at: now.checked_add(keep).unwrap_or(now),
        }))]
    }
}

impl Inner {
    /// Remembers a request id whose request joined an operation that was running already.
    pub(super) async fn remember(
        &self,
        claim: &Claim,
        operation: &chiton_model::OperationId,
        subject: &Subject,
    ) -> Result<(), Error> {
        let writes = claim.writes(self, operation, subject);
        if writes.is_empty() {
            return Ok(());
        }
        self.journal.write(CommitKind::Request, None, writes).await.map_err(store_error)
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
        match sandbox {
            Some(sandbox) => Ok(Claimed::Repeat(Box::new(Accepted { sandbox, operation: Some(record.operation) }))),
            None => Err(Error::not_found(format!(
                "request id {request_id:?} was answered before, and its sandbox is gone by now"
            ))
            .cure("use a fresh request id for a new request")),
        }
    }
}
