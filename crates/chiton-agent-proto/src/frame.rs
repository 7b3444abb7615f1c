//! Frames of the handshake: four bytes of length, big endian, then that many bytes of an encoded message.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The longest message either side takes, in bytes. A frame that announces more is refused before it is read.
pub const LIMIT: usize = 4096;

/// Reads one frame. Reads not a byte further: what follows belongs to HTTP/2.
///
/// # Errors
/// `InvalidData` when the frame is longer than [`LIMIT`] or does not decode; else what the connection reports.
pub async fn read<M: prost::Message + Default>(from: &mut (impl AsyncRead + Unpin)) -> io::Result<M> {
    let length = from.read_u32().await?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > LIMIT {
        let text = format!("a handshake frame of {length} bytes is longer than the {LIMIT} allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await?;
    M::decode(&bytes[..]).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Writes one frame in one piece.
///
/// # Errors
/// `InvalidInput` when the message is longer than [`LIMIT`]; else what the connection reports.
pub async fn write(to: &mut (impl AsyncWrite + Unpin), message: &impl prost::Message) -> io::Result<()> {
    let length = message.encoded_len();
    let prefix = match u32::try_from(length) {
        Ok(prefix) if length <= LIMIT => prefix,
        _ => {
            let text = format!("a handshake message of {length} bytes is longer than the {LIMIT} allowed");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    };
    let mut bytes = Vec::with_capacity(4 + length);
    bytes.extend_from_slice(&prefix.to_be_bytes());
    message.encode_raw(&mut bytes);
    to.write_all(&bytes).await?;
    to.flush().await
}
