//! What a gateway answers a client: statuses with details, or without.

use chiton_client::{from_detail, from_status, to_detail, to_status};
use chiton_proto::v1::{ErrorDetail, WaitOperationEvent, WatchSandboxesEvent};
use prost::Message;
use tonic::{Code, Status};

use super::Target;
use crate::behaviour::note;

pub(super) const TARGET: Target = Target {
    name: "status",
    about: "a gateway's answers: error details, statuses from below it, watch events",
    run,
    seeds,
    words: &["invalid", "not_found", "refused", "unsupported", "exhausted", "internal", "\n\u{7}invalid", "…"],
    longest: 16 << 10,
    short: 15_000,
    memory: (256, 256 << 10),
};

fn seeds() -> Vec<Vec<u8>> {
    let codes = ["invalid", "not_found", "refused", "unavailable", "unsupported", "internal", "unknown"];
    let details = codes.map(|code| ErrorDetail {
        code: code.to_owned(),
        message: "what happened".to_owned(),
        cure: "what to do".to_owned(),
        field: "spec.image".to_owned(),
        by: "policy".to_owned(),
        point: "mount".to_owned(),
    });
    let mut seeds: Vec<_> =
        details.iter().zip(0..).map(|(detail, code)| [vec![code], detail.encode_to_vec()].concat()).collect();
    let long = ErrorDetail { code: "refused".to_owned(), message: "ä".repeat(7000), ..ErrorDetail::default() };
    seeds.push([vec![9], long.encode_to_vec()].concat());
    seeds.extend((0..17).map(|code| vec![code]));
    seeds
}

fn run(data: &[u8]) {
    let Some((code, bytes)) = data.split_first() else { return };
    let code = Code::from(i32::from(*code % 20));
    note(code as i32);
    let text = String::from_utf8_lossy(bytes);
    let bare = from_status(&Status::new(code, text.chars().take(100).collect::<String>()));
    assert!(!bare.message.trim().is_empty(), "{code:?} says nothing");
    let error = from_status(&Status::with_details(code, "summary", bytes.to_vec().into()));
    note(error.kind.code());
    assert!(!error.message.trim().is_empty(), "{code:?} with details says nothing");
    if let Some(known) = ErrorDetail::decode(bytes).ok().and_then(|detail| from_detail(&detail)) {
        // Cut once it is not cut again.
        let short = from_status(&to_status(&known));
        assert_eq!(short.kind.code(), known.kind.code());
        assert_eq!(from_status(&to_status(&short)), short);
        assert_eq!(from_detail(&to_detail(&short)), Some(short));
    }
    let watch = WatchSandboxesEvent::decode(bytes).map(|event| event.encode_to_vec());
    let wait = WaitOperationEvent::decode(bytes).map(|event| event.encode_to_vec());
    note((watch.is_ok(), wait.is_ok()));
}
