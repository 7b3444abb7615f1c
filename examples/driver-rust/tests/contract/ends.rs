//! How main processes end.

use std::time::{Duration, Instant};

use chiton_compute_wire::json::to_struct;
use chiton_compute_wire::names::conditions;
use serde_json::json;

use crate::subject::{Subject, heard, sandbox, script, sleeper, stubborn, template};

pub(crate) async fn exit_codes_are_told(subject: Subject) {
    let client = subject.client().await;
    let cases = [
        ("zero", script("zero", "exit 0"), 0, "Exited"),
        ("many", script("many", "exit 255"), 255, "Exited"),
        ("killed", script("killed", "kill -KILL $$"), 137, "Signaled"),
        ("missing", sandbox("missing", &["/no/such-program"]), 127, "Exited"),
        ("folder", sandbox("folder", &["/"]), 126, "Exited"),
    ];
    for (id, asked, code, reason) in cases {
        client.create(&asked).await.unwrap();
        let told = client.ended(id).await;
        assert_eq!((told.exit_code, told.attempt.as_str()), (Some(code), "first"), "{id}");
        let ready = &told.conditions[0];
        let word = (ready.r#type.as_str(), ready.status.as_str(), ready.reason.as_str());
        assert_eq!(word, (conditions::READY, "False", reason), "{id}");
        assert!(told.conditions.len() == 1, "nobody stopped it: {told:?}");
        assert_eq!(client.status(id).await, told, "{id}");
        assert_eq!(ready.message.contains("cannot be run"), code == 126 || code == 127, "{ready:?}");
    }
    subject.nothing_left().await;
}

pub(crate) async fn a_stop_lets_it_end_by_itself_and_kills_the_deaf(subject: Subject) {
    let client = subject.client().await;
    let pipe = subject.pipe("said");
    let polite = format!("trap 'exit 5' TERM; echo ready > {pipe}; while :; do sleep 0.05; done");
    let mut polite = script("polite", &polite);
    template(&mut polite).driver_config = Some(to_struct(&json!({"grace_seconds": 60})));
    client.create(&polite).await.unwrap();
    heard(&pipe).await;
    let began = Instant::now();
    client.stop("polite").await.unwrap();
    assert!(began.elapsed() < Duration::from_mins(1), "it took the whole grace: {:?}", began.elapsed());
    let told = client.status("polite").await;
    assert_eq!((told.state.as_str(), told.exit_code), ("exited", Some(5)));
    assert_eq!(
        (told.conditions[1].r#type.as_str(), told.conditions[1].status.as_str()),
        (conditions::SUSPENDED, "True")
    );

    client.create(&stubborn("deaf", &pipe, 1)).await.unwrap();
    heard(&pipe).await;
    let began = Instant::now();
    let stopping = client.clone();
    let stop = tokio::spawn(async move { stopping.stop("deaf").await });
    assert_eq!(heard(&pipe).await, "asked");
    stop.await.unwrap().unwrap();
    let took = began.elapsed();
    // Without a word about it, it would be ten.
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(10), "its grace was one second: {took:?}");
    assert_eq!(client.status("deaf").await.exit_code, Some(137));
    subject.nothing_left().await;
}

pub(crate) async fn what_a_main_process_leaves_ends_with_it(subject: Subject) {
    let client = subject.client().await;
    let pipe = subject.pipe("held");
    let held = pipe.clone();
    let closed = tokio::spawn(async move { heard(&held).await });
    client.create(&script("one", &format!("exec 3> {pipe}; sleep 1000 & exit 3"))).await.unwrap();
    assert_eq!(client.ended("one").await.exit_code, Some(3));
    // Whoever held the pipe is gone: its child, too.
    assert_eq!(closed.await.unwrap(), "");
    subject.nothing_left().await;
}

pub(crate) async fn memory_and_niceness_are_held_to(subject: Subject) {
    let client = subject.client().await;
    let pipe = subject.pipe("said");
    for (limit, kilobytes) in [("64Mi", "65536"), ("0.1e9", "97656"), ("1.5Gi", "1572864")] {
        let mut asked = script(&format!("m{kilobytes}"), &format!("echo \"$(ulimit -v) $(nice)\" > {pipe}"));
        template(&mut asked).resources.get_or_insert_default().memory_limit = limit.into();
        template(&mut asked).driver_config = Some(to_struct(&json!({"niceness": 7})));
        client.create(&asked).await.unwrap();
        assert_eq!(heard(&pipe).await, format!("{kilobytes} {}", (subject.niceness() + 7).min(19)));
    }
    // More than that is not to be had.
    let mut asked = script("much", "head -c 200000000 /dev/zero | tail -c 199999999 > /dev/null");
    template(&mut asked).resources.get_or_insert_default().memory_limit = "64Mi".into();
    client.create(&asked).await.unwrap();
    let code = client.ended("much").await.exit_code;
    assert!(code.is_some_and(|code| code != 0), "{code:?}");
    client.create(&sleeper("free")).await.unwrap();
    subject.nothing_left().await;
}
