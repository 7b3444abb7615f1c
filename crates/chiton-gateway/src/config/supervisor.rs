//! `[supervisor]`: where agents of another make dial, when a driver brings such.

use std::net::{Ipv4Addr, SocketAddr};

use super::error::{Origin, quote};
use super::gateway::socket;
use super::reader::{Notes, Section};
use super::sources::Sources;
use super::types::SupervisorConfig;
use crate::plugin::Listen;

const DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 17_680);

pub(super) fn supervisor(root: &Section<'_>, sources: &Sources, notes: &mut Notes) -> Option<SupervisorConfig> {
    let section = root.section("supervisor");
    let allow_remote = if let Some(field) = section.field("allow_remote") {
        let allowed = field.flag().unwrap_or(false);
        notes.show(field.origin(), &field.path, allowed.to_string());
        allowed
    } else {
        notes.show(&Origin::Default, "supervisor.allow_remote", "false");
        false
    };
    let Some(field) = section.field("listen") else {
        let listen = Listen::Tcp(DEFAULT);
        notes.show(&Origin::Default, "supervisor.listen", format!("{:?}", listen.to_string()));
        return Some(SupervisorConfig { listen, allow_remote });
    };
    let text = field.text()?;
    let listen = if let Some(path) = text.strip_prefix("unix:") {
        Listen::Unix(socket(&field, path, &sources.cwd, notes)?)
    } else {
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() || allow_remote => Listen::Tcp(address),
            Ok(_) => {
                notes.wrong(
                    field.origin(),
                    &field.path,
                    format!("{} is reached by other machines, and supervisors are served without TLS", quote(text)),
                    "use 127.0.0.1 or [::1], put a proxy with TLS before it, or set allow_remote = true where the network \
                     between is trusted",
                );
                return None;
            }
            Err(_) => {
                notes.wrong(
                    field.origin(),
                    &field.path,
                    format!("{} is no address", quote(text)),
                    "write an IP address with a port, for example \"127.0.0.1:17680\", or \"unix:/path\"",
                );
                return None;
            }
        }
    };
    notes.show(field.origin(), &field.path, format!("{text:?}"));
    Some(SupervisorConfig { listen, allow_remote })
}
