//! Parts of the kernel that a sandbox has no use for, and that have let attackers out before.

use super::{Scene, control};
use crate::harness::user::By;

const NO: &str = "EPERM|ENOSYS|EACCES";

fn calls_that_let_attackers_out_before_are_refused(by: By) {
    let scene = Scene::new(by);
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

fn the_kernels_keyrings_are_out_of_reach(by: By) {
    let scene = Scene::new(by);
    scene.refused(&[
        ("add-key=-4", NO),
        ("add-key=-2", NO),
        ("request-key", NO),
        ("keyctl-join", NO),
        ("keyctl-read", NO),
    ]);
    control::succeed(&["add-key=-2", "request-key", "keyctl-join"]);
}

fn the_machine_cannot_be_administered(by: By) {
    let scene = Scene::new(by);
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

by_both!(
    calls_that_let_attackers_out_before_are_refused,
    the_kernels_keyrings_are_out_of_reach,
    the_machine_cannot_be_administered,
);
