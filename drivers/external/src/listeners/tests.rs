//! Wishes against places.

use super::*;

fn wish(selector: Selector) -> v1::GatewayListenerRequirement {
    v1::GatewayListenerRequirement { reason: "sandboxes call".to_owned(), selector: Some(selector) }
}

fn exact(address: &str) -> v1::GatewayListenerRequirement {
    wish(Selector::ExactBindAddress(address.to_owned()))
}

fn asked(wish: &v1::GatewayListenerRequirement, listen: &str) -> Option<Error> {
    let out = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5)));
    of("kyma", wish, listen.parse().expect("an address"), out)
}

#[test]
fn an_exact_address_is_met_by_itself_and_by_all_interfaces() {
    for (wanted, listen) in [
        ("172.17.0.1:17680", "172.17.0.1:17680"),
        ("172.17.0.1:17680", "0.0.0.0:17680"),
        ("172.17.0.1:17680", "[::]:17680"),
        ("[fd00::1]:17680", "[::]:17680"),
        ("127.0.0.1:17680", "127.0.0.1:0"),
    ] {
        assert_eq!(asked(&exact(wanted), listen), None, "{wanted} at {listen}");
    }
    for (wanted, listen) in [
        ("172.17.0.1:17680", "127.0.0.1:17680"),
        ("172.17.0.1:17680", "0.0.0.0:8080"),
        ("[fd00::1]:17680", "0.0.0.0:17680"),
    ] {
        let told = asked(&exact(wanted), listen).expect("it is not met");
        for part in ["\"kyma\"", wanted, listen, "sandboxes call"] {
            assert!(told.message.contains(part), "{part}: {told}");
        }
        let cure = told.cure.expect("a cure");
        assert!(cure.contains(&format!("listen = \"{wanted}\" and allow_remote = true")), "{cure}");
    }
}

#[test]
fn interfaces_are_met_by_their_own_addresses() {
    let loopback = wish(Selector::LoopbackInterface(v1::GatewayLoopbackInterfaceRequirement {}));
    let route = wish(Selector::DefaultRouteInterface(v1::GatewayDefaultRouteInterfaceRequirement {}));
    for (listen, met) in [
        ("127.0.0.1:17680", (true, false)),
        ("10.0.0.5:17680", (false, true)),
        ("10.0.0.6:17680", (false, false)),
        ("0.0.0.0:17680", (true, true)),
    ] {
        assert_eq!((asked(&loopback, listen).is_none(), asked(&route, listen).is_none()), met, "{listen}");
    }
    let cure = asked(&loopback, "10.0.0.5:17680").and_then(|told| told.cure).expect("a cure");
    assert!(cure.contains("listen = \"127.0.0.1:17680\" in"), "{cure}");
}

#[test]
fn nonsense_is_told_as_such_and_there_is_an_end_of_it() {
    let odd = asked(&exact("some\u{1b}where"), "0.0.0.0:1").expect("it cannot be met");
    assert!(odd.message.contains("no address") && !odd.message.contains('\u{1b}'), "{odd}");
    let none = v1::GatewayListenerRequirement::default();
    assert!(asked(&none, "0.0.0.0:1").expect("it cannot be met").message.contains("no known kind"));
    let many = vec![exact("somewhere"); 10_000];
    assert_eq!(unmet("kyma", &many, "0.0.0.0:1".parse().expect("an address")).len(), MOST);
}
