//! As much of the engines' HTTP API as setting them up needs: one request on one connection, with a deadline.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long one answer may take.
const ANSWER: Duration = Duration::from_mins(1);

/// Asks, and returns status and body. The connection ends with the answer, so a body needs no framing but what is undone here.
pub(crate) fn ask(socket: &Path, method: &str, target: &str, body: Option<File>) -> Result<(u16, Vec<u8>), String> {
    let what = || format!("{method} {target} at {}", socket.display());
    exchange(socket, method, target, body).map_err(|error| format!("{}: {error}", what()))
}

/// The same, for requests that must succeed; `also` is a further status that is as good.
pub(crate) fn demand(
    socket: &Path,
    method: &str,
    target: &str,
    body: Option<File>,
    also: u16,
) -> Result<Vec<u8>, String> {
    let (status, answer) = ask(socket, method, target, body)?;
    if (200..300).contains(&status) || status == also {
        return Ok(answer);
    }
    let text = String::from_utf8_lossy(&answer);
    Err(format!("{method} {target} at {}: status {status}: {}", socket.display(), text.trim()))
}

/// The answer as JSON.
pub(crate) fn get(socket: &Path, target: &str) -> Result<Value, String> {
    let answer = demand(socket, "GET", target, None, 200)?;
    serde_json::from_slice(&answer).map_err(|error| format!("GET {target} at {}: {error}", socket.display()))
}

/// Whether the engine answers now.
pub(crate) fn answers(socket: &Path) -> bool {
    ask(socket, "GET", "/_ping", None).is_ok_and(|(status, _)| status == 200)
}

fn exchange(socket: &Path, method: &str, target: &str, body: Option<File>) -> io::Result<(u16, Vec<u8>)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    let length = body.as_ref().map_or(Ok(0), |file| file.metadata().map(|data| data.len()))?;
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\nContent-Type: application/x-tar\r\nContent-Length: {length}\r\n\r\n"
    )?;
    if let Some(mut file) = body {
        io::copy(&mut file, &mut stream)?;
    }
    let deadline = Instant::now() + ANSWER;
    let mut answer = Vec::new();
    let mut piece = [0; 8192];
    loop {
        match stream.read(&mut piece)? {
            0 => break,
            count => answer.extend_from_slice(&piece[..count]),
        }
        if Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the answer does not end"));
        }
    }
    parse(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
}

/// Status and body of an answer.
pub(crate) fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body = &answer[end + 4..];
    let chunked = head.lines().any(|line| {
        line.split_once(':').is_some_and(|(name, value)| {
            name.eq_ignore_ascii_case("transfer-encoding") && value.trim().eq_ignore_ascii_case("chunked")
        })
    });
    Some((status, if chunked { unchunk(body)? } else { body.to_vec() }))
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(rest.get(end + 2..end + 2 + size)?);
        rest = rest.get(end + 2 + size + 2..)?;
    }
}
