//! Parts of the kernel that a sandbox has no use for.

use std::ffi::c_long;
use std::io;

use crate::raw::Argument::{Bytes, Null, Number, Text};
use crate::raw::call;
use crate::{Attack, Tried, argument};

pub(crate) const ATTACKS: &[(&str, Attack)] = &[
    ("bpf-map", bpf_map),
    ("bpf-program", bpf_program),
    ("perf-event-open", perf_event_open),
    ("userfaultfd", userfaultfd),
    ("io-uring", io_uring),
    ("add-key", add_key),
    ("request-key", request_key),
    ("keyctl-join", keyctl_join),
    ("keyctl-read", keyctl_read),
    ("fanotify", fanotify),
    ("init-module", init_module),
    ("delete-module", delete_module),
    ("kexec", kexec),
    ("reboot", reboot),
    ("swapon", swapon),
    ("acct", acct),
    ("syslog", syslog),
    ("sethostname", sethostname),
    ("set-clock", set_clock),
    ("quotactl", quotactl),
    ("lower-nice", lower_nice),
    ("real-time", real_time),
    ("raise-limit", raise_limit),
    ("iopl", iopl),
    ("vhangup", vhangup),
    ("process-madvise", process_madvise),
    ("loosen-filter", loosen_filter),
];

fn done(what: &str, result: io::Result<i64>) -> Tried {
    result.map(|value| format!("{what} {value}"))
}

fn bpf(command: i64, attributes: &mut [u8]) -> io::Result<i64> {
    let length = i64::try_from(attributes.len()).map_err(io::Error::other)?;
    call(libc::SYS_bpf, [Number(command), Bytes(attributes), Number(length)])
}

fn bpf_map(_: &[String]) -> Tried {
    // union bpf_attr for BPF_MAP_CREATE: an array of one entry, key 4 and value 8 bytes.
    let mut attributes = [0_u8; 72];
    for (index, value) in [2_u32, 4, 8, 1].into_iter().enumerate() {
        attributes[index * 4..][..4].copy_from_slice(&value.to_ne_bytes());
    }
    done("map", bpf(0, &mut attributes))
}

fn bpf_program(_: &[String]) -> Tried {
    // "r0 = 0; exit" as a socket filter, which once anybody was allowed to load.
    let mut code = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0_u8];
    let mut licence = *b"GPL\0";
    let mut attributes = [0_u8; 120];
    attributes[0] = 1;
    attributes[4] = 2;
    attributes[8..16].copy_from_slice(&(code.as_mut_ptr() as u64).to_ne_bytes());
    attributes[16..24].copy_from_slice(&(licence.as_mut_ptr() as u64).to_ne_bytes());
    done("program", bpf(5, &mut attributes))
}

fn perf_event_open(_: &[String]) -> Tried {
    // struct perf_event_attr: PERF_TYPE_SOFTWARE, its size, PERF_COUNT_SW_CPU_CLOCK, and exclude_kernel | exclude_hv.
    let mut attributes = [0_u8; 128];
    attributes[0] = 1;
    attributes[4] = 128;
    attributes[40] = 0b0110_0000;
    let arguments = [Bytes(&mut attributes), Number(0), Number(-1), Number(-1), Number(0)];
    done("event", call(libc::SYS_perf_event_open, arguments))
}

fn userfaultfd(_: &[String]) -> Tried {
    const UFFD_USER_MODE_ONLY: i64 = 1;
    done("descriptor", call(libc::SYS_userfaultfd, [Number(UFFD_USER_MODE_ONLY)]))
}

fn io_uring(_: &[String]) -> Tried {
    let mut parameters = [0_u8; 120];
    done("ring", call(libc::SYS_io_uring_setup, [Number(4), Bytes(&mut parameters)]))
}

/// KEYRING: -4 is the user's, shared by all of its processes, whatever sandbox they are in; -2 the process's own.
fn add_key(arguments: &[String]) -> Tried {
    let keyring = argument(arguments, 0, "a keyring")?.parse().map_err(io::Error::other)?;
    let mut payload = *b"attack";
    let arguments = [Text(c"user"), Text(c"chiton-attack"), Bytes(&mut payload), Number(6), Number(keyring)];
    done("key", call(libc::SYS_add_key, arguments))
}

fn request_key(_: &[String]) -> Tried {
    let tried = call(libc::SYS_request_key, [Text(c"user"), Text(c"chiton-attack-none"), Null, Number(0)]);
    // ENOKEY is an answer: it was looked for.
    match tried {
        Err(error) if error.raw_os_error() == Some(libc::ENOKEY) => Ok("looked for".to_owned()),
        other => done("key", other),
    }
}

fn keyctl_join(_: &[String]) -> Tried {
    done("keyring", call(libc::SYS_keyctl, [Number(1), Text(c"chiton-attack")]))
}

fn keyctl_read(_: &[String]) -> Tried {
    let mut keys = [0_u8; 256];
    // KEYCTL_READ of KEY_SPEC_USER_KEYRING.
    done("bytes", call(libc::SYS_keyctl, [Number(11), Number(-4), Bytes(&mut keys), Number(256)]))
}

fn fanotify(_: &[String]) -> Tried {
    // FAN_CLASS_CONTENT, which can hold up others.
    done("group", call(libc::SYS_fanotify_init, [Number(4), Number(0)]))
}

fn init_module(_: &[String]) -> Tried {
    let mut image = *b"\x7fELF";
    let tried = call(libc::SYS_init_module, [Bytes(&mut image), Number(4), Text(c"")]);
    // Whoever may load one is told that this is none.
    match tried {
        Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => Ok("looked at".to_owned()),
        other => done("module", other),
    }
}

fn delete_module(_: &[String]) -> Tried {
    match call(libc::SYS_delete_module, [Text(c"chiton_attack_none"), Number(libc::O_NONBLOCK.into())]) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok("looked for".to_owned()),
        other => done("module", other),
    }
}

fn kexec(_: &[String]) -> Tried {
    done("kernel", call(libc::SYS_kexec_load, [Number(0), Number(0), Null, Number(0)]))
}

fn reboot(_: &[String]) -> Tried {
    // LINUX_REBOOT_CMD_CAD_OFF: whoever may do this may do the rest, and it does no harm.
    let arguments = [Number(0xfee1_dead), Number(672_274_793), Number(0), Null];
    done("allowed", call(libc::SYS_reboot, arguments))
}

fn swapon(_: &[String]) -> Tried {
    match call(libc::SYS_swapon, [Text(c"/chiton-attack-none"), Number(0)]) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok("looked for".to_owned()),
        other => done("swap", other),
    }
}

fn acct(_: &[String]) -> Tried {
    match call(libc::SYS_acct, [Text(c"/chiton-attack-none")]) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok("looked for".to_owned()),
        other => done("accounting", other),
    }
}

fn syslog(_: &[String]) -> Tried {
    // SYSLOG_ACTION_READ_ALL: the kernel's messages.
    let mut text = [0_u8; 1024];
    done("bytes", call(libc::SYS_syslog, [Number(3), Bytes(&mut text), Number(1024)]))
}

fn sethostname(_: &[String]) -> Tried {
    done("name", call(libc::SYS_sethostname, [Text(c"attacked"), Number(8)]))
}

fn set_clock(_: &[String]) -> Tried {
    // struct timex with modes = ADJ_TICK and the tick that it has by default.
    let mut adjustment = [0_u8; 208];
    adjustment[..4].copy_from_slice(&0x4000_u32.to_ne_bytes());
    adjustment[88..96].copy_from_slice(&10_000_i64.to_ne_bytes());
    done("state", call(libc::SYS_clock_adjtime, [Number(0), Bytes(&mut adjustment)]))
}

fn quotactl(_: &[String]) -> Tried {
    // Q_SYNC of all file systems.
    let command = i64::from(0x0080_0001) << 8;
    done("allowed", call(libc::SYS_quotactl, [Number(command), Text(c"/chiton-attack-none"), Number(0), Null]))
}

fn lower_nice(_: &[String]) -> Tried {
    done("allowed", call(libc::SYS_setpriority, [Number(0), Number(0), Number(-20)]))
}

fn real_time(_: &[String]) -> Tried {
    let mut priority = 50_i32.to_ne_bytes();
    done("allowed", call(libc::SYS_sched_setscheduler, [Number(0), Number(1), Bytes(&mut priority)]))
}

fn raise_limit(_: &[String]) -> Tried {
    let mut limit = [0xff_u8; 16];
    // RLIMIT_CORE, which a sandbox is given as 0.
    done("allowed", call(libc::SYS_setrlimit, [Number(4), Bytes(&mut limit)]))
}

#[cfg(target_arch = "x86_64")]
fn iopl(_: &[String]) -> Tried {
    done("allowed", call(libc::SYS_iopl, [Number(3)]))
}

#[cfg(not(target_arch = "x86_64"))]
fn iopl(_: &[String]) -> Tried {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

fn vhangup(_: &[String]) -> Tried {
    let number: c_long = libc::SYS_vhangup;
    done("hung up", call(number, []))
}

fn process_madvise(_: &[String]) -> Tried {
    let process = call(libc::SYS_pidfd_open, [Number(1), Number(0)])?;
    let mut range = [0_u8; 16];
    range[1] = 0x10;
    range[9] = 0x10;
    // MADV_COLD of a page of init's.
    let arguments = [Number(process), Bytes(&mut range), Number(1), Number(20), Number(0)];
    match call(libc::SYS_process_madvise, arguments) {
        Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => Ok("allowed".to_owned()),
        other => done("bytes", other),
    }
}

/// A filter that allows everything, on top of those that are there, and then what they refuse.
fn loosen_filter(arguments: &[String]) -> Tried {
    // struct sock_filter: return (BPF_RET | BPF_K) SECCOMP_RET_ALLOW.
    let mut code = [0_u8; 8];
    code[0] = 6;
    code[4..].copy_from_slice(&0x7fff_0000_u32.to_ne_bytes());
    let mut program = [0_u8; 16];
    program[0] = 1;
    program[8..].copy_from_slice(&(code.as_mut_ptr() as u64).to_ne_bytes());
    call(libc::SYS_seccomp, [Number(1), Number(0), Bytes(&mut program)])?;
    keyctl_join(arguments)
}
