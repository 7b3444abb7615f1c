//! Loop devices: a file as a block device.
//!
//! A device is set up with `AUTOCLEAR` in the one call that binds the file, so that from that moment on it lasts exactly
//! as long as somebody has it open or mounted: there is no state in which a process that is killed leaves one behind.

use std::fs::{self, File};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

/// `LOOP_CTL_GET_FREE`, from `linux/loop.h`.
const GET_FREE: libc::Ioctl = 0x4c82;
/// `LOOP_CONFIGURE`, since Linux 5.8.
const CONFIGURE: libc::Ioctl = 0x4c0a;
const AUTOCLEAR: u32 = 4;
/// Reads and writes of the file bypass the page cache, which holds the file system's own pages already.
const DIRECT_IO: u32 = 16;
/// How often a free device may be taken by somebody else between two calls.
const ATTEMPTS: usize = 200;

/// `struct loop_info64`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// Binds a file, open for reading and writing, to a free loop device. Returns the device, which is given up when this
/// descriptor and every mount of it is gone, and its path.
pub(crate) fn attach(file: &File) -> io::Result<(OwnedFd, PathBuf)> {
    let control = File::options().read(true).write(true).open("/dev/loop-control")?;
    for _ in 0..ATTEMPTS {
        // SAFETY: LOOP_CTL_GET_FREE (loop(4)) takes no argument and touches no memory of this process.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = match fs::File::options().read(true).write(true).open(&path) {
            Ok(device) => device,
            // Removed again (LOOP_CTL_REMOVE), or the node is still being made.
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENXIO) => {
                std::thread::yield_now();
                continue;
            }
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        };
        let config = LoopConfig {
            fd: u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?,
            block_size: 0,
            info: LoopInfo {
                device: 0,
                inode: 0,
                rdevice: 0,
                offset: 0,
                size_limit: 0,
                number: 0,
                encrypt_type: 0,
                encrypt_key_size: 0,
                flags: AUTOCLEAR | DIRECT_IO,
                file_name: [0; 64],
                crypt_name: [0; 64],
                encrypt_key: [0; 32],
                init: [0; 2],
            },
            reserved: [0; 8],
        };
        // SAFETY: LOOP_CONFIGURE reads a `struct loop_config`; `config` is one of the true layout and lives through the
        // call. Both descriptors are open; the kernel takes a reference of its own on the file.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, std::ptr::from_ref(&config)) };
        if result == 0 {
            return Ok((OwnedFd::from(device), path));
        }
        let error = io::Error::last_os_error();
        // Somebody else was faster.
        if error.raw_os_error() != Some(libc::EBUSY) {
            return Err(error);
        }
    }
    Err(io::Error::other("every free loop device was taken by somebody else at once"))
}

const _: () = assert!(size_of::<LoopInfo>() == 232 && size_of::<LoopConfig>() == 304);
