//! The store as a stream.

use std::io::Read as _;
use std::sync::Arc;

use chiton_client::to_status;
use chiton_lifecycle::journal::{AuditRecord, Commit, Journal as _, Write};
use chiton_model::{Error, Principal};
use chiton_proto::v1 as wire;
use chiton_proto::v1::backup_part::Part;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::service::Api;

/// Bytes of one message.
const PIECE: usize = 256 * 1024;
/// Messages on their way: a client that reads slowly keeps a file open, and no memory.
const AHEAD: usize = 4;

impl Api {
    pub(super) async fn backup(
        &self,
        principal: Principal,
        _: wire::BackupRequest,
    ) -> Result<BoxStream<'static, Result<wire::BackupPart, Status>>, Error> {
        let own = rustix::process::geteuid().as_raw();
        if ![0, own].iter().any(|uid| principal.subject == format!("uid:{uid}")) {
            return Err(Error::refused("policy", "a backup holds the records of all callers")
                .cure(format!("ask as root or as the gateway's own user (uid {own})")));
        }
        let store = Arc::clone(&self.store);
        let snapshot = tokio::task::spawn_blocking(move || store.snapshot())
            .await
            .map_err(|error| Error::internal(format!("the copy of the store broke off: {error}")))??;
        let manifest = snapshot.manifest.clone();
        let text = serde_json::to_string(&manifest)
            .map_err(|error| Error::internal(format!("the manifest cannot be encoded: {error}")))?;
        // Before a byte leaves: nobody has a copy that is not in the audit trail.
        let audit = AuditRecord {
            at: Timestamp::now(),
            action: "store.backup".to_owned(),
            subject: manifest.epoch.to_string(),
            by: principal.subject,
            message: format!("sha256 {}", manifest.sha256),
        };
        let commit = Commit { number: 0, checks: Vec::new(), writes: vec![Write::Audit(Box::new(audit))] };
        self.store.commit(commit).await.map_err(|error| Error::unavailable("store", error.to_string()))?;
        let (parts, stream) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || {
            let send = |part| parts.blocking_send(Ok(wire::BackupPart { part: Some(part) })).is_ok();
            if !send(Part::Manifest(text)) {
                return;
            }
            let mut database = snapshot.into_database();
            loop {
                let mut piece = vec![0; PIECE];
                match database.read(&mut piece) {
                    Ok(0) => return,
                    Ok(read) => {
                        piece.truncate(read);
                        if !send(Part::Data(piece)) {
                            return;
                        }
                    }
                    Err(error) => {
                        let error = Error::unavailable("store", format!("the copy cannot be read: {error}"));
                        // Nobody listens any more, or the client is told.
                        drop(parts.blocking_send(Err(to_status(&error))));
                        return;
                    }
                }
            }
        });
        Ok(ReceiverStream::new(stream).boxed())
    }
}
