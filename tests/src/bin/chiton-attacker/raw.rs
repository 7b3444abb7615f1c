//! System calls that the libraries do not offer, or offer only with checks that an attacker would not make. The only
//! unsafe code of this program.

use std::ffi::{CStr, c_long};
use std::io;

/// One argument of a system call.
pub(crate) enum Argument<'a> {
    /// A number: a descriptor, a flag, a size; never an address.
    Number(i64),
    /// No address.
    Null,
    /// A text that the kernel reads.
    Text(&'a CStr),
    /// Bytes that the kernel reads or writes, as long as the structure that the call wants or longer.
    Bytes(&'a mut [u8]),
}

/// Makes a system call that does not end, copy or move the process. What it returned.
///
/// # Errors
/// What the kernel reports.
pub(crate) fn call<const N: usize>(number: c_long, arguments: [Argument<'_>; N]) -> io::Result<i64> {
    let mut words = [0; 6];
    // In place of the words: the arguments' borrows last until the call is over.
    for (word, argument) in words.iter_mut().zip(arguments) {
        *word = match argument {
            Argument::Number(number) => number,
            Argument::Null => 0,
            Argument::Text(text) => text.as_ptr() as i64,
            Argument::Bytes(bytes) => bytes.as_mut_ptr() as i64,
        };
    }
    // SAFETY: every address among the words is of a buffer that the caller lends for longer than the call, and that is as
    // long as the kernel reads or writes there by the contract of `Argument`; the callers make no call that changes
    // memory otherwise (mmap, brk, clone with shared memory, ...).
    let result = unsafe { libc::syscall(number, words[0], words[1], words[2], words[3], words[4], words[5]) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// `clone` or `clone3` of the process, with its memory copied. The child ends at once.
///
/// # Errors
/// What the kernel reports.
pub(crate) fn clone(flags: i64, third: bool) -> io::Result<i64> {
    // struct clone_args of linux/sched.h up to `cgroup`: eleven words; flags are the first, exit_signal is the fifth.
    let mut structure = [0_u64; 11];
    structure[0] = flags.cast_unsigned();
    structure[4] = u64::from(libc::SIGCHLD.cast_unsigned());
    // SAFETY: neither CLONE_VM nor a stack is asked for, so this is a fork; the structure lives longer than the call; the
    // child does nothing but end.
    let result = unsafe {
        let result = if third {
            libc::syscall(libc::SYS_clone3, structure.as_mut_ptr(), size_of_val(&structure))
        } else {
            libc::syscall(libc::SYS_clone, flags | i64::from(libc::SIGCHLD), 0, 0, 0, 0)
        };
        if result == 0 {
            libc::_exit(0);
        }
        result
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Copies the process. The child sleeps until it is killed; it holds none of the standard streams, on whose end others wait.
///
/// # Errors
/// What the kernel reports.
pub(crate) fn fork() -> io::Result<i32> {
    // SAFETY: the program has one thread; the child calls nothing but `close` and `pause`, which may be called after a fork.
    let pid = unsafe {
        let pid = libc::fork();
        if pid == 0 {
            for stream in 0..3 {
                libc::close(stream);
            }
            loop {
                libc::pause();
            }
        }
        pid
    };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid) }
}
