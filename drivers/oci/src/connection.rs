//! A connection to a monitor.

use std::io::{self, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use chiton_model::ExitStatus;
use chiton_oci_monitor::exit::{Cause, ExitRecord};
use chiton_oci_monitor::files;
use chiton_oci_monitor::wire::{self, Request, State};
use jiff::Timestamp;

/// One connection, read with deadlines.
#[derive(Debug)]
pub(crate) struct Connection {
    reader: BufReader<UnixStream>,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { reader: BufReader::new(stream) }
    }

    /// Connects to the monitor in a folder; `None` when none listens there.
    pub(crate) fn open(run: &Path) -> io::Result<Option<Self>> {
        match files::connect(run, files::SOCKET) {
            Ok(stream) => Ok(Some(Self::new(stream))),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The next state, or `None` when the monitor is gone.
    pub(crate) fn next(&mut self, deadline: Instant) -> io::Result<Option<State>> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        self.reader.get_ref().set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match wire::receive(&mut self.reader) {
            // Said beside the state; whoever counts it reads the stream itself.
            Ok(Some(State::Dropped { .. })) => self.next(deadline),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::Error::from(io::ErrorKind::TimedOut)),
            // A monitor that was killed with our request unread resets the connection.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            other => other,
        }
    }

    /// Asks; a monitor that is gone is noticed by [`Connection::next`].
    pub(crate) fn ask(&mut self, request: &Request) -> io::Result<()> {
        match wire::send(self.reader.get_mut(), request) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    /// Hands over a document that is no request.
    pub(crate) fn hand_over(&mut self, document: &impl serde::Serialize, within: Duration) -> io::Result<()> {
        self.reader.get_ref().set_write_timeout(Some(within))?;
        wire::send(self.reader.get_mut(), document)
    }

    /// The socket and what was read from it beyond the last state.
    pub(crate) fn into_parts(self) -> (UnixStream, Vec<u8>) {
        let rest = self.reader.buffer().to_vec();
        (self.reader.into_inner(), rest)
    }
}

/// An exit record in the contract's words.
pub(crate) fn exit_status(exit: &ExitRecord) -> ExitStatus {
    let code = exit.code.or_else(|| exit.signal.map(|signal| 128 + signal));
    let killed = exit.signal == Some(9) || exit.code == Some(137);
    let reason = match exit.cause {
        Some(Cause::AgentKilled) => "AgentKilled",
        Some(Cause::MonitorLost) => "MonitorLost",
        Some(Cause::HostRestarted) => "HostRestarted",
        None if exit.lost.is_some() || code.is_none() => "Unknown",
        None if exit.oom && killed => "OOMKilled",
        None if exit.signal.is_some() => "Signaled",
        None => "Exited",
    };
    let at = i64::try_from(exit.at_ms).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
    ExitStatus { code, reason: reason.to_owned(), at }
}
