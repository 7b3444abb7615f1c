use std::cell::Cell;

use chiton_driver::CallError;
use tokio::time::Instant;

use super::*;

fn id() -> DriverId {
    DriverId::new("kyma").expect("an id")
}

fn nobody() -> CallResult<BackendId> {
    Err(CallError::NotRun(Error::unavailable("kyma", "nobody listens at \"/run/kyma.sock\"").cure("start it")))
}

#[tokio::test(start_paused = true)]
async fn a_required_driver_may_come_a_moment_later() {
    let asked = Cell::new(0);
    let fault = wait_for(id(), || {
        asked.set(asked.get() + 1);
        let answer = if asked.get() < 5 { nobody() } else { Ok(BackendId("there".to_owned())) };
        async { answer }
    });
    assert_eq!((fault.await, asked.get()), (None, 5));
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_come_ends_the_start_with_the_last_reason_and_both_ways_out() {
    let begun = Instant::now();
    let asked = Cell::new(0);
    let fault = wait_for(id(), || {
        asked.set(asked.get() + 1);
        async { nobody() }
    });
    let error = fault.await.expect("it never came");
    assert_eq!(begun.elapsed(), PATIENCE);
    assert!((10..40).contains(&asked.get()), "asked {} times: neither once nor in a busy loop", asked.get());
    assert_eq!(
        error.message,
        "driver \"kyma\" is required and could not be reached for 30 s: nobody listens at \"/run/kyma.sock\""
    );
    assert_eq!(
        error.cure.as_deref(),
        Some(
            "start it; or start without it, then only its own sandboxes wait for it: required = false in [compute.driver.kyma]"
        )
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_ends_it_too() {
    let begun = Instant::now();
    let fault = wait_for(id(), std::future::pending).await.expect("it hangs");
    assert_eq!(begun.elapsed(), PATIENCE);
    assert!(fault.message.ends_with("it does not answer"), "{fault}");
}
