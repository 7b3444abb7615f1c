//! Which name servers a sandbox asks.

use std::fs;
use std::net::IpAddr;

use super::rules;

/// The host's resolver configuration, and the one behind it where a local stub answers (systemd-resolved(8)).
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
/// The most name servers: resolvers read no more (`MAXNS` of resolv.conf(5)).
const SERVERS: usize = 3;

/// The name servers in the text of a resolv.conf(5).
pub(crate) fn servers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next())??.parse().ok()
        })
        .collect()
}

/// The host's servers, as it asks them itself.
pub(crate) fn of_host() -> Vec<IpAddr> {
    servers(&fs::read_to_string(FILES[0]).unwrap_or_default()).into_iter().take(SERVERS).collect()
}

/// The host's servers that a sandbox on the bridge reaches.
pub(crate) fn public_of_host() -> Vec<IpAddr> {
    for file in FILES {
        let found: Vec<IpAddr> = servers(&fs::read_to_string(file).unwrap_or_default())
            .into_iter()
            .filter(|server| matches!(server, IpAddr::V4(address) if rules::public(*address)))
            .take(SERVERS)
            .collect();
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

/// A resolv.conf(5).
pub(crate) fn file(servers: &[IpAddr]) -> String {
    let lines: Vec<String> = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    lines.concat()
}
