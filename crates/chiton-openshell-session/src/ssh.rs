//! A client of the SSH server in a sandbox.
//!
//! That server asks for no authentication and makes a new host key at each start, so SSH proves nothing here to either
//! side. What proves both is the stream: it was opened by the supervisor that holds the sandbox's token, for this request
//! alone, and exists in this process only: no port listens anywhere.

use std::sync::Arc;
use std::time::Duration;

use chiton_proto::agent::v1::{ExecStart, WindowSize};
use russh::client::{self, Config, Handle, Msg};
use russh::keys::PublicKeyOrCertificate;
use russh::{ChannelReadHalf, ChannelWriteHalf};
use tokio::time::timeout;
use tokio_util::sync::DropGuard;
use tonic::Status;

use crate::relay::Relay;

/// From the open stream to a program that is asked for.
const BEGIN: Duration = Duration::from_secs(15);
/// Who we are to the server, which does not ask.
const USER: &str = "sandbox";
/// Bytes of output on their way to us before the sandbox waits.
const WINDOW: u32 = 1024 * 1024;
/// Messages of one channel that wait for a slow reader; each holds at most 32 KiB.
const MESSAGES: usize = 16;

/// Takes any host key, see above, and no channel that the server would open to us.
struct Anyone;

impl client::Handler for Anyone {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

/// A command that the server was asked to run.
pub(crate) struct Command {
    pub(crate) read: ChannelReadHalf,
    pub(crate) write: ChannelWriteHalf<Msg>,
    /// Dropping these ends the connection.
    pub(crate) hold: Hold,
}

pub(crate) struct Hold {
    _connection: Handle<Anyone>,
    _cut: DropGuard,
}

/// Asks the server at the end of a stream to run a line.
///
/// # Errors
/// `UNAVAILABLE` with what went wrong.
pub(crate) async fn command(relay: Relay, line: String, start: &ExecStart) -> Result<Command, Status> {
    let config = Config { window_size: WINDOW, channel_buffer_size: MESSAGES, ..Config::default() };
    let Relay { stream, cut } = relay;
    let begin = async {
        let mut connection = client::connect_stream(Arc::new(config), stream, Anyone).await?;
        if !connection.authenticate_none(USER).await?.success() {
            return Err(russh::Error::NotAuthenticated);
        }
        let channel = connection.channel_open_session().await?;
        if let Some(size) = start.terminal {
            let kind = start.env.get("TERM").map_or("xterm", String::as_str);
            let (columns, rows) = cells(size);
            channel.request_pty(false, kind, columns, rows, 0, 0, &[]).await?;
        }
        channel.exec(false, line).await?;
        Ok((connection, channel))
    };
    let failed = |error: &dyn std::fmt::Display| {
        Status::unavailable(format!("the SSH server in the sandbox did not take the command: {error}"))
    };
    let asked = timeout(BEGIN, begin).await.map_err(|_| failed(&format_args!("no answer within {BEGIN:?}")))?;
    let (connection, channel) = asked.map_err(|error: russh::Error| failed(&error))?;
    let (read, write) = channel.split();
    Ok(Command { read, write, hold: Hold { _connection: connection, _cut: cut } })
}

/// Columns and rows, none of them nothing: terminals are not made without.
pub(crate) fn cells(size: WindowSize) -> (u32, u32) {
    (size.columns.max(1), size.rows.max(1))
}
