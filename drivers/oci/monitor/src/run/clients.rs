//! Connections from gateways.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use crate::wire::{Request, State, send};

/// The longest request. All are short; whoever sends more is not a gateway.
const REQUEST_LIMIT: usize = 4096;

/// One connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) stream: UnixStream,
    unread: Vec<u8>,
}

impl Client {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, unread: Vec::new() })
    }

    /// Says the state; `false` when the client is gone or does not read.
    pub(super) fn say(&mut self, state: &State) -> bool {
        send(&mut self.stream, state).is_ok()
    }

    /// Takes in what came; `None` when the client is gone or talks nonsense.
    pub(super) fn requests(&mut self) -> Option<Vec<Request>> {
        let mut buffer = [0; 512];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.unread.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
            if self.unread.len() > REQUEST_LIMIT {
                return None;
            }
        }
        let mut requests = Vec::new();
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            requests.push(serde_json::from_slice(&line).ok()?);
        }
        Some(requests)
    }
}
