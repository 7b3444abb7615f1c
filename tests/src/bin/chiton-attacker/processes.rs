//! Other processes: the agent first of all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::process::{Command, Stdio};

use crate::raw::Argument::{Bytes, Null, Number, Text};
use crate::raw::{call, fork};
use crate::{Attack, Tried, argument, failed};

pub(crate) const ATTACKS: &[(&str, Attack)] = &[
    ("ptrace-attach", ptrace_attach),
    ("ptrace-seize", ptrace_seize),
    ("read-memory", read_memory),
    ("write-memory", write_memory),
    ("pidfd-getfd", pidfd_getfd),
    ("kcmp", kcmp),
    ("kill", kill),
    ("descriptors", descriptors),
    ("setuid-memfd", setuid_memfd),
    ("setuid-program", setuid_program),
    ("become", become_user),
    ("privileges", privileges),
    ("write-memory-of-init", write_memory_of_init),
];

/// The process that an argument names, or one made for it: `own` stands for a child of the attacker's.
struct Target {
    pid: i64,
    own: bool,
}

impl Drop for Target {
    fn drop(&mut self) {
        // A traced one may hold the standard streams, stopped before it could close them.
        if self.own {
            drop(call(libc::SYS_kill, [Number(self.pid), Number(libc::SIGKILL.into())]));
        }
    }
}

fn process(arguments: &[String]) -> io::Result<Target> {
    match argument(arguments, 0, "a process")? {
        "own" => Ok(Target { pid: fork()?.into(), own: true }),
        pid => Ok(Target { pid: pid.parse().map_err(io::Error::other)?, own: false }),
    }
}

fn ptrace_attach(arguments: &[String]) -> Tried {
    let target = process(arguments)?;
    call(libc::SYS_ptrace, [Number(libc::PTRACE_ATTACH.into()), Number(target.pid), Null, Null])?;
    Ok("attached".to_owned())
}

fn ptrace_seize(arguments: &[String]) -> Tried {
    let target = process(arguments)?;
    call(libc::SYS_ptrace, [Number(libc::PTRACE_SEIZE.into()), Number(target.pid), Null, Null])?;
    Ok("seized".to_owned())
}

/// One word of a process's memory, by `process_vm_readv`: where its program begins, which says whether it may at all.
fn read_memory(arguments: &[String]) -> Tried {
    memory(libc::SYS_process_vm_readv, arguments)
}

fn write_memory(arguments: &[String]) -> Tried {
    memory(libc::SYS_process_vm_writev, arguments)
}

fn memory(number: std::ffi::c_long, arguments: &[String]) -> Tried {
    let target = process(arguments)?;
    // struct iovec twice: ours of no bytes, theirs of one at an address that is never mapped. Permission is looked at
    // first: whoever has it gets EFAULT.
    let mut word = [0_u8; 8];
    let mut own = [0_u8; 16];
    own[..8].copy_from_slice(&(word.as_mut_ptr() as u64).to_ne_bytes());
    own[8] = 1;
    let mut theirs = [0_u8; 16];
    theirs[0] = 1;
    theirs[8] = 1;
    let tried =
        call(number, [Number(target.pid), Bytes(&mut own), Number(1), Bytes(&mut theirs), Number(1), Number(0)]);
    match tried {
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok("allowed".to_owned()),
        Err(error) => Err(error),
        Ok(length) => Ok(format!("{length} bytes")),
    }
}

fn write_memory_of_init(arguments: &[String]) -> Tried {
    let pid = argument(arguments, 0, "a process")?;
    let mut memory = OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let first = maps.split('-').next().and_then(|text| u64::from_str_radix(text, 16).ok());
    io::Seek::seek(&mut memory, io::SeekFrom::Start(first.ok_or_else(|| failed("its map is empty"))?))?;
    memory.read_exact(&mut [0; 8])?;
    Ok("its memory is open".to_owned())
}

/// Takes a descriptor out of another process.
fn pidfd_getfd(arguments: &[String]) -> Tried {
    let target = process(arguments)?;
    let descriptor = call(libc::SYS_pidfd_open, [Number(target.pid), Number(0)])?;
    let mut taken = Vec::new();
    let mut refused = None;
    for number in 0..16 {
        match call(libc::SYS_pidfd_getfd, [Number(descriptor), Number(number), Number(0)]) {
            Ok(_) => taken.push(number.to_string()),
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        Some(error) if taken.is_empty() => Err(error),
        _ => Ok(format!("descriptors {}", taken.join(" "))),
    }
}

fn kcmp(arguments: &[String]) -> Tried {
    const KCMP_VM: i64 = 1;
    let own = i64::from(std::process::id());
    let target = process(arguments)?;
    call(libc::SYS_kcmp, [Number(target.pid), Number(own), Number(KCMP_VM), Number(0), Number(0)])?;
    Ok("compared".to_owned())
}

/// A signal that cannot be caught.
fn kill(arguments: &[String]) -> Tried {
    let target = process(arguments)?;
    call(libc::SYS_kill, [Number(target.pid), Number(libc::SIGKILL.into())])?;
    Ok("sent".to_owned())
}

/// What this process was given open, as `number:target`. Never refused; the test reads the list.
fn descriptors(_: &[String]) -> Tried {
    let folder = File::open("/proc/self/fd")?;
    let own = std::os::fd::AsRawFd::as_raw_fd(&folder);
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let target = fs::read_link(entry.path()).unwrap_or_default().to_string_lossy().into_owned();
        // The folder itself is open twice: once here, once for the listing.
        if name != own.to_string() && !target.ends_with("/fd") {
            found.push(format!("{name}:{target}"));
        }
    }
    Ok(found.join(" "))
}

/// A copy of this program in memory, marked set-user-id, executed by its descriptor.
fn setuid_memfd(_: &[String]) -> Tried {
    let descriptor = call(libc::SYS_memfd_create, [Text(c"attack"), Number(0)])?;
    let path = format!("/proc/self/fd/{descriptor}");
    let mut copy = OpenOptions::new().write(true).open(&path)?;
    copy.write_all(&fs::read("/proc/self/exe")?)?;
    drop(copy);
    call(libc::SYS_fchmod, [Number(descriptor), Number(0o6755)])?;
    let output = Command::new(&path).args([crate::ONE, "privileges"]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().trim_start_matches("succeeded ").to_owned())
}

/// Runs a set-user-id program of the image. The loader shows what it was started with, unless it was started with more
/// privileges than its caller has.
fn setuid_program(arguments: &[String]) -> Tried {
    let program = argument(arguments, 0, "a program")?;
    let output = Command::new(program).arg("--help").env("LD_SHOW_AUXV", "1").stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let of = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)).unwrap_or("hidden").to_owned()
    };
    if of("AT_SECURE:") == "0" { Err(io::Error::from_raw_os_error(libc::EPERM)) } else { Ok("privileged".to_owned()) }
}

/// USER: another user of the sandbox, or of the host.
fn become_user(arguments: &[String]) -> Tried {
    let user = argument(arguments, 0, "a user id")?.parse().map_err(io::Error::other)?;
    call(libc::SYS_setresuid, [Number(user), Number(user), Number(user)])?;
    Ok(format!("user {user}"))
}

/// What the kernel says of this process. Never refused; the test reads it.
fn privileges(_: &[String]) -> Tried {
    let status = fs::read_to_string("/proc/self/status")?;
    let wanted = ["Uid:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:", "Seccomp:"];
    let lines = status.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    Ok(lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join("; "))
}
