//! When a deletion counts as one.

use std::time::Duration;

use chiton_driver_scripted::Fault;

use crate::harness::{Base, Served, sandbox};

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_counts_from_the_absence_that_the_base_confirms() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut base = Base::start(folder.path());
    let served = Served::start(folder.path(), vec![]).await;
    served.create(sandbox("s-slow")).await.expect("it is made");
    served.until("s-slow", "running").await;
    base.become_faulty(&[Fault::HangsOnDelete]);
    assert!(served.delete("s-slow").await.expect("it goes"));
    let list = folder.path().join("data/deleted");
    let said = || std::fs::read_to_string(&list).expect("a list");
    assert!(said().contains(" s-slow\n") && !said().contains("absent"), "{}", said());
    base.become_faulty(&[]);
    served.gone("s-slow").await;
    let began = std::time::Instant::now();
    while !said().contains(" s-slow absent\n") {
        assert!(began.elapsed() < Duration::from_mins(1), "{}", said());
        tokio::task::yield_now().await;
    }
    // Nothing is there to wait for.
    assert!(!served.delete("s-never").await.expect("it is not there"));
    assert!(said().contains(" s-never absent\n"), "{}", said());
}
