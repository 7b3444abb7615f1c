//! Fences answer when what they name is over, and not before; what they name does not begin after them.

use std::collections::HashSet;

use chiton_lifecycle::journal::Subject;
use chiton_lifecycle::runtime::CancelToken;
use chiton_model::SandboxId;
use futures::FutureExt as _;
use tonic::Code;

use super::Steps;
use crate::proto::{OperationFence, StepId};

fn id(run: &str, call: u64) -> StepId {
    StepId {
        gateway_run: run.to_owned(),
        call,
        operation: "op-1".to_owned(),
        phase: "before_create".to_owned(),
        extension: "x".to_owned(),
        attempt: 1,
    }
}

fn subject(n: u8) -> Subject {
    Subject::Sandbox(SandboxId::generate(1, [n; 10]))
}

fn operation(run: &str) -> OperationFence {
    OperationFence { operation: "op-1".to_owned(), extension: "x".to_owned(), gateway_run: run.to_owned() }
}

#[tokio::test]
async fn a_fence_cancels_its_step_and_answers_when_it_is_over() {
    let (steps, cancel) = (Steps::default(), CancelToken::new());
    let begun = steps.begin(&id("a", 1), &subject(1), &cancel).await.expect("begun");
    let step = id("a", 1);
    let mut fence = Box::pin(steps.fence_step(&step));
    assert!((&mut fence).now_or_never().is_none(), "it runs");
    assert!(cancel.is_cancelled());
    assert_eq!(steps.running(), HashSet::from([1]));
    drop(begun);
    fence.await;
    assert_eq!(steps.running(), HashSet::new());
}

#[tokio::test]
async fn what_was_fenced_before_it_arrived_does_not_begin() {
    let (steps, cancel) = (Steps::default(), CancelToken::new());
    steps.fence_step(&id("a", 1)).await;
    let refused = steps.begin(&id("a", 1), &subject(1), &cancel).await.err().expect("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let other = steps.begin(&id("a", 2), &subject(1), &cancel).await;
    assert!(other.is_ok(), "another attempt is not meant");
}

#[tokio::test]
async fn a_fence_of_an_operation_means_the_steps_of_other_lives_and_only_those() {
    let steps = Steps::default();
    let (old, new) = (CancelToken::new(), CancelToken::new());
    let before = steps.begin(&id("old", 1), &subject(1), &old).await.expect("begun");
    let own = steps.begin(&id("new", 1), &subject(2), &new).await.expect("begun");
    let mut fence = Box::pin(async { steps.fence_operation(&operation("new")).await });
    assert!((&mut fence).now_or_never().is_none(), "a step of the old life runs");
    assert!(old.is_cancelled() && !new.is_cancelled());
    drop(before);
    fence.await;
    drop(own);
    let late = steps.begin(&id("old", 2), &subject(1), &CancelToken::new()).await.err().expect("refused");
    assert_eq!(late.code(), Code::FailedPrecondition);
    assert!(steps.begin(&id("new", 2), &subject(1), &CancelToken::new()).await.is_ok());
}

#[tokio::test]
async fn a_step_of_a_new_life_waits_for_those_of_the_old_one_on_its_subject() {
    let steps = Steps::default();
    let old = CancelToken::new();
    let before = steps.begin(&id("old", 1), &subject(1), &old).await.expect("begun");
    let (new, about) = (id("new", 1), subject(1));
    let token = CancelToken::new();
    let mut begin = Box::pin(steps.begin(&new, &about, &token));
    assert!((&mut begin).now_or_never().is_none());
    assert!(old.is_cancelled());
    drop(before);
    assert!(begin.await.is_ok());
}

#[tokio::test]
async fn a_process_that_drains_takes_no_step_and_waits_for_the_last() {
    let steps = Steps::default();
    let begun = steps.begin(&id("a", 1), &subject(1), &CancelToken::new()).await.expect("begun");
    let mut drain = Box::pin(steps.drain());
    assert!((&mut drain).now_or_never().is_none());
    let refused = steps.begin(&id("a", 2), &subject(2), &CancelToken::new()).await.err().expect("refused");
    assert_eq!(refused.code(), Code::Unavailable, "to be tried again by the process that comes after");
    drop(begun);
    drain.await;
}
