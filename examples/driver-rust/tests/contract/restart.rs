//! Ends of the driver itself.

use std::fs;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tonic::Code;

use crate::subject::{Subject, heard, script, sleeper, stubborn};

pub(crate) async fn killed_it_finds_its_sandboxes_again(mut subject: Subject) {
    let client = subject.client().await;
    let pipe = subject.pipe("said");
    let waiting = format!("read word < {pipe}; exit $word");
    client.create(&script("waits", &waiting)).await.unwrap();
    client.create(&sleeper("sleeps")).await.unwrap();
    client.create(&script("ended", "exit 8")).await.unwrap();
    client.ended("ended").await;
    let mut before = client.list().await;
    let mut processes = subject.until_processes(4, "two keepers and their main processes").await;
    subject.killed_and_back();
    let client = subject.client().await;
    let mut after = client.list().await;
    for list in [&mut before, &mut after] {
        list.sort_by(|one, two| one.id.cmp(&two.id));
    }
    assert_eq!(after, before);
    let mut still = subject.until_processes(4, "two keepers and their main processes").await;
    processes.sort_unstable();
    still.sort_unstable();
    assert_eq!(still, processes, "other processes than before");
    // They are followed as before: what ends is told, what is to stop stops, and a create makes no second one.
    let mut news = client.watch().await;
    assert_eq!(news.snapshot().await.len(), 3);
    tokio::task::spawn_blocking(move || fs::write(pipe, "77\n")).await.unwrap().unwrap();
    assert_eq!(news.status("waits", |status| status.state == "exited").await.exit_code, Some(77));
    client.create(&sleeper("sleeps")).await.unwrap();
    client.stop("sleeps").await.unwrap();
    assert_eq!(news.status("sleeps", |status| status.state == "exited").await.exit_code, Some(143));
    client.start("sleeps", None).await.unwrap();
    assert_eq!(client.status("sleeps").await.state, "running");
    subject.nothing_left().await;
}

pub(crate) async fn killed_it_still_knows_how_they_ended(mut subject: Subject) {
    let client = subject.client().await;
    let pipe = subject.pipe("said");
    // With a child, which ends with it, also when no driver is there.
    let waiting = format!("sleep 1000 & read word < {pipe}; exit $word");
    client.create(&script("one", &waiting)).await.unwrap();
    subject.process.kill().unwrap();
    subject.process.wait().unwrap();
    tokio::task::spawn_blocking(move || fs::write(pipe, "66\n")).await.unwrap().unwrap();
    subject.until_none_runs().await;
    subject.back();
    let told = subject.client().await.status("one").await;
    assert_eq!((told.state.as_str(), told.exit_code), ("exited", Some(66)));
    subject.nothing_left().await;
}

pub(crate) async fn killed_amid_creates_it_leaves_nothing(mut subject: Subject) {
    for round in 0..6_u32 {
        let client = subject.client().await;
        let creates: Vec<_> = (0..4)
            .map(|number| {
                let (client, asked) = (client.clone(), sleeper(&format!("r{round}-{number}")));
                tokio::spawn(async move { client.create(&asked).await })
            })
            .collect();
        // Ever later within the creates, by what happens in them.
        let mut news = client.watch().await;
        for _ in 0..round.saturating_sub(1) {
            if news.next().await.is_err() {
                break;
            }
        }
        subject.killed_and_back();
        for create in creates {
            drop(create.await.unwrap());
        }
        // Who does not know what became of a create repeats it.
        let client = subject.client().await;
        for number in 0..4 {
            let id = format!("r{round}-{number}");
            client.create(&sleeper(&id)).await.unwrap();
            let state = client.status(&id).await.state;
            assert!(state == "running" || state == "exited", "{id}: {state}");
        }
        assert_eq!(client.list().await.len(), 4);
        let running =
            client.list().await.into_iter().filter(|found| found.status.as_ref().unwrap().state == "running").count();
        // Nobody runs twice, and nobody whom the driver does not know.
        // A keeper that was told to begin when the driver died may be about to.
        assert!(subject.mains() <= running, "{} main processes, {running} are known", subject.mains());
        subject.nothing_left().await;
    }
}

pub(crate) async fn what_a_crash_left_half_done_is_removed(mut subject: Subject) {
    let client = subject.client().await;
    client.create(&script("half", "mkdir -p deep/er; chmod 0 deep; exit 0")).await.unwrap();
    client.ended("half").await;
    client.create(&sleeper("whole")).await.unwrap();
    subject.process.kill().unwrap();
    subject.process.wait().unwrap();
    // A delete that died when it had begun to remove, and one that died before.
    for id in ["half", "whole"] {
        fs::write(subject.state().join("deleted").join(id), "null").unwrap();
    }
    fs::remove_file(subject.sandbox("half").join("sandbox.json")).unwrap();
    subject.back();
    let client = subject.client().await;
    assert_eq!(client.list().await, []);
    subject.nothing_left().await;
}

pub(crate) async fn terminated_it_ends_its_watches_and_keeps_its_sandboxes(mut subject: Subject) {
    let client = subject.client().await;
    let pipe = subject.pipe("said");
    client.create(&stubborn("deaf", &pipe, 1)).await.unwrap();
    client.create(&sleeper("one")).await.unwrap();
    heard(&pipe).await;
    let mut news = client.watch().await;
    news.snapshot().await;
    // A call that is under way goes on to its end.
    let stopping = client.clone();
    let stop = tokio::spawn(async move { stopping.stop("deaf").await });
    assert_eq!(heard(&pipe).await, "asked");
    let pid = Pid::from_raw(i32::try_from(subject.process.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    stop.await.unwrap().unwrap();
    let over = loop {
        if let Err(status) = news.next().await {
            break status;
        }
    };
    assert_eq!(over.code(), Code::Unavailable, "{over:?}");
    drop((client, news));
    assert!(subject.process.wait().unwrap().success());
    assert!(!subject.socket().exists(), "the socket is left");
    // Those of the one that was stopped may still be ending.
    subject.until_processes(2, "one keeper and its main process go on").await;
    subject.back();
    let client = subject.client().await;
    assert_eq!(client.status("one").await.state, "running");
    assert_eq!(client.status("deaf").await.exit_code, Some(137));
    subject.nothing_left().await;
}

pub(crate) async fn two_on_one_state_are_refused(subject: Subject) {
    let mut other = subject.another();
    let other = tokio::task::spawn_blocking(move || other.stderr(Stdio::piped()).output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(!other.status.success() && said.contains("another"), "{other:?}");
    // The first one is not disturbed.
    subject.client().await.create(&sleeper("one")).await.unwrap();
    subject.nothing_left().await;
}
