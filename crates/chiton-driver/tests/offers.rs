//! What a driver does not offer is refused by name, never ignored.

use std::collections::BTreeSet;

use chiton_driver::{Capabilities, Feature, Limit, Locality, NetworkKind};
use chiton_model::{DriverId, ErrorKind, NetworkSpec, Resources, VolumeMount, VolumeName};

fn driver() -> Capabilities {
    Capabilities {
        id: DriverId::new("small").unwrap(),
        kind: "paper".to_owned(),
        version: "1.0.0".to_owned(),
        default_image: String::new(),
        gateway_manages_lifecycle: false,
        locality: Locality::Local,
        points: BTreeSet::new(),
        limits: BTreeSet::from([Limit::Pids]),
        networks: BTreeSet::from([NetworkKind::Bridge]),
        features: BTreeSet::new(),
        plan_schema: 1,
        agent: false,
    }
}

fn network(mode: &str) -> NetworkSpec {
    NetworkSpec { mode: mode.parse().unwrap(), ..NetworkSpec::default() }
}

#[test]
fn what_is_offered_passes() {
    let resources = Resources { pids: Some(9), ..Resources::default() };
    driver().check_offers(&resources, &network("bridge"), &[]).unwrap();
    driver().check_offers(&Resources::default(), &network("none"), &[]).unwrap();
}

#[test]
fn every_limit_network_and_volume_that_is_not_offered_is_refused_by_name() {
    let none = NetworkSpec::default;
    let limits = [
        ("resources.cpu", Resources { cpu: Some("1".parse().unwrap()), ..Resources::default() }),
        ("resources.memory", Resources { memory: Some("1Gi".parse().unwrap()), ..Resources::default() }),
        ("resources.disk", Resources { disk: Some("1Gi".parse().unwrap()), ..Resources::default() }),
        ("resources.inodes", Resources { inodes: Some(9), ..Resources::default() }),
        ("resources.open_files", Resources { open_files: Some(64), ..Resources::default() }),
    ];
    let mut refusals: Vec<(&str, chiton_model::Error)> = limits
        .into_iter()
        .map(|(point, resources)| (point, driver().check_offers(&resources, &none(), &[]).unwrap_err()))
        .collect();
    for mode in ["host", "named:lab"] {
        let error = driver().check_offers(&Resources::default(), &network(mode), &[]).unwrap_err();
        refusals.push(("network.mode", error));
    }
    let volume = VolumeMount { name: VolumeName::new("data").unwrap(), target: "/data".to_owned(), read_only: false };
    refusals.push((
        "volumes",
        driver().check_offers(&Resources::default(), &none(), std::slice::from_ref(&volume)).unwrap_err(),
    ));
    for (expected, error) in refusals {
        let ErrorKind::Unsupported { point, .. } = &error.kind else { panic!("{error:?}") };
        assert_eq!(point, expected);
        assert!(error.cure.is_some());
    }
    let keeper = Capabilities { features: BTreeSet::from([Feature::Volumes]), ..driver() };
    keeper.check_offers(&Resources::default(), &none(), &[volume]).unwrap();
}
