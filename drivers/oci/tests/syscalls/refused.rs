use std::fs;
use std::process::Command;

use chiton_confine::{Arch, Held, syscalls, why_refused};
use chiton_driver::ComputeDriver;
use serde_json::json;

use super::common::{World, root, sandbox_id};
use super::{Came, DONE, ENOSYS, EPERM, calls, probe, read, run_with, started_with, word};

/// Calls that a process without privileges could make on the host, with arguments that work.
const WOULD_WORK: [&str; 12] = [
    "ptrace:0",
    "keyctl:0:-3:1",
    "unshare#user:0x10000000",
    "clone#user:0x10000011",
    "process_vm_readv:0:@:0:@:0",
    "name_to_handle_at:-100:@:@:@:0x1000",
    "kcmp:0:0:0:0:0",
    "socket#packet:17:3:0",
    "socket#raw:2:3:1",
    "socket#audit:16:3:9",
    "personality#fixed:0x40000",
    "mknodat#device:-100:@:020600:0",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_refused_call_is_refused_whatever_its_arguments_are() {
    if !root("every_refused_call_is_refused_whatever_its_arguments_are") {
        return;
    }
    let world = World::new();
    let folder = probe(&world);
    let driver = world.driver();
    let arch = Arch::current().unwrap();
    let names: Vec<&str> =
        syscalls().filter(|name| why_refused(name).is_some() && arch.syscall(name).is_some()).collect();
    assert!(names.len() > 60, "{names:?}");
    let words: Vec<String> = names.iter().map(|name| word(&format!("{name}:@:@:@:@:@:@"))).collect();
    let came = calls(&driver, &folder, &json!({}), &words).await;
    for name in names {
        let absent = why_refused(name).is_some_and(|why| why.starts_with("it is answered as"));
        assert_eq!(came[name], if absent { ENOSYS } else { EPERM }, "{name}");
    }
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_call_asks_for_decides_where_it_is_limited() {
    if !root("what_a_call_asks_for_decides_where_it_is_limited") {
        return;
    }
    let world = World::new();
    let folder = probe(&world);
    let driver = world.driver();
    let free_calls: Vec<String> = WOULD_WORK.iter().map(|call| word(call)).collect();
    let mut words = free_calls.clone();
    let namespaces = [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x2000_0000, 0x4000_0000];
    words.extend(namespaces.iter().map(|flag| word(&format!("clone#{flag:x}:{:#x}", flag | 0x11))));
    words.extend(namespaces.iter().map(|flag| word(&format!("unshare#{flag:x}:{flag:#x}"))));
    words.push(word("unshare#time:0x80"));
    for (name, args) in
        [("vsock", "40:1:0"), ("alg", "38:5:0"), ("sctp", "2:1:132"), ("tipc", "30:1:0"), ("old", "2:10:0")]
    {
        words.push(word(&format!("socket#{name}:{args}")));
    }
    words.push(word("socketpair#tipc:30:1:0:@"));
    // The last one with rubbish in the half that the kernel ignores.
    for request in ["0x5412", "0x541c", "0x5423", "0xabcd000000005412"] {
        words.push(word(&format!("ioctl#{request}:0:{request}:@")));
    }
    let came = calls(&driver, &folder, &json!({}), &words).await;
    for (label, came) in &came {
        assert_eq!(*came, EPERM, "{label}");
    }
    // Without confinement none of them is: the answers above are the filter's.
    let unconfined =
        Command::new(folder.join("probe")).args(&free_calls).current_dir(world.folder.path()).output().unwrap();
    for (label, came) in read(&String::from_utf8(unconfined.stdout).unwrap()) {
        assert_ne!(came, EPERM, "{label} is refused on the host, too");
    }
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn other_abis_of_the_processor_are_refused() {
    if !root("other_abis_of_the_processor_are_refused") {
        return;
    }
    let world = World::new();
    let folder = probe(&world);
    let driver = world.driver();
    let mut words = vec!["newer:2000".to_owned(), "negative:-5".to_owned()];
    if cfg!(target_arch = "x86_64") {
        words.extend(["x32:0x40000027".to_owned(), "i386:int80".to_owned()]);
    }
    let came = calls(&driver, &folder, &json!({}), &words).await;
    for (label, came) in came {
        let expected = if label == "i386" { Came::Signal(libc::SIGSYS) } else { ENOSYS };
        assert_eq!(came, expected, "{label}");
    }
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_programs_use_is_allowed() {
    if !root("what_programs_use_is_allowed") {
        return;
    }
    let world = World::new();
    let folder = probe(&world);
    let driver = world.driver();
    let work = [
        "getpid",
        "unshare#files:0x400",
        "personality#query:0xffffffff",
        "socket#unix:1:1:0",
        "socket#tcp:2:1:6",
        "socket#tcp6:10:0x80801:0",
        "socket#udp:2:2:17",
        "socket#route:16:3:0",
        "socketpair:1:1:0:@",
        "mknodat#pipe:-100:@:010600:0",
        "memfd_create:@:0",
        "eventfd2:0:0",
        "epoll_create1:0",
        "inotify_init1:0",
        "timerfd_create:1:0",
        "landlock_create_ruleset:0:0:1",
        "getrandom:@:8:0",
        "sched_yield",
        "sync",
        "pidfd_open:1:0",
        "membarrier:0:0",
        "mlock:@:4096",
        "setpriority:0:0:5",
        "capget:@:0",
    ];
    let words: Vec<String> = work.iter().map(|call| word(call)).collect();
    let came = calls(&driver, &folder, &json!({}), &words).await;
    for (label, came) in came {
        // A path of no characters, and the question which capability version is known.
        let other = [("mknodat#pipe", libc::ENOENT), ("capget", libc::EINVAL)];
        let expected = other.iter().find(|(of, _)| *of == label).map_or(DONE, |(_, errno)| Came::Errno(*errno));
        assert!(came == expected || (label == "capget" && came == DONE), "{label}: {came:?}");
    }
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_filter_is_on_every_process_before_anything_of_the_sandbox_runs_and_after() {
    if !root("the_filter_is_on_every_process_before_anything_of_the_sandbox_runs_and_after") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let id = sandbox_id();
    // The main process, one that it executed, and one below that.
    let script = "sh -c 'sleep 1000 & wait' & echo ready; wait";
    started_with(&driver, None, &json!({}), &["bash", "-c", script], &id).await;
    let pids = || {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let ours = format!("/{id}");
        pids.filter(|pid| {
            let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            cgroups.lines().any(|line| line.ends_with(&ours))
        })
        .collect::<Vec<_>>()
    };
    let asleep = |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|text| text.starts_with(b"sleep"));
    // Who launched the sandbox is in its cgroups too, until it ends, and is none of these.
    let pids = super::common::within("the three processes alone", async {
        loop {
            let found = pids();
            if found.len() == 3 && found.iter().any(asleep) {
                break found;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"] {
            assert!(status.lines().any(|found| found == line), "{line} is not so for {pid}: {status}");
        }
    }
    let enforced = driver.enforced(&id).await.unwrap().expect("it was launched");
    assert!(enforced.seccomp_instructions > 100);
    if enforced.landlock_abi >= 6 {
        assert_eq!(enforced.landlock, Held::Fully);
    }
    driver.delete(&id).await.unwrap();
    // Created and not started: init waits, and is confined already.
    let id = sandbox_id();
    let call = super::common::call(&driver, &super::common::request("host", &["true"]), &id).await;
    driver.create(&call).await.unwrap();
    assert!(driver.enforced(&id).await.unwrap().is_some());
    driver.delete(&id).await.unwrap();
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_kernels_is_writable_and_nothing_tells_of_the_host() {
    if !root("nothing_of_the_kernels_is_writable_and_nothing_tells_of_the_host") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let script = "for file in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe \
                    /proc/sys/vm/overcommit_memory /proc/bus/x /proc/irq/default_smp_affinity /sys/kernel/uevent_helper \
                    /sys/fs/cgroup/x /sys/power/state /dev/x /proc/1/uid_map; do \
                    if (echo x > $file) 2>/dev/null; then echo \"wrote $file\"; fi; done; \
                  for file in /proc/kcore /proc/kallsyms /proc/keys /proc/key-users /proc/modules /proc/cmdline \
                    /proc/interrupts /proc/softirqs /proc/schedstat /proc/timer_list /proc/sched_debug; do \
                    if [ -n \"$(head -c 1 $file 2>/dev/null | tr -d '\\0')\" ]; then echo \"read $file\"; fi; done; \
                  for folder in /sys/firmware /proc/acpi /proc/scsi /proc/asound /sys/devices/virtual/powercap \
                    /sys/fs/cgroup /sys/kernel/debug /sys/kernel/tracing /sys/kernel/security /sys/fs/bpf; do \
                    if [ -n \"$(ls -A $folder 2>/dev/null)\" ]; then echo \"lists $folder\"; fi; done; \
                  echo x > /dev/null && echo x > /dev/shm/x && head -c 4 /dev/zero | wc -c; ls /dev";
    let (status, text) = run_with(&driver, None, &json!({}), &["bash", "-c", script]).await;
    let devices = "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n";
    assert_eq!((status.code, text.as_str()), (Some(0), format!("4\n{devices}").as_str()));
    world.assert_no_traces();
}
