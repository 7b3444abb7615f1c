//! The host's files, settings, devices and services.

use std::fs;

use super::scene::CANARY;
use super::{Scene, control};
use crate::harness::user::By;

/// Not there, or not for a sandbox.
const NONE: &str = "EPERM|ENOSYS|EACCES|EROFS|ENOENT|EIO";

fn no_setting_of_the_kernel_can_be_written(by: By) {
    let scene = Scene::new(by);
    scene.refused(&[
        ("write=/proc/sys/kernel/core_pattern,|/tmp/attack", NONE),
        ("write=/proc/sys/kernel/modprobe,/tmp/attack", NONE),
        ("write=/proc/sys/kernel/hostname,attack", NONE),
        ("write=/proc/sys/kernel/sysrq,1", NONE),
        ("write=/proc/sys/kernel/randomize_va_space,0", NONE),
        ("write=/proc/sys/kernel/ns_last_pid,1000", NONE),
        ("write=/proc/sys/fs/suid_dumpable,2", NONE),
        ("write=/proc/sys/fs/binfmt_misc/register,:attack:M::x::/tmp/attack:", NONE),
        ("write=/proc/sys/vm/overcommit_memory,1", NONE),
        ("write=/proc/sys/net/ipv4/ip_forward,1", NONE),
        ("write=/proc/sysrq-trigger,h", NONE),
        ("write=/proc/1/attr/current", "EPERM|EACCES|EINVAL|ENOENT"),
        ("write=/sys/kernel/uevent_helper,/tmp/attack", NONE),
        ("write=/sys/power/state,mem", NONE),
        ("write=/sys/kernel/mm/transparent_hugepage/enabled,never", NONE),
        ("write=/sys/module/kernel/parameters/panic,1", NONE),
        ("make-folder=/sys/fs/attack", NONE),
        ("read=/proc/kcore", "EPERM|EACCES|ENOENT|ENXIO|EIO"),
        ("read=/proc/kmsg", NONE),
        ("list=/sys/kernel/debug/tracing", "EPERM|EACCES|ENOENT"),
        ("read=/sys/kernel/tracing/trace", "EPERM|EACCES|ENOENT"),
    ]);
    // As it is, so that nothing changes: that the same write has an effect outside is what matters.
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").expect("a setting");
    control::succeed(&[&format!("write=/proc/sys/kernel/core_pattern,{}", pattern.trim())]);
}

fn no_device_of_the_host_can_be_made_or_opened(by: By) {
    let scene = Scene::new(by);
    let devices: Vec<String> = [
        "mem",
        "kmem",
        "kmsg",
        "port",
        "kvm",
        "fuse",
        "loop0",
        "loop-control",
        "sda",
        "vda",
        "nvme0n1",
        "net/tun",
        "vhost-net",
        "vsock",
        "uinput",
        "snapshot",
        "mapper/control",
        "tty0",
        "console",
        "hpet",
        "rtc0",
        "autofs",
    ]
    .iter()
    .map(|name| format!("read=/dev/{name}"))
    .collect();
    let mut attacks: Vec<(&str, &str)> =
        devices.iter().map(|attack| (attack.as_str(), "ENOENT|EPERM|EACCES|ENXIO")).collect();
    let no = "EPERM|EACCES|ENOSYS";
    attacks.extend([
        ("mknod=c,1,1", no),
        ("mknod=c,1,11", no),
        ("mknod=c,10,232", no),
        ("mknod=c,10,229", no),
        ("mknod=b,7,0", no),
        ("mknod=b,8,0", no),
        ("mknod=b,254,0", no),
        ("mknod=c,1,1,/dev", no),
        ("mknod=c,1,1,/dev/shm", no),
    ]);
    scene.refused(&attacks);
    // The whole of /dev is on a short list.
    let listed = scene.gateway.shell("box", "ls /dev | tr '\\n' ' '").ok();
    let known = [
        "console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout",
        "tty", "urandom", "zero",
    ];
    for name in listed.split_whitespace() {
        assert!(known.contains(&name), "/dev/{name} is there: {listed}");
    }
    control::succeed(&["mknod=c,1,11", "mknod=b,7,0", "read=/dev/kmsg"]);
}

fn no_path_leads_to_a_file_of_the_host(by: By) {
    let scene = Scene::new(by);
    let canary = scene.canary().display().to_string();
    let attacks = [
        format!("read={canary}"),
        format!("write={canary}"),
        format!("append={canary}"),
        format!("read=/proc/1/root{canary}"),
        format!("climb={canary}"),
        format!("handle={}", scene.outside().display()),
        format!("unix={}", scene.outside().join("socket").display()),
    ];
    let mut named: Vec<(&str, &str)> = attacks.iter().map(|attack| (attack.as_str(), "ENOENT|EACCES|EPERM")).collect();
    let no = "EPERM|EACCES|ENOSYS|EOPNOTSUPP";
    named.extend([
        ("handle=/", no),
        ("handle=/usr", no),
        ("handle=/run/chiton", no),
        ("handle-root=/", no),
        ("handle-root=/usr", no),
        ("handle-root=/run/chiton", no),
        ("read=/etc/shadow", "ENOENT|EACCES"),
        ("read=/usr/../../../etc/shadow", "ENOENT|EACCES"),
    ]);
    scene.refused(&named);
    // By hand it is there, for any user.
    assert_eq!(fs::read_to_string(&canary).expect("a file"), CANARY);
    let climb = format!("climb={canary}");
    let handle = format!("handle={}", scene.outside().display());
    control::succeed(&[&climb, &handle, &format!("read={canary}")]);
}

fn what_the_host_lends_cannot_be_written_replaced_or_removed(by: By) {
    let scene = Scene::new(by);
    let no = "EROFS|EPERM|EACCES|EBUSY|ETXTBSY|EXDEV";
    scene.refused(&[
        ("write=/run/chiton-agent", no),
        ("append=/run/chiton-agent", no),
        ("replace=/run/chiton-agent", no),
        ("remove=/run/chiton-agent", no),
        ("append=/run/chiton/attack", no),
        ("remove=/run/chiton/agent.sock", no),
        ("replace=/run/chiton/agent.sock", no),
        ("make-folder=/run/chiton/attack", no),
        ("replace=/run/chiton", "EBUSY|EPERM|EACCES|EISDIR|EROFS"),
        ("chown=/run/chiton/agent.sock,1", "EPERM|EROFS|EINVAL|EACCES"),
        ("append=/usr/bin/env", no),
        ("replace=/usr/bin/env", no),
        ("make-folder=/usr/attack", no),
        ("append=/etc/ld.so.cache", no),
        ("append=/bin/attack", no),
        ("write=/proc/self/exe", "ETXTBSY|EACCES|EPERM"),
    ]);
    assert!(!std::path::Path::new("/usr/attack").exists() && !std::path::Path::new("/bin/attack").exists());
    // A gateway and an agent that come back still find each other.
    assert_eq!(scene.gateway.shell("box", "echo here").ok(), "here\n");
}

fn no_socket_of_the_host_or_of_a_neighbour_can_be_reached(by: By) {
    let scene = Scene::new(by);
    let gateway = &scene.gateway;
    gateway.chiton(&["sandbox", "cp", super::control::ATTACKER, "neighbour:/workspace/attacker"]).ok();
    // The flag is of a socket that listens: it has its name a moment earlier.
    let listen = "/workspace/attacker hold-abstract=chiton-neighbour >/dev/null 2>&1 & \
                  until grep -q ' 00010000 .*@chiton-neighbour' /proc/net/unix; do sleep 0.01; done";
    gateway.shell("neighbour", listen).ok();
    let (port, name) = (scene.tcp.port(), scene.abstract_name());
    let by_name = format!("abstract={name}");
    let by_port = format!("tcp=127.0.0.1,{port}");
    let no = "EPERM|EACCES|ENOSYS|EAFNOSUPPORT|EPROTONOSUPPORT|EINVAL";
    scene.refused(&[
        (by_name.as_str(), "ECONNREFUSED|EPERM|EACCES"),
        ("abstract=chiton-neighbour", "ECONNREFUSED|EPERM|EACCES"),
        (by_port.as_str(), "ECONNREFUSED|EPERM|EACCES|ENETUNREACH"),
        ("tcp=192.0.2.1,80", "ENETUNREACH|EPERM|EACCES"),
        ("tcp=169.254.169.254,80", "ENETUNREACH|EPERM|EACCES"),
        ("socket=raw", no),
        ("socket=raw6", no),
        ("socket=packet", no),
        ("socket=packet-dgram", no),
        ("socket=vsock", no),
        ("socket=alg", no),
        ("socket=netlink-audit", no),
        ("socket=netlink-netfilter", no),
        ("socket=xdp", no),
        ("socket=bluetooth", no),
        ("socket=can", no),
        ("vsock=1", no),
        ("vsock=2", no),
    ]);
    // The neighbour's own processes get to it, so it is there.
    let found =
        gateway.chiton(&["sandbox", "exec", "neighbour", "--", "/workspace/attacker", "abstract=chiton-neighbour"]);
    let found = found.ok();
    assert!(found.contains("succeeded heard"), "the neighbour's own socket answers: {found}");
    // Of abstract sockets none is seen but its own; a table of the host's would name its services.
    let seen = &scene.attack(&["abstract-any"])["abstract-any"];
    assert!(!seen.contains('@'), "{seen}");
    control::succeed(&["socket=raw", "socket=packet"]);
}

by_both!(
    no_setting_of_the_kernel_can_be_written,
    no_device_of_the_host_can_be_made_or_opened,
    no_path_leads_to_a_file_of_the_host,
    what_the_host_lends_cannot_be_written_replaced_or_removed,
    no_socket_of_the_host_or_of_a_neighbour_can_be_reached,
);
