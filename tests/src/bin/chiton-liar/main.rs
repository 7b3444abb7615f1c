//! An agent that lies: what a sandbox could say to its gateway once its agent does what an attacker wants.
//!
//! The end-to-end tests copy this program into a sandbox, hold the real agent still, and tell this one what only an agent
//! knows: its token and attempt. `chiton-liar SOCKET TOKEN ATTEMPT WHAT [ARGUMENT]` then does one of:
//!
//! - `hello`: only the handshake; prints `accepted`, or what the gateway answered
//! - `return`: handshakes until one is accepted, as an agent does whose connection ended
//! - `twice`: two handshakes; prints for each whether its connection lasts
//! - `garbage MEBIBYTES`, `silence COUNT`, `storm SECONDS`, `long`: in the place of a handshake (`before`)
//! - `frames KIND`: a handshake, and then HTTP/2 frames that nobody asked for (`frames`)
//! - `answer KIND`: a handshake, and then answers that are lies (`answers`)
//!
//! The last two hold the session until they are killed, and print `accepted` when they have it.
#![forbid(unsafe_code)]

mod answers;
mod before;
mod frames;

use std::env;
use std::io;
use std::process::ExitCode;

use chiton_proto::agent::frame;
use chiton_proto::agent::v1::{Hello, Welcome};
use tokio::net::UnixStream;

/// Where to connect and what to say.
struct Door {
    socket: String,
    token: String,
    attempt: String,
}

impl Door {
    async fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(&self.socket).await
    }

    /// The handshake; an error when the gateway refused.
    async fn enter(&self) -> io::Result<UnixStream> {
        let mut stream = self.connect().await?;
        let (token, attempt) = (self.token.clone(), self.attempt.clone());
        frame::write(&mut stream, &Hello { token, attempt, version: "0.0.0".to_owned() }).await?;
        let welcome: Welcome = frame::read(&mut stream).await?;
        if welcome.error.is_empty() { Ok(stream) } else { Err(io::Error::other(welcome.error)) }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [socket, token, attempt, what, rest @ ..] = &arguments[..] else {
        eprintln!("usage: chiton-liar SOCKET TOKEN ATTEMPT WHAT [ARGUMENT]");
        return ExitCode::from(2);
    };
    let door = Door { socket: socket.clone(), token: token.clone(), attempt: attempt.clone() };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no event loop: {error}");
            return ExitCode::FAILURE;
        }
    };
    let argument = rest.first().map_or("", String::as_str);
    match runtime.block_on(act(&door, what, argument)) {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("refused: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn act(door: &Door, what: &str, argument: &str) -> io::Result<String> {
    let number = || argument.parse::<u64>().map_err(io::Error::other);
    match what {
        "hello" => door.enter().await.map(|_| "accepted".to_owned()),
        "return" => before::come_back(door).await,
        "twice" => before::twice(door).await,
        "garbage" => before::garbage(door, number()?).await,
        "silence" => before::silence(door, number()?).await,
        "storm" => before::storm(door, number()?).await,
        "long" => before::long(door).await,
        "frames" => frames::send(door, argument).await,
        "answer" => answers::serve(door, argument).await,
        other => Err(io::Error::other(format!("there is no {other}"))),
    }
}
