//! Mounts and namespaces.

use super::{Scene, control};
use crate::harness::user::By;

/// What the kernel says to a process that has no capability for a call, or that a filter keeps from it.
const NO: &str = "EPERM|ENOSYS|EACCES";

fn nothing_can_be_mounted_unmounted_or_turned(by: By) {
    let scene = Scene::new(by);
    scene.refused(&[
        ("mount=tmpfs", NO),
        ("mount=proc", NO),
        ("mount=sysfs", NO),
        ("mount=devpts", NO),
        ("mount=overlay,lowerdir=/usr:/etc", NO),
        ("mount=tmpfs,,/run/chiton", NO),
        ("mount=tmpfs,,/proc/sys", NO),
        ("mount-bind=/", NO),
        ("mount-bind=/proc/1/root", NO),
        ("mount-bind=/workspace,/run/chiton", NO),
        ("mount-shared=/", NO),
        ("remount-writable=/usr", NO),
        ("remount-writable=/run/chiton", NO),
        ("remount-writable=/proc/sys", NO),
        ("umount=/run/chiton", NO),
        ("umount=/proc/keys", NO),
        ("umount=/proc/sys", NO),
        ("pivot-root", NO),
        ("chroot", NO),
        ("fsopen", NO),
        ("open-tree=/", NO),
        ("mount-setattr=/usr", NO),
    ]);
    control::succeed(&[
        "mount=tmpfs",
        "mount=proc",
        "mount-bind=/",
        "mount-shared=/",
        "umount=/proc",
        "chroot",
        "fsopen",
        "open-tree=/",
    ]);
}

fn no_control_group_can_be_mounted_or_written_and_no_release_agent_set(by: By) {
    let scene = Scene::new(by);
    let none = "EPERM|ENOSYS|EACCES|EROFS|ENOENT";
    scene.refused(&[
        ("mount=cgroup,memory", NO),
        ("mount=cgroup,rdma", NO),
        ("mount=cgroup,none+name=attack", NO),
        ("mount=cgroup2", NO),
        ("unshare=cgroup", NO),
        ("write=/sys/fs/cgroup/release_agent,/tmp/attack", none),
        ("write=/sys/fs/cgroup/memory/release_agent,/tmp/attack", none),
        ("write=/sys/fs/cgroup/cgroup.procs,1", none),
        ("make-folder=/sys/fs/cgroup/attack", none),
        ("make-folder=/sys/fs/cgroup/memory/attack", none),
    ]);
    control::succeed(&["mount=cgroup,memory", "mount=cgroup2", "unshare=cgroup"]);
}

fn no_namespace_can_be_made(by: By) {
    let scene = Scene::new(by);
    // clone3 hides its flags from a filter; the answer ENOSYS makes the C library use clone.
    let mut attacks = Vec::new();
    for kind in ["user", "mnt", "pid", "net", "uts", "ipc", "cgroup"] {
        for call in ["unshare", "clone", "clone3"] {
            attacks.push(format!("{call}={kind}"));
        }
    }
    attacks.push("unshare=time".to_owned());
    let expected: Vec<(&str, &str)> = attacks.iter().map(|attack| (attack.as_str(), NO)).collect();
    scene.refused(&expected);
    let names: Vec<&str> = attacks.iter().map(String::as_str).collect();
    control::succeed(&names);
}

fn no_namespace_of_another_process_can_be_entered(by: By) {
    let scene = Scene::new(by);
    let attacks: Vec<String> =
        ["user", "mnt", "pid", "net", "uts", "ipc", "cgroup"].iter().map(|kind| format!("setns={kind}")).collect();
    let mut named: Vec<(&str, &str)> = attacks.iter().map(|attack| (attack.as_str(), NO)).collect();
    // Its own is another question than the agent's: that one it can open.
    named.extend([
        ("setns-pidfd", NO),
        ("setns=net,self", NO),
        ("setns=mnt,self", NO),
        ("setns=user,self", "EPERM|ENOSYS|EINVAL"),
    ]);
    scene.refused(&named);
    control::succeed(&["setns=mnt", "setns=net", "setns=uts", "setns-pidfd"]);
}

by_both!(
    nothing_can_be_mounted_unmounted_or_turned,
    no_control_group_can_be_mounted_or_written_and_no_release_agent_set,
    no_namespace_can_be_made,
    no_namespace_of_another_process_can_be_entered,
);
