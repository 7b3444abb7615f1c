//! A connection over a Unix socket.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chiton_model::Error;
use chiton_proto::v1::gateway_client::GatewayClient;
use chiton_socket::connect_to;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::Address;

/// A connected client.
pub type Client = GatewayClient<Channel>;

/// How long a connection may take, from the first look at the socket on.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// A gateway that does not answer pings for this long is gone; watches and execs would wait forever otherwise.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// The largest frame that the gateway may send, in bytes: a piece of a file should not be cut in many.
const FRAME: u32 = 256 * 1024;

/// A page of sandboxes or a plan may exceed gRPC's usual four megabytes.
const LARGEST_ANSWER: usize = 64 << 20;

/// Connects to the gateway at `address`.
///
/// # Errors
/// `unavailable` if nobody listens there, `refused` if this user may not connect, `deadline` after
/// [`CONNECT_DEADLINE`]. Each says how to go on.
pub async fn connect(address: &Address) -> Result<Client, Error> {
    let connected = timeout(CONNECT_DEADLINE, async {
        // The first dial happens here, where its error still has an errno.
        let stream = connect_to(&address.socket).await.map_err(|cause| no_connection(address, &cause))?;
        let first = Arc::new(Mutex::new(Some(stream)));
        let socket = address.socket.clone();
        let connector = tower::service_fn(move |_| {
            let stream = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            let socket = socket.clone();
            async move { next_stream(stream, socket).await.map(TokioIo::new) }
        });
        // The host is required by HTTP/2 and means nothing on a Unix socket.
        Endpoint::from_static("http://localhost")
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .max_frame_size(FRAME)
            .connect_with_connector(connector)
            .await
            .map_err(|cause| {
                Error::unavailable("gateway", format!("what listens at {address} speaks no HTTP/2: {cause}"))
            })
    })
    .await;
    let channel = connected.map_err(|_| {
        Error::deadline(format!("the gateway at {address} did not accept a connection within {CONNECT_DEADLINE:?}"))
            .cure("look at the gateway's log; it may be overloaded or stopped (SIGSTOP)")
    })??;
    Ok(GatewayClient::new(channel).max_decoding_message_size(LARGEST_ANSWER))
}

async fn next_stream(ready: Option<UnixStream>, socket: PathBuf) -> io::Result<UnixStream> {
    match ready {
        Some(stream) => Ok(stream),
        None => connect_to(&socket).await,
    }
}

pub(crate) fn no_connection(address: &Address, cause: &io::Error) -> Error {
    let start = match address.origin {
        "default" => "start one with `chiton gateway`, or try everything at once with `chiton demo`".to_owned(),
        origin => format!("start one with `chiton gateway --listen {address}`, or correct {origin}"),
    };
    match cause.kind() {
        io::ErrorKind::NotFound => {
            Error::unavailable("gateway", format!("no gateway runs at {address} (no such socket)")).cure(start)
        }
        io::ErrorKind::ConnectionRefused => {
            Error::unavailable("gateway", format!("no gateway runs at {address} (its socket is there, nobody listens)"))
                .cure(start)
        }
        io::ErrorKind::PermissionDenied => {
            Error::refused("gateway", format!("this user may not connect to the gateway at {address}"))
                .cure("run the command as the user who runs the gateway, or name your own gateway with --gateway")
        }
        _ => Error::unavailable("gateway", format!("cannot connect to the gateway at {address}: {cause}")).cure(start),
    }
}
