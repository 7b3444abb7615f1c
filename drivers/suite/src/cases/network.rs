//! Networks.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;

use chiton_driver::{Feature, NetworkKind, PlanRequest};
use chiton_model::NetworkMode;

use crate::life::Life;
use crate::look::Output;
use crate::stage::Stage;
use crate::verdict::{Failure, Verdict, ensure, equal, skip, tells};

/// What a process sees of its network, as proc(5) has it: interfaces, routes, sockets that listen.
const LOOK: &str = "cat /proc/net/dev; echo ---; cat /proc/net/route; echo ---; cat /proc/net/tcp";

struct Seen {
    interfaces: Vec<String>,
    routes: usize,
    listening: String,
}

async fn look(life: &Life, mut request: PlanRequest, mode: NetworkMode) -> Verdict<Seen> {
    life.needs(Feature::Logs)?;
    request.network.mode = mode;
    let (_, output): (_, Output) = life.run(&request).await?;
    let text = output.text();
    let parts: Vec<&str> = text.split("---\n").collect();
    let [dev, route, tcp] = parts[..] else {
        return Err(crate::verdict::wrong("a look at the network", "three files", output.shown()));
    };
    let names = dev.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    Ok(Seen {
        interfaces: names.collect(),
        routes: route.lines().skip(1).filter(|line| !line.trim().is_empty()).count(),
        listening: tcp.to_owned(),
    })
}

/// A service of the host's loopback interface, and its address as /proc/net/tcp writes it: a service of the sandbox's
/// own, an engine's names for example, may have the same port at another address.
fn service() -> Verdict<(TcpListener, String)> {
    let bind = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let address = u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets());
        Ok((listener, format!("{address:08X}:{port:04X} ")))
    };
    bind().map_err(|error: std::io::Error| Failure::bench("listen on this machine", error).into())
}

/// Skips where a kind of network is not declared, or is refused here with the reason.
async fn offered(life: &Life, kind: NetworkKind, mode: NetworkMode) -> Verdict {
    if !life.driver.capabilities().networks.contains(&kind) {
        return skip(format!("the driver declares no network {}", kind.as_str()));
    }
    let mut request = life.script(LOOK);
    request.network.mode = mode;
    let plan = match life.look("default_plan", life.driver.default_plan(&request)).await? {
        Ok(plan) => plan,
        Err(error) => {
            tells(&error, &[])?;
            return skip(format!("refused here: {error}"));
        }
    };
    if let Err(error) = life.look("validate", life.driver.validate(&plan.plan)).await? {
        tells(&error, &[])?;
        return skip(format!("refused here: {error}"));
    }
    Ok(())
}

pub(crate) async fn none_is_none(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    let (_listener, port) = service()?;
    let seen = look(&life, life.script(LOOK), NetworkMode::None).await?;
    equal("the routes of a sandbox without a network", &seen.routes, &0)?;
    ensure(!seen.listening.contains(&port), "its sockets", "not the host's", seen.listening)?;
    // The kernel may put tunnels that lead nowhere into every new network namespace.
    let real = |name: &&String| {
        !["lo", "tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6gre0"]
            .contains(&name.as_str())
    };
    let others: Vec<&String> = seen.interfaces.iter().filter(real).collect();
    equal("its interfaces besides lo", &others, &Vec::new())?;
    stage.nothing_left().await
}

pub(crate) async fn host_is_the_hosts(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    offered(&life, NetworkKind::Host, NetworkMode::Host).await?;
    let (_listener, port) = service()?;
    let seen = look(&life, life.script(LOOK), NetworkMode::Host).await?;
    ensure(
        seen.listening.contains(&port),
        "the sockets of a sandbox on the host's network",
        "the host's",
        seen.listening,
    )?;
    stage.nothing_left().await
}

/// An interface and a route, and not the host's sockets.
async fn own(stage: &Stage, kind: NetworkKind, mode: NetworkMode) -> Verdict {
    let life = stage.life().await?;
    offered(&life, kind, mode.clone()).await?;
    let (_listener, port) = service()?;
    let seen = look(&life, life.script(LOOK), mode).await?;
    ensure(seen.routes > 0, "the routes", "one at least", seen.routes)?;
    ensure(seen.interfaces.len() > 1, "the interfaces", "one besides lo", format!("{:?}", seen.interfaces))?;
    ensure(!seen.listening.contains(&port), "its sockets", "not the host's", seen.listening)?;
    stage.nothing_left().await
}

pub(crate) async fn bridge_is_its_own(stage: Arc<Stage>) -> Verdict {
    own(&stage, NetworkKind::Bridge, NetworkMode::Bridge).await
}

pub(crate) async fn named_is_joined(stage: Arc<Stage>) -> Verdict {
    let life = stage.life().await?;
    if !life.driver.capabilities().networks.contains(&NetworkKind::Named) {
        return skip("the driver declares no network named");
    }
    let name = stage.bench().network().await?;
    own(&stage, NetworkKind::Named, NetworkMode::Named(name)).await?;
    let mut request = life.script(LOOK);
    request.network.mode = NetworkMode::Named("no-such-network".to_owned());
    let error = life.refused("a network that is not there", &request).await?;
    tells(&error, &["no-such-network"])
}
