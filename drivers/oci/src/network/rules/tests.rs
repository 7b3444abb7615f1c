use std::net::Ipv4Addr;

use chiton_model::{ErrorKind, NetworkRule, Protocol};
use ipnet::{IpNet, Ipv4Net};
use proptest::prelude::*;

use super::{CLOSED, Exception, NEVER, check, check_server, compile, public};
use crate::options::NetworkOptions;

/// A packet: where to, which protocol (`None` is neither TCP nor UDP), which port.
type Packet = (Ipv4Addr, Option<Protocol>, u16);

fn options(allow: &[Ipv4Net]) -> NetworkOptions {
    NetworkOptions { allow_private: allow.to_vec(), ..NetworkOptions::default() }
}

/// What the text of an exception means, read back from the text itself.
fn accepts(text: &str, (to, protocol, port): Packet) -> bool {
    let (ranges, rest) = text.strip_prefix("ip daddr { ").unwrap().split_once(" } ").unwrap();
    if !ranges.split(", ").any(|range| range.parse::<Ipv4Net>().unwrap().contains(&to)) {
        return false;
    }
    let (rest, fits) = if let Some(rest) = rest.strip_prefix("meta l4proto { tcp, udp } ") {
        (rest, protocol.is_some())
    } else if let Some(rest) = rest.strip_prefix("meta l4proto tcp ") {
        (rest, protocol == Some(Protocol::Tcp))
    } else if let Some(rest) = rest.strip_prefix("meta l4proto udp ") {
        (rest, protocol == Some(Protocol::Udp))
    } else {
        (rest, true)
    };
    let fits_port = match rest.strip_suffix("accept").unwrap().trim().strip_prefix("th dport ") {
        None => true,
        Some(ports) => {
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            (first.parse::<u16>().unwrap()..=last.parse().unwrap()).contains(&port)
        }
    };
    fits && fits_port
}

/// What the documentation says, one packet at a time.
fn meant(rules: &[NetworkRule], bounds: &[Ipv4Net], (to, protocol, port): Packet) -> bool {
    bounds.iter().any(|bound| bound.contains(&to))
        && rules.iter().any(|rule| {
            let IpNet::V4(range) = rule.range else { return false };
            let protocol = match (rule.protocol, rule.ports) {
                (Some(wanted), _) => protocol == Some(wanted),
                (None, Some(_)) => protocol.is_some(),
                (None, None) => true,
            };
            let port = rule.ports.is_none_or(|(first, last)| (first..=last).contains(&port));
            range.contains(&to) && protocol && port
        })
}

/// Ranges that often meet: few first bytes, all lengths.
fn range() -> impl Strategy<Value = Ipv4Net> {
    (prop::sample::select(vec![10_u8, 127, 169, 172, 192, 198, 224]), 0..4_u8, any::<u16>(), 0..=32_u8).prop_map(
        |(a, b, cd, prefix)| {
            let [c, d] = cd.to_be_bytes();
            Ipv4Net::new(Ipv4Addr::new(a, b, c, d), prefix).unwrap().trunc()
        },
    )
}

fn protocol() -> impl Strategy<Value = Option<Protocol>> {
    prop::sample::select(vec![None, Some(Protocol::Tcp), Some(Protocol::Udp)])
}

fn rule() -> impl Strategy<Value = NetworkRule> {
    let ports = prop::option::of((1..200_u16, 0..50_u16).prop_map(|(first, more)| (first, first + more)));
    (range(), ports, protocol()).prop_map(|(range, ports, protocol)| NetworkRule {
        range: range.into(),
        ports,
        protocol,
    })
}

/// A packet to the edge of a range or anywhere in it.
fn packet(near: Vec<Ipv4Net>) -> impl Strategy<Value = Packet> {
    let to = (prop::sample::select(near), any::<u32>(), 0..4_u8).prop_map(|(range, offset, edge)| {
        let first = u32::from(range.network());
        let last = u32::from(range.broadcast());
        Ipv4Addr::from(match edge {
            0 => first,
            1 => last,
            2 => last.wrapping_add(1),
            _ => first + u32::try_from(u64::from(offset) % (u64::from(last - first) + 1)).unwrap(),
        })
    });
    (to, protocol(), 1..260_u16)
}

type Case = (Vec<NetworkRule>, Vec<Ipv4Net>, Vec<Packet>);

fn case() -> impl Strategy<Value = Case> {
    (prop::collection::vec(rule(), 1..6), prop::collection::vec(range(), 0..5)).prop_flat_map(|(rules, bounds)| {
        let mut near = bounds.clone();
        near.extend(rules.iter().filter_map(|rule| match rule.range {
            IpNet::V4(range) => Some(range),
            IpNet::V6(_) => None,
        }));
        (Just(rules), Just(bounds), prop::collection::vec(packet(near), 20))
    })
}

proptest! {
    #[test]
    fn what_is_compiled_accepts_exactly_what_request_and_operator_both_allow((rules, bounds, packets) in case()) {
        let texts: Vec<String> = compile(&rules, &[], &options(&bounds)).iter().map(Exception::text).collect();
        for packet in packets {
            let accepted = texts.iter().any(|text| accepts(text, packet));
            prop_assert_eq!(accepted, meant(&rules, &bounds, packet), "{:?} by {:?}", packet, texts);
        }
    }

    #[test]
    fn a_rule_that_passes_the_check_gets_all_that_it_asks_for((rules, bounds, packets) in case()) {
        let options = options(&bounds);
        for rule in rules.iter().filter(|rule| check("allow", rule, &options, &[]).is_ok()) {
            let texts: Vec<String> =
                compile(std::slice::from_ref(rule), &[], &options).iter().map(Exception::text).collect();
            for packet in &packets {
                let IpNet::V4(range) = rule.range else { continue };
                let asked = meant(std::slice::from_ref(rule), &[range], *packet);
                let never = NEVER.iter().any(|range| range.contains(&packet.0));
                let reached = public(packet.0) || never || texts.iter().any(|text| accepts(text, *packet));
                prop_assert!(!asked || reached, "{rule} does not reach {packet:?}: {texts:?}");
            }
        }
    }
}

#[test]
fn a_request_gets_no_closed_range_that_the_operator_did_not_list() {
    let own = [Ipv4Addr::new(198, 51, 100, 7)];
    let refused = |rule: &str, allow: &[&str]| {
        let allow: Vec<Ipv4Net> = allow.iter().map(|range| range.parse().unwrap()).collect();
        check("network.allow", &rule.parse().unwrap(), &options(&allow), &own).err()
    };
    for closed in CLOSED {
        let error = refused(&closed.to_string(), &[]).unwrap();
        assert!(matches!(error.kind, ErrorKind::Refused { .. }), "{error}");
        assert!(error.cure.unwrap().contains(&format!("add {closed} to allow_private")));
        assert!(refused(&closed.to_string(), &[&closed.to_string()]).is_none());
    }
    assert!(refused("0.0.0.0/0", &["10.0.0.0/8"]).is_some(), "a rule about everything opens all private ranges");
    assert!(refused("10.0.0.0/15", &["10.0.0.0/16", "10.1.0.0/16"]).is_none(), "two halves are a whole");
    assert!(refused("198.51.100.7:22/tcp", &[]).is_some(), "the host's own address is open");
    assert!(refused("198.51.100.0/24", &[]).is_some(), "the host's own address is open");
    assert!(refused("198.51.100.7:22/tcp", &["198.51.100.7/32"]).is_none());
    assert!(refused("203.0.113.0/24", &[]).is_none());
    for never in ["127.0.0.1", "224.0.0.0/4", "255.255.255.255", "0.0.0.0/8", "fd00::/8"] {
        let error = refused(never, &["0.0.0.0/0"]).unwrap();
        assert!(matches!(error.kind, ErrorKind::Invalid { .. }), "{error}");
    }
}

#[test]
fn a_private_name_server_is_open_at_its_port_alone_and_only_when_the_operator_says_so() {
    let server = Ipv4Addr::new(10, 0, 0, 53);
    assert!(check_server("network.dns", server.into(), &options(&[]), &[]).is_err());
    assert!(compile(&[], &[server], &options(&[])).is_empty());
    let named = NetworkOptions { dns: vec![server], ..NetworkOptions::default() };
    assert_eq!(check_server("network.dns", server.into(), &named, &[]).unwrap(), server);
    let texts: Vec<String> = compile(&[], &[server], &named).iter().map(Exception::text).collect();
    assert_eq!(texts, ["ip daddr { 10.0.0.53/32 } meta l4proto { tcp, udp } th dport 53 accept"]);
    for never in ["127.0.0.53", "::1"] {
        assert!(check_server("network.dns", never.parse().unwrap(), &named, &[]).is_err(), "{never}");
    }
}

#[test]
fn addresses_at_which_clouds_tell_machines_their_secrets_are_closed() {
    for address in
        [[169, 254, 169, 254], [169, 254, 170, 2], [100, 100, 100, 200], [192, 0, 0, 192], [168, 63, 129, 16]]
    {
        assert!(!public(Ipv4Addr::from(address)), "{address:?}");
    }
    assert!(public(Ipv4Addr::new(168, 63, 129, 17)));
}
