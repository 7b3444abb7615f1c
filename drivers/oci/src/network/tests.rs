use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use chiton_model::{DriverId, GatewayId};
use ipnet::Ipv4Net;

use super::names::{Names, hardware};
use super::{dns, forward, subnet, watch};

fn names(gateway: &str) -> Names {
    Names::new(&GatewayId::new(gateway).unwrap(), &DriverId::new("oci").unwrap())
}

#[test]
fn names_fit_the_kernel_and_differ_by_gateway_and_address() {
    let (one, two) = (names("g-1"), names("g-2"));
    assert_ne!((one.bridge(), one.table()), (two.bridge(), two.table()));
    let range: Ipv4Net = "10.200.0.0/16".parse().unwrap();
    let ports: BTreeSet<String> = range.hosts().map(|address| one.port(address)).collect();
    assert_eq!(ports.len(), 65_534);
    // IFNAMSIZ is 16 with the terminating NUL.
    assert!(ports.iter().all(|port| port.len() <= 15 && port.starts_with(&one.port_prefix())));
    // Locally administered, for one station (IEEE 802).
    assert_eq!(hardware(Ipv4Addr::new(10, 200, 0, 2))[0] & 3, 2);
}

#[test]
fn addresses_are_given_out_in_turn_and_never_the_bridges_own() {
    let range: Ipv4Net = "10.200.0.0/29".parse().unwrap();
    let mut taken = BTreeSet::new();
    let mut last = None;
    for wanted in 2..=6_u8 {
        let address = subnet::next_free(range, last, |address| taken.contains(&address)).unwrap();
        assert_eq!(address, Ipv4Addr::new(10, 200, 0, wanted));
        taken.insert(address);
        last = Some(address);
    }
    assert_eq!(subnet::next_free(range, last, |address| taken.contains(&address)), None);
    taken.remove(&Ipv4Addr::new(10, 200, 0, 4));
    let again = subnet::next_free(range, last, |address| taken.contains(&address));
    assert_eq!(again, Some(Ipv4Addr::new(10, 200, 0, 4)));
    // One that was just given back is the last to be given out again.
    assert_eq!(subnet::next_free(range, Some(Ipv4Addr::new(10, 200, 0, 3)), |_| false), again);
    for wrong in [[10, 200, 0, 0], [10, 200, 0, 1], [10, 200, 0, 7], [10, 200, 0, 8]] {
        assert!(!subnet::usable(range, Ipv4Addr::from(wrong)), "{wrong:?}");
    }
}

#[test]
fn name_servers_are_read_as_resolvers_read_them() {
    let text = "# nameserver 9.9.9.9\nsearch example.com\nnameserver 192.0.2.1 # one\n\tnameserver\t2001:db8::1\n\
                nameserver\nnameserver nonsense\nnameservers 192.0.2.2\n";
    let servers = dns::servers(text);
    assert_eq!(servers, ["192.0.2.1".parse::<std::net::IpAddr>().unwrap(), "2001:db8::1".parse().unwrap()]);
    assert_eq!(dns::servers(&dns::file(&servers)), servers);
}

#[test]
fn the_removal_of_a_table_is_found_among_other_messages_and_no_bytes_confuse() {
    let message = |kind: u16, body: usize| {
        let length = u32::try_from(16 + body).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize((16 + body).next_multiple_of(4), 0);
        bytes
    };
    let (other, removal) = (message(10 * 256 + 12, 9), message(10 * 256 + 2, 20));
    assert!(watch::tells_of_removal(&[other.clone(), removal.clone()].concat()));
    assert!(!watch::tells_of_removal(&[other.clone(), other.clone()].concat()));
    assert!(!watch::tells_of_removal(&[]));
    for end in 0..other.len() {
        let _ = watch::tells_of_removal(&other[..end]);
    }
    assert!(!watch::tells_of_removal(&[0; 64]));
    assert!(!watch::tells_of_removal(&[0xff; 64]));
}

#[test]
fn chains_that_drop_what_is_forwarded_are_found_in_what_nft_prints() {
    let text = "table ip filter {\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy drop;\n\t}\n\
                \tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n\
                table ip6 filter {\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n\
                table inet fw {\n\tchain f {\n\t\ttype filter hook forward priority 5; policy accept;\n\t}\n}\n";
    let found = forward::barriers(text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (found[0].table.0.as_str(), found[0].table.1.as_str(), found[0].chain.as_str()),
        ("ip", "filter", "FORWARD")
    );
    assert!(forward::barriers("chain x {\ntype filter hook forward priority 0; policy drop;\n").is_empty());
    for (rules, names) in [
        ("iifname \"ch0123abcd\" accept", true),
        ("oifname \"ch*\" ct state established accept", true),
        ("iifname \"chrome0\" accept", false),
        ("iifname \"docker0\" accept", false),
        ("", false),
    ] {
        assert_eq!(forward::names_a_bridge(rules), names, "{rules}");
    }
}
