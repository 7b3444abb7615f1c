use std::path::{Path, PathBuf};

use super::{Hierarchy, Limits, Mounted, create, layout, parse_mounts};

fn mounted(root: &str, unified: bool, controllers: &[&str]) -> Mounted {
    let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
    Mounted { root: PathBuf::from(root), unified, controllers }
}

#[test]
fn a_hybrid_host_gives_its_limiting_controllers_and_the_unified_hierarchy() {
    let mountinfo = "\
        30 20 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        31 30 0:26 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
        32 30 0:27 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n\
        33 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        34 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        35 30 0:26 / /mnt/elsewhere rw - cgroup cgroup rw,pids\n";
    assert_eq!(
        parse_mounts(mountinfo, |_| "hugetlb\n".to_owned()),
        [
            mounted("/sys/fs/cgroup/cpu,cpuacct", false, &["cpu"]),
            mounted("/sys/fs/cgroup/memory", false, &["memory"]),
            mounted("/sys/fs/cgroup/unified", true, &[]),
        ]
    );
}

#[test]
fn a_unified_host_gives_one_hierarchy_with_its_controllers() {
    let mountinfo = "30 20 0:25 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    assert_eq!(
        parse_mounts(mountinfo, |_| "cpuset cpu io memory pids\n".to_owned()),
        [mounted("/sys/fs/cgroup", true, &["cpu", "memory", "pids"])]
    );
}

#[test]
fn only_hierarchies_of_version_one_are_entered_by_tasks() {
    let found = layout(
        &[mounted("/sys/fs/cgroup/pids", false, &["pids"]), mounted("/sys/fs/cgroup/unified", true, &[])],
        "chiton-g",
        "s-1",
    );
    assert_eq!(found[0].tasks().as_deref(), Some(Path::new("/sys/fs/cgroup/pids/chiton-g/s-1/tasks")));
    assert_eq!(found[1].tasks(), None);
}

#[test]
fn a_limit_without_its_controller_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let cgroups = [Hierarchy {
        root: dir.path().to_owned(),
        dir: dir.path().join("p/s"),
        unified: false,
        controllers: vec!["cpu".to_owned()],
    }];
    let error = create(&cgroups, &Limits { pids: Some(5), ..Limits::default() }).unwrap_err();
    assert_eq!(error.to_string(), "no cgroup hierarchy has the controller \"pids\"");
    assert!(!dir.path().join("p").exists());
}
