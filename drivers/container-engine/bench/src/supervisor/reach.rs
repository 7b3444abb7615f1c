//! Where a supervisor calls.

use std::net::SocketAddr;

use chiton_container_engine::{Supervisor, SupervisorOptions};
use chiton_driver::AgentLaunch;
use chiton_driver_suite::{Bench as _, Failure, Verdict};
use chiton_model::NetworkMode;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpSocket};

use super::{Scene, asked, write};
use crate::bench::Target;
use crate::life::{Gateway, done, holds};

/// Says its token to its gateway, as its endpoint says, again and again.
const CALLER: &str = r#"#!/bin/sh
place="${OPENSHELL_ENDPOINT#http://}"
trap 'exit 7' TERM
while :; do nc -w 2 "${place%:*}" "${place##*:}" < /etc/openshell/auth/sandbox.jwt; sleep 0.05; done
"#;

/// A gateway that listens before there is any sandbox, and on nothing but what it was told, is reached from inside by the
/// name in the endpoint.
pub async fn a_supervisor_reaches_where_its_gateway_was_told_to_listen(target: Target) -> Verdict {
    let folder = tempfile::Builder::new().prefix("chiton-supervisor-").tempdir();
    let folder = folder.map_err(|error| Failure::bench("make a folder", error))?;
    // A port that nobody has at any address, nor gets until it is listened on: who has bound it without listening is not
    // in the way of a listener who shares it.
    let free = || {
        let free = TcpSocket::new_v4()?;
        free.set_reuseaddr(true)?;
        free.bind(SocketAddr::from(([0, 0, 0, 0], 0)))?;
        Ok((free.local_addr()?.port(), free))
    };
    let (port, free) = free().map_err(|error: std::io::Error| Failure::bench("look for a port", error))?;
    let program = folder.path().join("supervisor");
    write(&program, CALLER, 0o755)?;
    let endpoint = format!("http://host.openshell.internal:{port}");
    let scene = Scene::new(target, SupervisorOptions::new(Supervisor::Bin(program), endpoint), folder).await?;
    let asked_first = asked(&scene).await?;
    holds(asked_first.port() == port, "the port", &port.to_string(), asked_first)?;
    let network = scene.bench.api().find(&format!("/networks/chiton.{}", scene.gateway.id)).await?;
    let internal = network.as_ref().map(|network| network["Internal"].clone());
    holds(internal != Some(json!(true)), "the network", "one that leads somewhere", network)?;
    let listener = TcpListener::bind(asked_first)
        .await
        .map_err(|error| Failure::bench(format!("listen on {asked_first}, before there is any sandbox"), error))?;
    drop(free);
    // On the gateway's bridge, and on the host's own network.
    for mode in [NetworkMode::None, NetworkMode::Host] {
        let id = Gateway::sandbox()?;
        let request = Gateway::request(&scene.bench.image(), "echo main", mode);
        let mut call = scene.gateway.call(&request, &id).await?;
        let token = format!("the-token-of-{id}");
        call.agent = Some(AgentLaunch { token: token.clone(), attempt: "a-1".to_owned() });
        done("create", scene.gateway.driver.create(&call).await)?;
        done("start", scene.gateway.driver.start(&call).await)?;
        let heard = tokio::time::timeout(std::time::Duration::from_mins(1), async {
            loop {
                let (caller, _) = listener.accept().await?;
                let mut line = String::new();
                // What the one before said may be waiting still, or was broken off with it; the next call is another.
                let mut caller = BufReader::new(caller);
                let read = tokio::time::timeout(std::time::Duration::from_secs(5), caller.read_line(&mut line)).await;
                if matches!(read, Ok(Ok(_))) && line.trim_end() == token {
                    return Ok::<_, std::io::Error>(());
                }
            }
        });
        let heard = heard.await.map_err(|_| Failure::bench(format!("be called at {asked_first}"), "nobody calls"))?;
        heard.map_err(|error| Failure::bench("hear a caller", error))?;
        done("delete", scene.gateway.driver.delete(&id).await)?;
    }
    let again = asked(&scene).await?;
    holds(again == asked_first, "what is asked for later", &asked_first.to_string(), again)?;
    scene.nothing_left().await
}
