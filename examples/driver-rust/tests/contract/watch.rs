//! Watches.

use chiton_compute_wire::v1::watch_sandboxes_event::Payload;

use crate::subject::{Subject, script, sleeper};

pub(crate) async fn a_watch_is_a_snapshot_and_then_changes(subject: Subject) {
    let client = subject.client().await;
    client.create(&sleeper("one")).await.unwrap();
    client.create(&script("two", "exit 4")).await.unwrap();
    client.ended("two").await;
    let mut watches = [client.watch().await, subject.client().await.watch().await, client.watch().await];
    for news in &mut watches {
        let mut found: Vec<_> =
            news.snapshot().await.into_iter().map(|sandbox| (sandbox.id, sandbox.status.unwrap().state)).collect();
        found.sort();
        assert_eq!(found, [("one".to_owned(), "running".to_owned()), ("two".to_owned(), "exited".to_owned())]);
    }
    client.stop("one").await.unwrap();
    client.create(&script("three", "exit 6")).await.unwrap();
    client.ended("three").await;
    client.delete("two").await.unwrap();
    client.start("one", None).await.unwrap();
    client.delete("one").await.unwrap();
    for news in &mut watches {
        assert_eq!(news.status("one", |status| status.state == "exited").await.exit_code, Some(143));
        assert_eq!(news.status("three", |status| status.state == "exited").await.exit_code, Some(6));
        news.deleted("two").await;
        news.status("one", |status| status.state == "running").await;
        news.status("one", |status| status.deleting).await;
        news.deleted("one").await;
    }
    subject.nothing_left().await;
}

pub(crate) async fn who_does_not_read_holds_up_nobody(subject: Subject) {
    let client = subject.client().await;
    let mut unread = client.watch().await;
    let mut read = subject.client().await.watch().await;
    assert_eq!(read.snapshot().await, []);
    // More news than any buffer on the way holds for one who does not read.
    let long = "l".repeat(60_000);
    let mut asked = sleeper("one");
    crate::subject::template(&mut asked).labels.insert("long".to_owned(), long);
    for round in 0..40 {
        asked.id = format!("round-{round}");
        client.create(&asked).await.unwrap();
        read.status(&asked.id, |status| status.state == "running").await;
        client.delete(&asked.id).await.unwrap();
        read.deleted(&asked.id).await;
    }
    // Who reads late is told all, or that it has to begin anew.
    let mut last = None;
    loop {
        match unread.next().await {
            Ok(Payload::Deleted(event)) if event.sandbox_id == asked.id => break,
            Ok(_) => {}
            Err(status) => {
                last = Some(status);
                break;
            }
        }
    }
    assert!(last.is_none_or(|status| status.code() == tonic::Code::Unavailable));
    subject.nothing_left().await;
}
