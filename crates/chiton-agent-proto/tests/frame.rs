//! Frames of the handshake.

use std::io::ErrorKind;

use chiton_agent_proto::frame::{self, LIMIT};
use chiton_agent_proto::v1::{Hello, Welcome};

#[tokio::test]
async fn a_frame_is_read_back_and_what_follows_stays() {
    let hello = Hello { token: "t".into(), attempt: "a-1".into(), version: "0.1.0".into() };
    let mut wire = Vec::new();
    frame::write(&mut wire, &hello).await.expect("written");
    wire.extend_from_slice(b"PRI");
    let mut rest = &wire[..];
    let read: Hello = frame::read(&mut rest).await.expect("read");
    assert_eq!(read, hello);
    assert_eq!(rest, b"PRI");
}

#[tokio::test]
async fn a_frame_over_the_limit_is_refused_by_its_length_alone() {
    let length = u32::try_from(LIMIT + 1).expect("small").to_be_bytes();
    let error = frame::read::<Hello>(&mut &length[..]).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    let long = Welcome { error: "x".repeat(LIMIT) };
    let error = frame::write(&mut Vec::new(), &long).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_frame_that_is_no_message_is_refused() {
    let error = frame::read::<Hello>(&mut &[0, 0, 0, 2, 0xff, 0xff][..]).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidData);
}
