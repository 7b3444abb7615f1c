//! What becomes of creates that do not come to their intent, and of those whose caller has left.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chiton_compute_wire::v1;
use chiton_lifecycle::extension::{Descriptor, Extension, ExtensionKind, RequestContext, StepResult};
use chiton_model::Phase;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tonic::Code;

use crate::harness::{Base, Served, sandbox};

/// An extension that looks at requests for as long as it is told to.
#[derive(Clone)]
pub(crate) struct Door(Arc<State>);

struct State {
    /// Who came.
    came: Semaphore,
    /// Who may go on.
    open: Semaphore,
    unhealthy: Mutex<Option<String>>,
}

impl Door {
    pub(crate) fn closed() -> Self {
        let (came, open) = (Semaphore::new(0), Semaphore::new(0));
        Self(Arc::new(State { came, open, unhealthy: Mutex::default() }))
    }

    fn open() -> Self {
        let door = Self::closed();
        door.0.open.add_permits(1000);
        door
    }

    pub(crate) fn kind(&self) -> ExtensionKind {
        let door = self.clone();
        let descriptor = Descriptor::new("door", "1.0.0", "Waits", [Phase::ValidateRequest]).expect("a declaration");
        ExtensionKind::dynamic(descriptor, |_| vec![], move |_| Ok(Arc::new(door.clone())))
    }
}

#[async_trait]
impl Extension for Door {
    fn unhealthy_since(&self) -> Option<(jiff::Timestamp, String)> {
        self.0.unhealthy.lock().clone().map(|why| (jiff::Timestamp::UNIX_EPOCH, why))
    }

    async fn validate_request(&self, _: &RequestContext) -> StepResult {
        self.0.came.add_permits(1);
        self.0.open.acquire().await.expect("a door that stays").forget();
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_whose_caller_has_left_does_not_outlive_its_delete() {
    let folder = tempfile::tempdir().expect("a folder");
    let base = Base::start(folder.path());
    let door = Door::closed();
    let served = Arc::new(Served::start(folder.path(), vec![door.kind()]).await);
    let mut client = served.client().await;
    let call = tokio::spawn(async move {
        client.create_sandbox(v1::CreateSandboxRequest { sandbox: Some(sandbox("s-left")) }).await.map(drop)
    });
    door.0.came.acquire().await.expect("it comes").forget();
    call.abort();
    assert!(call.await.expect_err("it was ended").is_cancelled());
    let again = Arc::clone(&served);
    let mut delete = tokio::spawn(async move { again.delete("s-left").await });
    // One that does not wait for the create would be over by then.
    let early = tokio::time::timeout(Duration::from_secs(2), &mut delete).await;
    door.0.open.add_permits(1);
    let deleted = match early {
        Ok(ended) => ended,
        Err(_) => delete.await,
    };
    assert!(deleted.expect("a task").expect("an answer"), "its create was still under way: it is deleted after it");
    if served.get("s-left").await.is_some() {
        served.gone("s-left").await;
    }
    assert_eq!((served.get("s-left").await, base.list().await), (None, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_keeps_a_create_from_its_intent_is_a_refusal() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut base = Base::start(folder.path());
    let door = Door::open();
    let served = Served::start(folder.path(), vec![door.kind()]).await;
    *door.0.unhealthy.lock() = Some("its store is away".to_owned());
    let refused = served.create(sandbox("s-one")).await.expect_err("an extension cannot work");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("its store is away"), "{refused}");
    *door.0.unhealthy.lock() = None;
    base.go_away();
    let refused = served.create(sandbox("s-one")).await.expect_err("the base driver is not there");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert_eq!(served.get("s-one").await, None);
    // What was refused may come again.
    base.become_faulty(&[]);
    served.reaches().await;
    served.create(sandbox("s-one")).await.expect("it is made");
    served.until("s-one", "running").await;
    assert!(served.delete("s-one").await.expect("it goes"));
}
