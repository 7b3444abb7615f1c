//! What an operator says of a driver behind a socket.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chiton_driver::{Deadlines, WhoseAgent};
use chiton_model::{DriverId, GatewayId};

/// How a driver behind a socket is reached and used.
#[derive(Clone, Debug)]
pub struct ExternalOptions {
    /// The operator's id for it, which is also the key of its options in requests.
    pub id: DriverId,
    /// The installation that it works for.
    pub gateway: GatewayId,
    /// A folder for what it said of itself; none forgets it.
    pub state_dir: Option<PathBuf>,
    /// A folder for its sandboxes' agent sockets.
    pub run_dir: PathBuf,
    /// Its socket.
    pub socket: PathBuf,
    /// The users whose process it may be.
    pub peers: BTreeSet<u32>,
    /// Whose program in its sandboxes talks to the gateway; the driver brings it.
    pub agent: WhoseAgent,
    /// Where the gateway listens for the supervisors that a driver with `agent = openshell` brings, to compare with what the
    /// driver asks for; none when that is not known.
    pub supervisors: Option<SocketAddr>,
    /// How long each kind of call may take.
    pub deadlines: Deadlines,
}

impl ExternalOptions {
    /// The usual answers: own and root as peers, no agent. A driver pulls images while a sandbox is becoming ready, so that
    /// may take as long as a preparation elsewhere.
    pub fn new(id: DriverId, gateway: GatewayId, state_dir: PathBuf, run_dir: PathBuf, socket: PathBuf) -> Self {
        let deadlines = Deadlines { ready: Duration::from_mins(15), ..Deadlines::default() };
        let peers = chiton_socket::own_and_root();
        let state_dir = Some(state_dir);
        Self { id, gateway, state_dir, run_dir, socket, peers, agent: WhoseAgent::None, supervisors: None, deadlines }
    }
}
