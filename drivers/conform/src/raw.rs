//! Messages as bytes: what generated code would forgive or drop.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use chiton_compute_wire::names::SERVICE;
use chiton_compute_wire::v1::{CreateSandboxRequest, DriverSandbox, GetSandboxRequest};
use http::uri::PathAndQuery;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

/// A field number that nobody has.
const NOBODYS: u32 = 9_876;

/// Passes bytes on as they are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

fn path(call: &str) -> Result<PathAndQuery, Status> {
    PathAndQuery::try_from(format!("/{SERVICE}/{call}")).map_err(|error| Status::internal(error.to_string()))
}

async fn client(channel: &Channel) -> Result<tonic::client::Grpc<Channel>, Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
    Ok(client)
}

/// One call.
pub(crate) async fn unary(channel: &Channel, call: &str, message: Bytes) -> Result<Response<Bytes>, Status> {
    client(channel).await?.unary(Request::new(message), path(call)?, Raw).await
}

/// One call that is answered by many messages.
pub(crate) async fn stream(channel: &Channel, call: &str) -> Result<Streaming<Bytes>, Status> {
    let answer = client(channel).await?.server_streaming(Request::new(Bytes::new()), path(call)?, Raw).await?;
    Ok(answer.into_inner())
}

fn field(number: u32, bytes: &[u8], into: &mut BytesMut) {
    encode_key(number, WireType::LengthDelimited, into);
    encode_varint(bytes.len() as u64, into);
    into.put_slice(bytes);
}

/// Fields that nobody knows: text, and a number.
fn strange(into: &mut BytesMut) {
    field(NOBODYS, "from a newer gateway".as_bytes(), into);
    encode_key(NOBODYS + 1, WireType::Varint, into);
    encode_varint(7, into);
}

fn begun(message: &impl Message) -> BytesMut {
    BytesMut::from(&*message.encode_to_vec())
}

/// A create with unknown fields at every level.
pub(crate) fn strange_create(mut sandbox: DriverSandbox) -> Bytes {
    let mut spec = sandbox.spec.take().unwrap_or_default();
    let mut template = begun(&spec.template.take().unwrap_or_default());
    strange(&mut template);
    let mut inner = begun(&spec);
    field(6, &template, &mut inner);
    strange(&mut inner);
    let mut outer = begun(&sandbox);
    field(4, &inner, &mut outer);
    strange(&mut outer);
    let mut request = begun(&CreateSandboxRequest::default());
    field(1, &outer, &mut request);
    strange(&mut request);
    request.freeze()
}

/// A get with unknown fields.
pub(crate) fn strange_get(request: &GetSandboxRequest) -> Bytes {
    let mut bytes = begun(request);
    strange(&mut bytes);
    bytes.freeze()
}

/// Bytes that are no message: a length that goes past the end, text that is no UTF-8, a wire type that is none.
pub(crate) fn garbage() -> [(&'static str, Bytes); 3] {
    [
        ("a length past the end", Bytes::from_static(&[0x0a, 0xff, 0x01, 0x00])),
        ("text that is no UTF-8", Bytes::from_static(&[0x0a, 0x04, 0x0a, 0x02, 0xc3, 0x28])),
        ("a wire type that is none", Bytes::from_static(&[0x0f, 0x01, 0x02])),
    ]
}
