//! Other rules on the same machine: what the doctor says of them, and that its cure works.

use chiton_driver::ComputeDriver;
use chiton_driver_oci::{Finding, doctor};

use super::common::*;
use super::net::*;
use super::{reach, reached};

fn passage(world: &World) -> Finding {
    let findings = doctor(&world.options);
    findings.into_iter().find(|finding| finding.what == "bridge network: other rules").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firewall_that_drops_what_is_forwarded_is_found_and_the_cure_opens_it_for_sandboxes_alone() {
    if !machine("passage::a_firewall_that_drops_what_is_forwarded_is_found_and_the_cure_opens_it_for_sandboxes_alone") {
        return;
    }
    let outside = build();
    let mut world = world();
    // An operator who said nothing about a bridge.
    let settings = std::mem::take(&mut world.options.network);
    assert!(passage(&world).ok, "there are no other rules: {:?}", passage(&world));
    // As Docker has it.
    sh("nft 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'");
    let found = passage(&world);
    assert!(found.ok && found.detail.contains("FORWARD"), "nobody asked for a bridge: {found:?}");
    world.options.network = settings;
    let found = passage(&world);
    assert!(!found.ok && found.detail.contains("chain FORWARD of table ip filter"), "{found:?}");

    let driver = world.driver();
    let (id, namespace) = running(&driver, &bridged(&SLEEP, &[])).await;
    reach(&namespace, PUBLIC, 8080).expect_err("the firewall lets it pass already");
    let bridge = sh("ip -br link show type bridge");
    let bridge = bridge.split_whitespace().next().unwrap();
    let (_, commands) = found.cure.split_once("): ").unwrap();
    for command in commands.replace("chXXXXXXXX", bridge).split("; ") {
        sh(&format!("nft '{}'", command.strip_prefix("nft ").unwrap()));
    }
    assert_eq!(reached(&namespace, PUBLIC, 8080), HOST.to_string());
    assert_eq!(reach(&namespace, PRIVATE, 8080), Err("closed".to_owned()));
    assert!(passage(&world).ok, "{:?}", passage(&world));
    // Nobody else passes the firewall, and nobody comes in.
    let address = address(&namespace);
    sh(&format!("ip route get {address}"));
    within_namespace(&outside.namespace, || {
        sh(&format!("ip route add {address}/32 via {HOST}"));
        tcp(address, 9091).expect_err("the world opens a connection into a sandbox");
    });
    driver.delete(&id).await.unwrap();
}
