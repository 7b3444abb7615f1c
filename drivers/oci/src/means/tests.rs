//! Which means are named for whom.

use chiton_model::ErrorKind;
use chiton_oci_monitor::cgroup::Mounted;

use super::{Ids, Limit, Means, Way};

fn user(cgroups: Vec<Mounted>) -> Means {
    let ids = Ids::One { why: "no range".to_owned(), cure: "grant one".to_owned() };
    Means { uid: 1000, cgroups, delegation: Some(Err("its cgroup /x belongs to another user".to_owned())), ids }
}

#[test]
fn a_user_without_delegation_has_a_substitute_for_pids_and_is_told_what_memory_lacks() {
    let means = user(Vec::new());
    assert_eq!(means.way(Limit::Pids), Way::Rlimit("RLIMIT_NPROC"));
    let refused = means.require(Limit::Memory).unwrap_err();
    assert!(matches!(refused.kind, ErrorKind::Refused { .. }), "{refused:?}");
    assert!(refused.message.contains("belongs to another user"), "{refused:?}");
    assert!(refused.cure.as_deref().is_some_and(|cure| cure.contains("Delegate=yes")), "{refused:?}");
    let gaps = means.gaps().unwrap();
    assert!(gaps.starts_with("cpu and memory cannot be limited; the sandbox's root has"), "{gaps}");
}

#[test]
fn a_controller_that_is_there_is_the_means() {
    let root = std::path::PathBuf::from("/sys/fs/cgroup/mine");
    let controllers = vec!["memory".to_owned(), "pids".to_owned()];
    let means = user(vec![Mounted { root: root.clone(), unified: true, controllers }]);
    for limit in [Limit::Memory, Limit::Pids] {
        assert_eq!(means.require(limit).unwrap(), Way::Cgroup { root: root.clone(), unified: true });
    }
    assert!(means.require(Limit::Cpu).is_err());
}
