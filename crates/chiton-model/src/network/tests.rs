use super::{NetworkMode, NetworkRule, NetworkSpec, Protocol};
use crate::error::ErrorKind;

#[test]
fn rules_read_and_print_alike() {
    for text in
        ["10.0.0.0/8", "10.1.2.3/32:443/tcp", "10.0.0.0/8:8000-8080", "fd00::/8", "[fd00::/8]:53/udp", "10.0.0.0/8/tcp"]
    {
        let rule: NetworkRule = text.parse().unwrap();
        assert_eq!(rule.to_string(), text);
        let document = serde_json::to_value(&rule).unwrap();
        assert_eq!(serde_json::from_value::<NetworkRule>(document).unwrap(), rule);
    }
    let one: NetworkRule = "192.0.2.7:53/udp".parse().unwrap();
    assert_eq!((one.to_string().as_str(), one.protocol), ("192.0.2.7/32:53/udp", Some(Protocol::Udp)));
    let six: NetworkRule = "2001:db8::1".parse().unwrap();
    assert_eq!(six.to_string(), "2001:db8::1/128");
}

#[test]
fn what_is_no_rule_is_refused_with_the_field_and_a_cure() {
    for text in [
        "",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "example.com:443",
        "10.0.0.0/8:",
        "10.0.0.0/8:0",
        "10.0.0.0/8:9-8",
        "10.0.0.0/8:65536",
        "10.0.0.0/8:+5",
        "10.0.0.0/8:80/sctp",
        "[fd00::/8]80",
        "[fd00::/8",
        "10.0.0.0/8:80-90-99",
    ] {
        let error = text.parse::<NetworkRule>().unwrap_err();
        assert!(matches!(&error.kind, ErrorKind::Invalid { field } if field == "network.allow"), "{text}: {error:?}");
        assert!(error.cure.is_some());
    }
}

#[test]
fn modes_read_and_print_alike_and_others_are_refused() {
    for text in ["none", "host", "bridge", "named:build_1"] {
        assert_eq!(text.parse::<NetworkMode>().unwrap().to_string(), text);
    }
    assert_eq!("brigde".parse::<NetworkMode>().unwrap_err().cure.unwrap(), "did you mean \"bridge\"?");
    for text in ["", "NONE", "named:", "named:a b", "named:-x"] {
        assert!(text.parse::<NetworkMode>().is_err(), "{text}");
    }
}

#[test]
fn rules_and_servers_without_a_network_are_refused() {
    let allow = NetworkSpec { allow: vec!["10.0.0.0/8".parse().unwrap()], ..NetworkSpec::default() };
    assert!(allow.check().is_err());
    assert!(NetworkSpec { mode: NetworkMode::Bridge, ..allow }.check().is_ok());
    let dns =
        NetworkSpec { mode: NetworkMode::Bridge, dns: vec!["192.0.2.1".parse().unwrap(); 4], ..NetworkSpec::default() };
    assert!(dns.check().unwrap_err().message.contains("4 name servers"));
}
