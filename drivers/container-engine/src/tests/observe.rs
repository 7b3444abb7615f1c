//! The engine's words for a container, all of them.

use std::collections::HashMap;

use bollard::models::{ContainerConfig, ContainerInspectResponse, ContainerState, ContainerStateStatusEnum as Word};
use chiton_driver::ObservedStatus;

use super::identity;
use crate::observe::{Owner, inspected};

fn labels() -> HashMap<String, String> {
    identity().labels().into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn container(state: ContainerState) -> ContainerInspectResponse {
    ContainerInspectResponse {
        config: Some(ContainerConfig { labels: Some(labels()), ..ContainerConfig::default() }),
        state: Some(state),
        ..ContainerInspectResponse::default()
    }
}

fn status(word: Option<Word>) -> ObservedStatus {
    inspected(&container(ContainerState { status: word, ..ContainerState::default() })).unwrap().status
}

#[test]
fn every_word_has_a_status() {
    for (word, wanted) in [
        (Some(Word::CREATED), "created"),
        (Some(Word::RUNNING), "running"),
        (Some(Word::PAUSED), "running"),
        (Some(Word::RESTARTING), "running"),
        (Some(Word::STOPPING), "running"),
        (Some(Word::EXITED), "exited"),
        (Some(Word::REMOVING), "broken"),
        (Some(Word::DEAD), "broken"),
        (Some(Word::EMPTY), "broken"),
        (None, "broken"),
    ] {
        let found = match status(word) {
            ObservedStatus::Created => "created",
            ObservedStatus::Running => "running",
            ObservedStatus::Exited(_) => "exited",
            ObservedStatus::Broken(why) => {
                assert!(!why.is_empty());
                "broken"
            }
        };
        assert_eq!(found, wanted, "{word:?}");
    }
}

#[test]
fn ends_have_a_reason() {
    for (code, oom, wanted) in [
        (Some(0), None, (Some(0), "Exited")),
        (Some(77), Some(false), (Some(77), "Exited")),
        (Some(128), None, (Some(128), "Exited")),
        (Some(137), Some(false), (Some(137), "Signaled")),
        (Some(143), None, (Some(143), "Signaled")),
        (Some(137), Some(true), (Some(137), "OOMKilled")),
        (Some(255), None, (Some(255), "Exited")),
        (None, None, (None, "Unknown")),
        (Some(i64::MAX), None, (None, "Unknown")),
    ] {
        let state = ContainerState {
            status: Some(Word::EXITED),
            exit_code: code,
            oom_killed: oom,
            finished_at: Some("2026-11-21T16:59:40.5Z".to_owned()),
            ..ContainerState::default()
        };
        let ObservedStatus::Exited(exit) = inspected(&container(state)).unwrap().status else { panic!("exited") };
        assert_eq!((exit.code, exit.reason.as_str()), wanted);
        assert_eq!(exit.at, Some("2026-11-21T16:59:40.5Z".parse().unwrap()));
    }
    for never in ["0001-01-01T00:00:00Z", "", "yesterday"] {
        let state = ContainerState {
            status: Some(Word::EXITED),
            finished_at: Some(never.to_owned()),
            ..ContainerState::default()
        };
        let ObservedStatus::Exited(exit) = inspected(&container(state)).unwrap().status else { panic!("exited") };
        assert_eq!(exit.at, None, "{never:?}");
    }
}

#[test]
fn what_lacks_a_label_is_nobodys() {
    assert!(Owner::read(&labels()).is_some_and(|owner| owner.gateway == identity().gateway));
    use chiton_model::label::managed;
    for key in [managed::GATEWAY_ID, managed::SANDBOX_ID, managed::STORE_EPOCH, managed::COMMIT] {
        let mut without = labels();
        without.remove(key);
        assert!(Owner::read(&without).is_none(), "without {key}");
        without.insert(key.to_owned(), "../no such id".to_owned());
        assert!(Owner::read(&without).is_none(), "with a strange {key}");
    }
    let bare =
        ContainerInspectResponse { state: Some(ContainerState::default()), ..ContainerInspectResponse::default() };
    assert!(inspected(&bare).is_none());
}
