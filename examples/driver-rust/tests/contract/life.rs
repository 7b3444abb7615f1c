//! Creates, starts, stops and deletes, again and at once.

use std::fs;

use tonic::Code;

use crate::subject::{Subject, heard, script, sleeper, stubborn};

pub(crate) async fn creates_starts_stops_and_deletes_may_be_repeated(mut subject: Subject) {
    let client = subject.client().await;
    for id in ["one", "never"] {
        assert_eq!(client.get(id).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(client.start(id, None).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(client.stop(id).await.unwrap_err().code(), Code::NotFound);
    }
    for _ in 0..3 {
        client.create(&sleeper("one")).await.unwrap();
        client.start("one", None).await.unwrap();
    }
    let running = client.status("one").await;
    assert_eq!((running.state.as_str(), running.exit_code), ("running", None));
    assert_eq!(client.list().await.len(), 1);
    client.stop("one").await.unwrap();
    let stopped = client.status("one").await;
    assert_eq!((stopped.state.as_str(), stopped.exit_code), ("exited", Some(143)));
    client.stop("one").await.unwrap();
    // It was made: a create does not start it again.
    client.create(&sleeper("one")).await.unwrap();
    assert_eq!(client.status("one").await, stopped);
    client.start("one", None).await.unwrap();
    assert_eq!(client.status("one").await.state, "running");
    assert!(client.delete("one").await.unwrap());
    assert!(!client.delete("one").await.unwrap());
    assert!(!client.delete("never").await.unwrap());
    for again in [false, true] {
        if again {
            subject.killed_and_back();
        }
        let client = subject.client().await;
        for id in ["one", "never"] {
            let status = client.create(&sleeper(id)).await.unwrap_err();
            assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
            assert_eq!(client.get(id).await.unwrap_err().code(), Code::NotFound);
        }
    }
    subject.nothing_left().await;
}

pub(crate) async fn ten_creates_at_once_make_one(subject: Subject) {
    let client = subject.client().await;
    let asked = script("one", "echo began >> ../began; sleep 1000");
    let creates: Vec<_> = (0..10)
        .map(|_| {
            let (client, asked) = (client.clone(), asked.clone());
            tokio::spawn(async move { client.create(&asked).await })
        })
        .collect();
    for create in creates {
        create.await.unwrap().unwrap();
    }
    assert_eq!(client.list().await.len(), 1);
    client.stop("one").await.unwrap();
    client.start("one", None).await.unwrap();
    client.stop("one").await.unwrap();
    let began = fs::read_to_string(subject.sandbox("one").join("began")).unwrap_or_default();
    assert!(began.lines().count() <= 2, "ten creates and a start ran it so often: {began:?}");
    subject.nothing_left().await;
}

pub(crate) async fn creates_and_deletes_of_one_id_leave_nothing(subject: Subject) {
    let client = subject.client().await;
    for round in 0..10 {
        let id = format!("round-{round}");
        let (creator, asked) = (client.clone(), sleeper(&id));
        let create = tokio::spawn(async move { creator.create(&asked).await });
        for _ in 0..round * 30 {
            tokio::task::yield_now().await;
        }
        client.delete(&id).await.unwrap();
        if let Err(status) = create.await.unwrap() {
            assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        }
        assert_eq!(client.get(&id).await.unwrap_err().code(), Code::NotFound);
    }
    subject.nothing_left().await;
}

pub(crate) async fn a_start_finds_the_files_and_runs_what_it_carries(subject: Subject) {
    let client = subject.client().await;
    let pipe = subject.pipe("said");
    client.create(&script("one", &format!("echo first >> kept; cat kept > {pipe}"))).await.unwrap();
    assert_eq!(heard(&pipe).await, "first");
    client.ended("one").await;
    // As it was asked at first.
    let mut news = client.watch().await;
    news.snapshot().await;
    client.start("one", None).await.unwrap();
    assert_eq!(heard(&pipe).await, "first\nfirst");
    news.status("one", |status| status.state == "exited").await;
    let mut next = script("one", &format!("cat kept > {pipe}; exit 9"));
    next.spec.get_or_insert_default().agent_attempt = "second".into();
    let other = sleeper("other");
    assert_eq!(client.start("one", Some(other)).await.unwrap_err().code(), Code::InvalidArgument);
    client.start("one", Some(next)).await.unwrap();
    assert_eq!(heard(&pipe).await, "first\nfirst");
    let told = news.status("one", |status| status.state == "exited" && status.attempt == "second").await;
    assert_eq!(told.exit_code, Some(9));
    subject.nothing_left().await;
}

pub(crate) async fn a_caller_who_goes_away_changes_nothing(subject: Subject) {
    let client = subject.client().await;
    let mut news = client.watch().await;
    assert_eq!(news.snapshot().await, []);
    let pipe = subject.pipe("said");
    // Its stop takes some seconds, and its caller does not wait for it.
    client.create(&stubborn("one", &pipe, 5)).await.unwrap();
    heard(&pipe).await;
    let leaving = subject.client().await;
    let stop = tokio::spawn(async move { leaving.stop("one").await });
    assert_eq!(heard(&pipe).await, "asked");
    stop.abort();
    assert!(stop.await.unwrap_err().is_cancelled(), "the stop did not take its grace");
    let told = news.status("one", |status| status.state == "exited").await;
    assert_eq!(told.exit_code, Some(137));
    news.status("one", |status| status.conditions.len() == 2).await;
    subject.nothing_left().await;
}
