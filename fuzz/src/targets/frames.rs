//! What a sandbox says: the handshake's frames, and the messages that follow it.

use std::cell::RefCell;
use std::io::Write as _;
use std::os::unix::net::UnixStream;

use chiton_agent::fuzzing::check_exec;
use chiton_agent_proto::frame::{LIMIT, read, write};
use chiton_agent_proto::v1;
use chiton_gateway::fuzzing::handshake;
use chiton_model::SandboxId;
use prost::Message;
use sha2::{Digest as _, Sha256};
use tokio::runtime::{Builder, Runtime};

use super::Target;
use crate::behaviour::{note, note_text};
use crate::check::sayable;

pub(super) const TARGET: Target = Target {
    name: "frames",
    about: "agent protocol: handshake frames, the handshake itself, exec and file messages",
    run,
    seeds,
    words: &["token", "attempt", "\n\u{5}token", "\u{12}\u{7}attempt", "/tmp", "\0"],
    longest: 8192,
    short: 6_000,
    memory: (64, 512 << 10),
};

thread_local! {
    static RUNTIME: RefCell<Runtime> = RefCell::new(Builder::new_current_thread().enable_all().build().expect("a runtime"));
}

fn framed(message: &impl Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    [&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes()[..], &body].concat()
}

fn hello(token: &str, attempt: &str) -> Vec<u8> {
    framed(&v1::Hello { token: token.to_owned(), attempt: attempt.to_owned(), version: "0.1.0".to_owned() })
}

fn seeds() -> Vec<Vec<u8>> {
    let start = v1::ExecStart {
        argv: vec!["ls".to_owned()],
        env: [("A".to_owned(), "1".to_owned())].into(),
        workdir: "/tmp".to_owned(),
        terminal: Some(v1::WindowSize { rows: 24, columns: 80 }),
        timeout_ms: 5,
        request_id: "r".to_owned(),
    };
    let exec = v1::ExecInput { input: Some(v1::exec_input::Input::Start(start)) };
    let exit = v1::ExecExit { code: 137, signal: 9, timed_out: true, message: "m".to_owned() };
    let output = v1::ExecOutput { output: Some(v1::exec_output::Output::Exit(exit)) };
    let mut seeds = vec![
        hello("token", "attempt"),
        hello("token", ""),
        hello("other", "attempt"),
        [hello("token", "attempt"), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()].concat(),
        framed(&v1::Welcome { error: "no".to_owned() }),
        hello(&"t".repeat(4000), "attempt"),
        vec![0xff; 4],
    ];
    seeds.extend([exec.encode_to_vec(), output.encode_to_vec()]);
    seeds
}

fn run(data: &[u8]) {
    RUNTIME.with_borrow(|runtime| {
        frame::<v1::Hello>(runtime, data);
        frame::<v1::Welcome>(runtime, data);
        shake(runtime, data);
    });
    message::<v1::ExecInput>(data);
    message::<v1::ExecOutput>(data);
    message::<v1::FileChunk>(data);
    message::<v1::WriteFileRequest>(data);
    message::<v1::WriteTarRequest>(data);
    message::<v1::StatResponse>(data);
    message::<v1::HealthResponse>(data);
    if let Ok(start) = v1::ExecStart::decode(data)
        && let Err(status) = check_exec(&start)
    {
        note_text(status.message());
        sayable(status.message());
    }
}

fn frame<M: Message + Default + PartialEq>(runtime: &Runtime, data: &[u8]) {
    let mut rest = data;
    match runtime.block_on(read::<M>(&mut rest)) {
        Ok(message) => {
            let taken = data.len() - rest.len();
            let length = u32::from_be_bytes(data[..4].try_into().expect("four bytes")) as usize;
            assert_eq!(taken, length + 4, "the frame has {length} bytes");
            note(("frame", length.min(8)));
            let mut written = Vec::new();
            match runtime.block_on(write(&mut written, &message)) {
                Ok(()) => {
                    let again = runtime.block_on(read::<M>(&mut &written[..]));
                    assert!(again.is_ok_and(|again| again == message));
                }
                Err(error) => panic!("what was read cannot be written: {error}"),
            }
        }
        Err(error) => {
            note(error.kind() as u8);
            sayable(&error.to_string());
            if let Some(length) = data.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize)
                && length > LIMIT
            {
                assert_eq!(rest.len(), data.len() - 4, "a frame that is too long was read");
            }
        }
    }
}

/// The gateway's side of the handshake: nobody comes in without token and attempt.
fn shake(runtime: &Runtime, data: &[u8]) {
    let (mut ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    ours.write_all(data).expect("it has room");
    ours.shutdown(std::net::Shutdown::Write).expect("it is open");
    theirs.set_nonblocking(true).expect("it is open");
    let digest: [u8; 32] = Sha256::digest(b"token").into();
    let sandbox = SandboxId::new("s-1").expect("an id");
    let result = runtime.block_on(async {
        let theirs = tokio::net::UnixStream::from_std(theirs).expect("a runtime");
        handshake(theirs, &sandbox, digest, "attempt").await
    });
    let hello = runtime.block_on(read::<v1::Hello>(&mut &data[..])).ok();
    let sound = hello.is_some_and(|hello| hello.token == "token" && hello.attempt == "attempt");
    note(("entered", result.is_ok()));
    assert_eq!(result.is_ok(), sound, "{result:?}");
    if let Err(why) = result {
        note_text(&why);
        sayable(&why);
    }
}

fn message<M: Message + Default + PartialEq>(data: &[u8]) {
    if let Ok(message) = M::decode(data) {
        let again = M::decode(&message.encode_to_vec()[..]);
        assert!(again.is_ok_and(|again| again == message), "encoded again it is another");
        note(message.encoded_len().min(8));
    }
}
