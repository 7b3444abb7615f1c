//! A process that takes connections and never says a word.

mod common;

use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use chiton_driver::{CallError, ComputeDriver as _, Deadlines, WhoseAgent};
use chiton_model::{ErrorKind, SandboxId};
use futures::future::join_all;

/// Listens in a folder of its own and counts who came.
fn silent() -> (tempfile::TempDir, std::path::PathBuf, UnixListener) {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("driver.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    listener.set_nonblocking(true).expect("it can");
    (folder, socket, listener)
}

fn visitors(listener: &UnixListener) -> usize {
    std::iter::from_fn(|| listener.accept().ok()).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_callers_share_one_dial_and_learn_that_nothing_was_asked() {
    let (_folder, socket, listener) = silent();
    let driver = common::driver(&socket, WhoseAgent::None, Deadlines::default());
    let begun = Instant::now();
    let create = |number: usize| {
        let (driver, call) = (&driver, common::call(&format!("s-{number}"), &[], None));
        async move { driver.create(&call).await }
    };
    let id = SandboxId::new("s-0").expect("an id");
    let (created, looked) = tokio::join!(join_all((0..5).map(create)), join_all((0..5).map(|_| driver.get(&id))));
    let errors = created.into_iter().map(Result::unwrap_err);
    for error in errors.chain(looked.into_iter().map(|found| found.unwrap_err())) {
        let CallError::NotRun(error) = error else { panic!("{error:?} leaves open whether it was done") };
        assert!(error.message.contains("driver.sock") && error.cure.is_some(), "{error:?}");
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(30), "one dial's time is five seconds, not {took:?}");
    assert_eq!(visitors(&listener), 1);

    // Whoever comes right after hears the same, and later ones dial anew. On a machine that is busy the moment for
    // which it is kept may be over; then this one has dialled, and the next comes right after.
    let mut kept = false;
    for _ in 0..5 {
        let CallError::NotRun(error) = driver.get(&id).await.unwrap_err() else { panic!("nothing was asked") };
        assert!(error.message.contains("driver.sock"), "{error:?}");
        kept = visitors(&listener) == 0;
        if kept {
            break;
        }
    }
    assert!(kept, "each dials anew");
    tokio::time::timeout(Duration::from_mins(1), async {
        while visitors(&listener) == 0 {
            driver.get(&id).await.unwrap_err();
        }
    })
    .await
    .expect("a failure is not kept for ever");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_ends_before_the_time_that_the_engine_gives_it_and_names_the_socket() {
    let (_folder, socket, _listener) = silent();
    let look = Duration::from_secs(1);
    let driver = common::driver(&socket, WhoseAgent::None, Deadlines { look, ..Deadlines::default() });
    let id = SandboxId::new("s-0").expect("an id");
    let looked = tokio::time::timeout(look, driver.get(&id)).await.expect("it ends by itself");
    assert!(looked.unwrap_err().error().message.contains("driver.sock"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_that_hangs_after_its_greeting_is_named_by_its_socket_and_the_outcome_is_open() {
    let rig = common::Rig::new(common::script(&[chiton_driver_scripted::Fault::HangsOnCreate], true));
    let act = Duration::from_secs(1);
    let driver = common::driver(&rig.socket(), WhoseAgent::None, Deadlines { act, ..Deadlines::default() });
    driver.greet().await.expect("it answers");
    let call = common::call("s-1", &[], None);
    let created = tokio::time::timeout(act, driver.create(&call)).await.expect("it ends by itself");
    let CallError::Unknown(error) = created.unwrap_err() else { panic!("it was asked") };
    assert!(error.kind == ErrorKind::Deadline && error.message.contains("driver.sock"), "{error:?}");
}
