//! Parts of the kernel that a sandbox has no use for, and that have let attackers out before.

use super::{Scene, control};
use crate::harness::root;

const NO: &str = "EPERM|ENOSYS|EACCES";

#[test]
fn calls_that_let_attackers_out_before_are_refused() {
    if !root() {
        return;
    }
    let scene = Scene::new();
    scene.refused(&[
        ("bpf-map", NO),
        ("bpf-program", NO),
        ("perf-event-open", NO),
        ("userfaultfd", NO),
        ("io-uring", NO),
        ("fanotify", NO),
        ("process-madvise", NO),
        ("loosen-filter", NO),
        ("vhangup", NO),
    ]);
    control::succeed(&["bpf-map", "bpf-program", "userfaultfd", "io-uring", "fanotify", "loosen-filter"]);
}

#[test]
fn the_kernels_keyrings_are_out_of_reach() {
    if !root() {
        return;
    }
    let scene = Scene::new();
    scene.refused(&[
        ("add-key=-4", NO),
        ("add-key=-2", NO),
        ("request-key", NO),
        ("keyctl-join", NO),
        ("keyctl-read", NO),
    ]);
    control::succeed(&["add-key=-2", "request-key", "keyctl-join"]);
}

#[test]
fn the_machine_cannot_be_administered() {
    if !root() {
        return;
    }
    let scene = Scene::new();
    scene.refused(&[
        ("init-module", NO),
        ("delete-module", NO),
        ("kexec", NO),
        ("reboot", NO),
        ("swapon", NO),
        ("acct", NO),
        ("syslog", NO),
        ("sethostname", NO),
        ("set-clock", NO),
        ("quotactl", NO),
        ("lower-nice", NO),
        ("real-time", NO),
        ("raise-limit", NO),
        ("iopl", NO),
    ]);
    // In namespaces of its own, or only asked.
    control::succeed(&["sethostname", "lower-nice", "swapon"]);
}
