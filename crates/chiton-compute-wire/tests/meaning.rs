//! What messages mean: statuses, conditions, free-form structures, and fields that nobody knows.
#![forbid(unsafe_code)]

use chiton_compute_wire::{json, sandbox, status, text, v1};
use chiton_driver::{CallError, ObservedStatus};
use chiton_model::{Error, ErrorKind, ExitStatus};
use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Value, json};
use tonic::{Code, Status};

fn stock(kind: &str, word: &str, reason: &str) -> v1::DriverSandboxStatus {
    let condition = v1::DriverCondition {
        r#type: kind.to_owned(),
        status: word.to_owned(),
        reason: reason.to_owned(),
        ..v1::DriverCondition::default()
    };
    v1::DriverSandboxStatus { conditions: vec![condition], ..v1::DriverSandboxStatus::default() }
}

#[test]
fn conditions_of_a_driver_that_knows_nothing_of_us_are_understood() {
    assert_eq!(sandbox::observed(None), ObservedStatus::Created);
    assert_eq!(sandbox::observed(Some(&stock("Ready", "True", ""))), ObservedStatus::Running);
    for passing in ["Starting", "ContainerCreated", "SupervisorNotConnected", "DependenciesNotReady"] {
        assert_eq!(sandbox::observed(Some(&stock("Ready", "False", passing))), ObservedStatus::Created, "{passing}");
    }
    assert_eq!(sandbox::observed(Some(&stock("Ready", "Unknown", "x"))), ObservedStatus::Created);
    let exited = |found| match found {
        ObservedStatus::Exited(exit) => exit,
        other => panic!("{other:?}"),
    };
    assert_eq!(exited(sandbox::observed(Some(&stock("Ready", "False", "ImagePullFailed")))).reason, "ImagePullFailed");
    assert_eq!(exited(sandbox::observed(Some(&stock("Suspended", "True", "")))).reason, "Stopped");
    let mut deleting = stock("Ready", "True", "");
    deleting.deleting = true;
    assert!(matches!(sandbox::observed(Some(&deleting)), ObservedStatus::Broken(_)));
    // The last word counts.
    let mut twice = stock("Ready", "False", "Starting");
    twice.conditions.extend(stock("Ready", "True", "").conditions);
    assert_eq!(sandbox::observed(Some(&twice)), ObservedStatus::Running);
}

#[test]
fn what_we_say_is_what_we_understand() {
    let exit = ExitStatus { code: Some(137), reason: "OOMKilled".to_owned(), at: None };
    let all = [
        ObservedStatus::Created,
        ObservedStatus::Running,
        ObservedStatus::Exited(exit),
        ObservedStatus::Exited(ExitStatus { code: None, reason: "Unknown".to_owned(), at: None }),
    ];
    for one in all {
        let sent = sandbox::status("box", &one, Some("op-1"), "");
        assert_eq!(sandbox::observed(Some(&sent)), one);
        assert_eq!(sent.attempt, "op-1");
        // Whoever reads nothing but the contract's own fields understands whether it is ready.
        let plain = v1::DriverSandboxStatus { state: String::new(), exit_code: None, ..sent };
        let ready = matches!(sandbox::observed(Some(&plain)), ObservedStatus::Running);
        assert_eq!(ready, one == ObservedStatus::Running, "{one:?}");
    }
    let broken = sandbox::status("box", &ObservedStatus::Broken("half made".to_owned()), None, "");
    let ObservedStatus::Broken(why) = sandbox::observed(Some(&broken)) else { panic!("{broken:?}") };
    assert!(why.contains("half made"), "{why}");
}

#[test]
fn an_answer_tells_how_the_call_ended() {
    let answered = |code| status::outcome("kyma", "create", &Status::new(code, "because"));
    for code in [Code::InvalidArgument, Code::FailedPrecondition, Code::Unimplemented, Code::NotFound] {
        assert!(matches!(answered(code), CallError::NotRun(_)), "{code:?}");
    }
    for code in [Code::DeadlineExceeded, Code::Unavailable, Code::Cancelled, Code::Unknown, Code::Aborted] {
        assert!(matches!(answered(code), CallError::Unknown(_)), "{code:?}");
    }
    for code in [Code::Internal, Code::ResourceExhausted, Code::AlreadyExists, Code::DataLoss] {
        assert!(matches!(answered(code), CallError::Failed(_)), "{code:?}");
    }
    let broken = Status::from_error(Box::new(std::io::Error::other("reset")));
    assert!(matches!(status::outcome("kyma", "create", &broken), CallError::Unknown(_)));
    let told = answered(Code::InvalidArgument).into_error();
    assert!(told.message.contains("kyma") && told.message.contains("because") && told.message.contains("create"));
    // What drives a terminal is escaped.
    let hostile = status::error("kyma", "get", &Status::internal("a\u{1b}[2Jb"));
    assert!(!hostile.message.contains('\u{1b}'), "{hostile:?}");
}

#[test]
fn a_drivers_words_have_an_end_and_do_nothing_to_a_terminal() {
    let long = |hostile: &str| format!("  {hostile}\u{1b}[2J\n{}", "ü".repeat(5 << 20));
    let mut ended = stock("Ready", "False", &long("Why"));
    ended.conditions[0].message = long("Because");
    let mut exited = ended.clone();
    "exited".clone_into(&mut exited.state);
    let mut broken = ended.clone();
    "broken".clone_into(&mut broken.state);
    let mut all = vec![
        sandbox::why(Some(&ended)),
        status::error("kyma", "get", &Status::internal(long("Oops"))).message,
        text::told(&"\u{7}".repeat(10_000), 10),
    ];
    for one in [&ended, &exited] {
        let ObservedStatus::Exited(exit) = sandbox::observed(Some(one)) else { panic!("it ended") };
        assert!(exit.reason.starts_with("Why\\u{1b}[2J\\nüü"), "{:.40}", exit.reason);
        assert!(exit.reason.ends_with('…') && exit.reason.chars().count() == text::NAME);
        all.push(exit.reason);
    }
    let ObservedStatus::Broken(why) = sandbox::observed(Some(&broken)) else { panic!("it broke") };
    all.push(why);
    for words in all {
        assert!(words.chars().count() <= text::NAME + text::MESSAGE + 64, "{}", words.len());
        assert!(!words.contains(char::is_control), "{words:.80}");
    }
    assert_eq!(text::told(" whole ", 5), "whole");
    assert_eq!(text::told("too long", 4), "too…");
}

#[test]
fn an_error_arrives_with_its_cure() {
    let error = Error::refused("policy", "no").cure("ask for less");
    let sent = status::to_status(&error);
    assert_eq!((sent.code(), sent.message()), (Code::FailedPrecondition, "no; ask for less"));
    let long = status::to_status(&Error::internal("ü".repeat(10_000)));
    assert!(long.message().len() <= 4096 && long.message().starts_with("üü"));
    let back = status::error("kyma", "create", &sent);
    assert!(matches!(back.kind, ErrorKind::Refused { .. }));
}

#[test]
fn fields_that_nobody_knows_are_no_error() {
    let mut bytes = v1::DriverSandbox { id: "s-1".to_owned(), ..v1::DriverSandbox::default() }.encode_to_vec();
    // Field 4711, a text.
    bytes.extend([0xba, 0xa6, 0x02, 3, b'n', b'e', b'w']);
    assert_eq!(v1::DriverSandbox::decode(bytes.as_slice()).unwrap().id, "s-1");
}

fn documents() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-(1_i64 << 53)..(1_i64 << 53)).prop_map(Value::from),
        any::<f64>().prop_filter("finite and not whole", |n| n.is_finite() && n.fract() != 0.0).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,4}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #[test]
    fn documents_survive_the_wire(inner in prop::collection::btree_map(".{0,4}", documents(), 0..4)) {
        let document = json!(inner);
        prop_assert_eq!(json::from_struct(&json::to_struct(&document)), document);
    }
}
