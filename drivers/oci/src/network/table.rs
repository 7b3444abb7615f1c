//! The packet filter's tables, as scripts for `nft`.
//!
//! Two tables, because what a sandbox may call itself is known only where its port of the bridge is seen. The `bridge`
//! table drops every frame that is not IPv4 or ARP from exactly the port, hardware address and address that belong
//! together. The `inet` table judges by destination, in `prerouting` before any translation: what the host would redirect
//! is still what the sandbox wrote. Nobody outside opens a connection into a sandbox.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::names::{Names, hardware_text};
use super::rules::{CLOSED, Exception, NEVER};

/// What each address may reach beyond the public network.
pub(crate) type Entries = BTreeMap<Ipv4Addr, Vec<Exception>>;

/// Makes the tables as they are to be, whatever was there; one transaction.
pub(crate) fn whole(names: &Names, subnet: Ipv4Net, entries: &Entries) -> String {
    let (table, bridge, prefix, owner) = (names.table(), names.bridge(), names.port_prefix(), names.owner());
    let list = |ranges: &[Ipv4Net]| ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let (never, closed) = (list(&NEVER), list(&CLOSED));
    let mut script = gone(names);
    let _ = write!(
        script,
        r#"table bridge {table} {{
    comment "{owner}"
    set ports {{ type ifname . ether_addr . ipv4_addr; }}
    chain ingress {{
        type filter hook prerouting priority -300; policy accept;
        iifname != "{prefix}*" accept
        meta protocol ip iifname . ether saddr . ip saddr @ports accept
        arp htype 1 arp ptype 0x0800 arp hlen 6 arp plen 4 iifname . arp saddr ether . arp saddr ip @ports iifname . ether saddr . arp saddr ip @ports accept
        drop
    }}
}}
table inet {table} {{
    comment "{owner}"
    set closed {{ type ipv4_addr; flags interval; elements = {{ {closed} }} }}
    map exceptions {{ type ipv4_addr : verdict; }}
    chain refuse {{
        meta l4proto tcp reject with tcp reset
        reject with icmpx admin-prohibited
    }}
    chain sandbox {{
        meta nfproto != ipv4 drop
        ip daddr {subnet} goto refuse
        ip daddr {{ {never} }} drop
        ip saddr vmap @exceptions
        fib daddr type != unicast goto refuse
        ip daddr @closed goto refuse
        accept
    }}
    chain prerouting {{
        type filter hook prerouting priority -150; policy accept;
        iifname "{bridge}" goto sandbox
        iifname "{prefix}*" drop
    }}
    chain forward {{
        type filter hook forward priority -10; policy accept;
        oifname "{bridge}" ct state {{ established, related }} accept
        oifname "{bridge}" drop
    }}
    chain postrouting {{
        type nat hook postrouting priority 100; policy accept;
        ip saddr {subnet} oifname != "{bridge}" masquerade
    }}
}}
"#
    );
    for (address, exceptions) in entries {
        add(&mut script, names, *address, exceptions);
    }
    script
}

/// Changes the tables from one state to another; `None` when only making them anew does it.
pub(crate) fn change(names: &Names, from: &Entries, to: &Entries) -> Option<String> {
    let mut script = String::new();
    for (address, exceptions) in from {
        match to.get(address) {
            None => remove(&mut script, names, *address, exceptions),
            Some(wanted) if wanted == exceptions => {}
            Some(_) => return None,
        }
    }
    for (address, exceptions) in to.iter().filter(|(address, _)| !from.contains_key(address)) {
        add(&mut script, names, *address, exceptions);
    }
    Some(script)
}

/// Removes the tables; also where there are none.
pub(crate) fn gone(names: &Names) -> String {
    let table = names.table();
    FAMILIES.map(|family| format!("add table {family} {table}\ndelete table {family} {table}\n")).concat()
}

/// The families that have a table.
pub(crate) const FAMILIES: [&str; 2] = ["bridge", "inet"];

/// A script that fails where the table is not there.
pub(crate) fn probe(names: &Names, family: &str) -> String {
    format!("list table {family} {}\n", names.table())
}

fn chain(address: Ipv4Addr) -> String {
    format!("sandbox_{:08x}", u32::from(address))
}

fn port(names: &Names, address: Ipv4Addr) -> String {
    format!("\"{}\" . {} . {address}", names.port(address), hardware_text(address))
}

fn add(script: &mut String, names: &Names, address: Ipv4Addr, exceptions: &[Exception]) {
    let (table, chain) = (names.table(), chain(address));
    let _ = writeln!(script, "add element bridge {table} ports {{ {} }}", port(names, address));
    if exceptions.is_empty() {
        return;
    }
    let _ = writeln!(script, "add chain inet {table} {chain}");
    for exception in exceptions {
        let _ = writeln!(script, "add rule inet {table} {chain} {}", exception.text());
    }
    let _ = writeln!(script, "add element inet {table} exceptions {{ {address} : jump {chain} }}");
}

fn remove(script: &mut String, names: &Names, address: Ipv4Addr, exceptions: &[Exception]) {
    let (table, chain) = (names.table(), chain(address));
    let _ = writeln!(script, "delete element bridge {table} ports {{ {} }}", port(names, address));
    if !exceptions.is_empty() {
        let _ = writeln!(script, "delete element inet {table} exceptions {{ {address} : jump {chain} }}");
        let _ = writeln!(script, "flush chain inet {table} {chain}");
        let _ = writeln!(script, "delete chain inet {table} {chain}");
    }
}
