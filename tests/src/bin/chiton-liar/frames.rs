//! HTTP/2 frames that nobody asked for, once the gateway has spoken (RFC 9113).

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Door;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// One round of what is sent over and over; the first differs where the kind asks for it.
fn round(kind: &str, first: bool) -> io::Result<Vec<u8>> {
    let many = |one: Vec<u8>| one.repeat(1000);
    // A literal header field without indexing, of a name of one byte and a value of 100, twice in a row ten times.
    let field: Vec<u8> = [&[0x00, 1, b'x', 100][..], &[b'y'; 100]].concat();
    Ok(match kind {
        // Asks for an answer each time.
        "ping" => many(frame(PING, 0, 0, &[0; 8])),
        "settings" => many(frame(SETTINGS, 0, 0, &[])),
        // A header block that never ends.
        "headers" if first => frame(HEADERS, 0, 1, &field.repeat(100)),
        "headers" => frame(CONTINUATION, 0, 1, &field.repeat(150)).repeat(10),
        "empty-continuation" if first => frame(HEADERS, 0, 1, &field),
        "empty-continuation" => many(frame(CONTINUATION, 0, 1, &[])),
        // Ends calls that were never made, and those that were.
        "reset" => (0..1000).flat_map(|n| frame(RST_STREAM, 0, 1 + 2 * (n % 50), &8_u32.to_be_bytes())).collect(),
        "push" => (1..500_u32).flat_map(|n| frame(PUSH_PROMISE, 4, 1, &(2 * n).to_be_bytes())).collect(),
        "window" => many(frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())),
        "window-small" => many(frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes())),
        // A length that is never kept.
        "huge" => [vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1], vec![0; 65536]].concat(),
        "data" => frame(0, 0, 1, &[0; 16000]).repeat(20),
        "noise" => vec![0xa5; 65536],
        other => return Err(io::Error::other(format!("there are no frames {other}"))),
    })
}

/// Sends them for as long as the connection lasts, and begins again.
pub(super) async fn send(door: &Door, kind: &str) -> io::Result<String> {
    round(kind, true)?;
    let mut sessions = 0_u64;
    loop {
        let mut stream = door.enter().await?;
        if sessions == 0 {
            println!("accepted");
        }
        sessions += 1;
        // The gateway's preface comes first; then ours.
        let mut heard = vec![0; 4096];
        if stream.read(&mut heard).await.unwrap_or(0) == 0 {
            continue;
        }
        if stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.is_err() {
            continue;
        }
        let (mut reader, mut writer) = stream.into_split();
        // What comes is read and thrown away, so that only the gateway's own bounds hold it up.
        let reading = tokio::spawn(async move {
            let mut buffer = vec![0; 65536];
            while reader.read(&mut buffer).await.unwrap_or(0) > 0 {}
        });
        let mut first = true;
        while writer.write_all(&round(kind, first)?).await.is_ok() {
            first = false;
        }
        reading.abort();
    }
}
