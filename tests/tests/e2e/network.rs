//! A network for sandboxes, through the real gateway: on a machine of the test's own, as far as its network goes.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Gateway, Share, root};

/// Leases and a bridge of one range, with room for two sandboxes.
const LEASED: &str = r#"
[compute]
extensions = ["address-lease"]
[compute.extension."address-lease"]
range = "10.88.7.2-10.88.7.3"
folder = "{folder}/leases"
[compute.driver.oci.bridge]
subnet = "10.88.7.0/28"
enable_forwarding = true
"#;

/// Runs something of the machine's in the gateway's network.
#[track_caller]
fn beside(gateway: &Gateway, words: &[&str]) -> String {
    let network = format!("--net=/proc/{}/ns/net", gateway.pid());
    let output = Command::new("nsenter").arg(network).arg("--").args(words).output().expect("nsenter");
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).expect("a text")
}

/// The addresses of a sandbox's interface, as it sees them itself.
#[track_caller]
fn seen(gateway: &Gateway, name: &str) -> Vec<String> {
    let text =
        gateway.chiton(&["sandbox", "exec", name, "--", "ip", "-json", "-4", "addr", "show", "dev", "eth0"]).ok();
    let links: Value = serde_json::from_str(&text).expect("a list of interfaces");
    let addresses = links[0]["addr_info"].as_array().expect("its addresses");
    addresses.iter().map(|info| info["local"].as_str().expect("an address").to_owned()).collect()
}

#[track_caller]
fn leased(sandbox: &Value) -> String {
    sandbox["slots"]["address-lease.address"].as_str().expect("a leased address").to_owned()
}

#[test]
fn a_leased_address_is_the_interfaces_address_and_is_free_after_delete() {
    if !root() {
        return;
    }
    let needed = ["/usr/sbin/nft", "/usr/sbin/ip"];
    if let Some(missing) = needed.iter().find(|path| !std::path::Path::new(path).exists()) {
        assert!(std::env::var_os("CI").is_none(), "{missing} is missing");
        eprintln!("SKIPPED a_leased_address_is_the_interfaces_address_and_is_free_after_delete: {missing} is missing");
        return;
    }
    let mut gateway = Gateway::on_a_network_of_its_own(LEASED, Share::Part);
    let create = |gateway: &Gateway, name: &str| gateway.json(&["sandbox", "create", name, "--network", "bridge"]);
    let (one, two) = (create(&gateway, "one"), create(&gateway, "two"));
    assert_eq!(seen(&gateway, "one"), [leased(&one)]);
    assert_eq!(seen(&gateway, "two"), [leased(&two)]);
    assert_eq!(gateway.entries("leases"), ["10.88.7.2", "10.88.7.3"]);
    // The kernel finds it there, so that it is more than a number in the sandbox; and no answer goes out of the sandbox,
    // to nobody who asks. Five seconds are for the shell to come to its question.
    let knock = format!("timeout 5 bash -c 'exec 3<>/dev/tcp/{}/9' 2>&1 || echo $?", leased(&one));
    assert_eq!(beside(&gateway, &["sh", "-c", &knock]), "124\n", "a sandbox answers");
    let neighbours = beside(&gateway, &["ip", "-json", "neigh", "show", &leased(&one)]);
    let neighbours: Value = serde_json::from_str(&neighbours).expect("a list of neighbours");
    assert!(neighbours[0]["lladdr"].is_string(), "nobody has the address: {neighbours:#}");

    // The range is empty, and says so.
    let refused = gateway.chiton(&["sandbox", "create", "three", "--network", "bridge"]).refused();
    assert!(refused.contains("address"), "{refused}");

    // It stays over a stop and another gateway.
    gateway.chiton(&["sandbox", "stop", "one"]).ok();
    gateway.terminate();
    gateway.begin();
    gateway.chiton(&["sandbox", "start", "one"]).ok();
    assert_eq!(seen(&gateway, "one"), [leased(&one)]);

    gateway.chiton(&["sandbox", "delete", "one"]).ok();
    assert_eq!(gateway.entries("leases"), [leased(&two)]);
    let links = beside(&gateway, &["ip", "-json", "link", "show", "type", "veth"]);
    let links: Value = serde_json::from_str(&links).expect("a list of interfaces");
    assert_eq!(links.as_array().map(Vec::len), Some(1), "the deleted sandbox's interface is gone: {links:#}");
    let rules = beside(&gateway, &["nft", "list", "ruleset"]);
    assert!(!rules.contains(&leased(&one)) && rules.contains(&leased(&two)), "{rules}");

    let next = create(&gateway, "next");
    assert_eq!(leased(&next), leased(&one), "the only free address");
    assert_eq!(seen(&gateway, "next"), [leased(&next)]);
    assert_eq!(seen(&gateway, "two"), [leased(&two)], "the other one keeps its own");
    assert_eq!(gateway.json(&["obligations", "list"]), json!([]));
}
