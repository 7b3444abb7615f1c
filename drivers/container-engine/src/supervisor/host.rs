//! How supervisors reach this machine, and where their gateway has to listen for them: one answer, so that both agree.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use chiton_driver::{CallError, CallResult, GatewayListener, ListenAt};
use chiton_model::{Error, NetworkMode};
use http::Uri;
use tokio::time::Instant;

use super::{HostAddress, SupervisorOptions, Ways, names};
use crate::client::ACT;
use crate::engine::Engine;
use crate::plan::NetworkPlan;

/// The network that Docker's own word for this machine, `host-gateway`, leads to.
const DOCKERS_OWN: &str = "bridge";

fn unknown(why: &str) -> CallError {
    CallError::NotRun(
        Error::unavailable("supervisor", format!("how sandboxes reach this machine is unknown: {why}"))
            .cure("set supervisor.host_address to an address of this machine that sandboxes reach"),
    )
}

/// Host and port of the endpoint.
fn parts(endpoint: &str) -> Option<(String, u16)> {
    let uri: Uri = endpoint.parse().ok()?;
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let port = uri.port_u16().or(match uri.scheme_str()? {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    })?;
    Some((host, port))
}

/// Whether an address is one of this machine: then something can be bound to it.
fn is_ours(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// The address of this machine on its IPv4 default route. No packet is sent: the kernel looks a route up.
fn on_default_route() -> CallResult<Ipv4Addr> {
    let look = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        // An address of documentation: nothing but the default route leads there.
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    };
    match look().map(|found| found.ip()) {
        Ok(IpAddr::V4(address)) if !address.is_unspecified() && !address.is_loopback() => Ok(address),
        Ok(_) => Err(unknown("it has no address on a default route")),
        Err(error) => Err(unknown(&format!("it has no default route: {error}"))),
    }
}

impl SupervisorOptions {
    /// The port of its gateway where sandboxes call this machine by a name; none where they call something else.
    fn calls_this_machine(&self, ways: Ways) -> Option<u16> {
        let (host, port) = parts(&self.endpoint)?;
        [ways.host(), names::HOST].contains(&host.as_str()).then_some(port)
    }

    /// The endpoint where it is an address, not a name.
    fn fixed(&self) -> Option<SocketAddr> {
        let (host, port) = parts(&self.endpoint)?;
        Some(SocketAddr::new(host.parse().ok()?, port))
    }
}

impl Engine {
    /// What the supervisor's names of this machine lead to in a sandbox: the address that its gateway was told to listen on,
    /// whatever network the sandbox has. The caller keeps `bridge` locked until its container is made.
    pub(crate) async fn host_address(&self, network: &NetworkPlan, deadline: Instant) -> CallResult<String> {
        match self.options.agent.supervisor().and_then(|options| options.host_address) {
            Some(HostAddress::Fixed(address)) => return Ok(address.to_string()),
            Some(HostAddress::Engine) => return Ok("host-gateway".to_owned()),
            None if network.mode == NetworkMode::None => return Err(unknown("the sandbox has no network")),
            None => {}
        }
        Ok(self.here(deadline).await?.to_string())
    }

    /// The address of this machine where nobody chose one.
    async fn here(&self, deadline: Instant) -> CallResult<IpAddr> {
        if !self.on_networks().await? {
            return Ok(on_default_route()?.into());
        }
        let network = self.ensure_supervisors_network(deadline).await?;
        let found = self.gateway_of(&network).await?.and_then(|gateway| gateway.parse().ok());
        found.ok_or_else(|| unknown("the engine does not say which gateway its network has"))
    }

    /// Whether sandboxes reach this machine by the address of their network's gateway. Otherwise they do by that of its
    /// default route: their gateway must be able to listen before the first of them is there.
    async fn on_networks(&self) -> CallResult<bool> {
        if self.abilities().await?.rootless {
            return Err(unknown("a rootless engine's networks do not end on it"));
        }
        let last = self.options.dialect.networks_last();
        if !last && self.options.bridge.internal {
            let text = "the gateway's network leads nowhere, and has no address here before there is a sandbox on it";
            return Err(CallError::NotRun(
                Error::unavailable("supervisor", text).cure("set bridge.internal = false, or supervisor.host_address"),
            ));
        }
        Ok(last)
    }

    /// Where the gateway has to listen for its supervisors. Makes their network where its address is asked for.
    pub(crate) async fn gateway_listeners(&self) -> CallResult<Vec<GatewayListener>> {
        let Some(options) = self.options.agent.supervisor() else { return Ok(Vec::new()) };
        let Some(port) = options.calls_this_machine(self.options.dialect.supervised()) else {
            // Something else in the network, whose matter it is; or this machine by an address.
            let here = options.fixed().filter(|address| is_ours(address.ip()));
            return Ok(here.map(|address| self.listener(ListenAt::Address(address))).into_iter().collect());
        };
        let at = |address: IpAddr| ListenAt::Address(SocketAddr::new(address, port));
        let at = match options.host_address {
            Some(HostAddress::Fixed(address)) if is_ours(address) => at(address),
            // That of a machine whose engine this is, or of something before it.
            Some(HostAddress::Fixed(_)) => return Ok(Vec::new()),
            Some(HostAddress::Engine) => self.of_engine().await?.map_or(ListenAt::Loopback, at),
            None => {
                let _on_bridge = self.bridge.read().await;
                at(self.here(Instant::now() + ACT).await?)
            }
        };
        Ok(vec![self.listener(at)])
    }

    /// What the engine calls `host-gateway`, as far as that is an address of this machine: where the engine is in a machine
    /// of its own, it forwards to this one's loopback.
    async fn of_engine(&self) -> CallResult<Option<IpAddr>> {
        if !self.options.dialect.networks_last() {
            return on_default_route().map(|address| Some(address.into()));
        }
        let found = self.gateway_of(DOCKERS_OWN).await?.and_then(|gateway| gateway.parse().ok());
        Ok(found.filter(|address| is_ours(*address)))
    }

    fn listener(&self, at: ListenAt) -> GatewayListener {
        let kind = self.options.dialect.kind();
        GatewayListener { reason: format!("sandboxes on {kind} call their gateway there"), at }
    }
}

#[cfg(test)]
mod tests {
    use super::{SupervisorOptions, Ways};
    use crate::supervisor::Supervisor;

    /// An endpoint's port if sandboxes on this engine call this machine by it; and the address that it is, if it is one.
    fn read(endpoint: &str, ways: Ways) -> (Option<u16>, Option<String>) {
        let options = SupervisorOptions::new(Supervisor::Bin("/x".into()), endpoint.to_owned());
        (options.calls_this_machine(ways), options.fixed().map(|address| address.to_string()))
    }

    #[test]
    fn endpoints_are_this_machine_by_its_names_alone() {
        for (endpoint, ways, port) in [
            ("https://host.openshell.internal:17670", Ways::Docker, Some(17670)),
            ("https://Host.OpenShell.internal", Ways::Podman, Some(443)),
            ("http://host.docker.internal/path", Ways::Docker, Some(80)),
            ("http://host.docker.internal", Ways::Podman, None),
            ("http://host.containers.internal:1", Ways::Podman, Some(1)),
            ("https://gateway.example:17670", Ways::Docker, None),
        ] {
            assert_eq!(read(endpoint, ways), (port, None), "{endpoint}");
        }
        let fixed = |endpoint: &str| read(endpoint, Ways::Docker);
        assert_eq!(fixed("http://10.0.0.1:8080"), (None, Some("10.0.0.1:8080".to_owned())));
        assert_eq!(fixed("https://[fd00::1]"), (None, Some("[fd00::1]:443".to_owned())));
    }
}
