//! Changing what is mounted where.

use std::ffi::CString;
use std::fs;
use std::io;

use crate::raw::Argument::{Null, Number, Text};
use crate::raw::call;
use crate::{Attack, Tried, argument};

pub(crate) const ATTACKS: &[(&str, Attack)] = &[
    ("mount", mount_kind),
    ("mount-bind", mount_bind),
    ("mount-shared", mount_shared),
    ("remount-writable", remount_writable),
    ("umount", unmount),
    ("pivot-root", pivot_root),
    ("chroot", chroot),
    ("fsopen", fsopen),
    ("open-tree", open_tree),
    ("mount-setattr", mount_setattr),
];

fn text(value: &str) -> io::Result<CString> {
    CString::new(value).map_err(io::Error::other)
}

/// A folder of the attacker's own to mount on.
fn own_folder() -> io::Result<String> {
    let folder = format!("/tmp/attack-{}", std::process::id());
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn mount(source: &str, target: &str, kind: &str, flags: u64, data: &str) -> io::Result<()> {
    let (source, target, kind, data) = (text(source)?, text(target)?, text(kind)?, text(data)?);
    let arguments = [Text(&source), Text(&target), Text(&kind), Number(flags.cast_signed()), Text(&data), Null];
    call(libc::SYS_mount, arguments).map(drop)
}

/// KIND[,DATA[,TARGET]]; a plus sign in the data stands for a comma.
fn mount_kind(arguments: &[String]) -> Tried {
    let kind = argument(arguments, 0, "a kind of file system")?;
    let data = arguments.get(1).map_or_else(String::new, |data| data.replace('+', ","));
    let target = arguments.get(2).cloned().map_or_else(own_folder, Ok)?;
    mount("attack", &target, kind, 0, &data)?;
    Ok(format!("{kind} on {target}"))
}

/// SOURCE[,TARGET]
fn mount_bind(arguments: &[String]) -> Tried {
    let source = argument(arguments, 0, "a source")?;
    let target = arguments.get(1).cloned().map_or_else(own_folder, Ok)?;
    mount(source, &target, "", libc::MS_BIND | libc::MS_REC, "")?;
    Ok(format!("{source} on {target}"))
}

/// Makes a mount shared, so that what is mounted below it appears elsewhere.
fn mount_shared(arguments: &[String]) -> Tried {
    mount("", argument(arguments, 0, "a target")?, "", libc::MS_SHARED | libc::MS_REC, "")?;
    Ok("shared".to_owned())
}

fn remount_writable(arguments: &[String]) -> Tried {
    mount("", argument(arguments, 0, "a target")?, "", libc::MS_REMOUNT | libc::MS_BIND, "")?;
    Ok("writable".to_owned())
}

fn unmount(arguments: &[String]) -> Tried {
    let target = text(argument(arguments, 0, "a target")?)?;
    call(libc::SYS_umount2, [Text(&target), Number(libc::MNT_DETACH.into())])?;
    Ok("unmounted".to_owned())
}

fn pivot_root(_: &[String]) -> Tried {
    let here = c".";
    std::env::set_current_dir("/")?;
    call(libc::SYS_pivot_root, [Text(here), Text(here)])?;
    Ok("turned".to_owned())
}

fn chroot(_: &[String]) -> Tried {
    // The old way out: a root below the working folder, and then up.
    let folder = own_folder()?;
    let root = text(&folder)?;
    call(libc::SYS_chroot, [Text(&root)])?;
    for _ in 0..64 {
        std::env::set_current_dir("..")?;
    }
    call(libc::SYS_chroot, [Text(c".")])?;
    Ok("out".to_owned())
}

fn fsopen(_: &[String]) -> Tried {
    call(libc::SYS_fsopen, [Text(c"tmpfs"), Number(0)]).map(|descriptor| format!("a file system, as {descriptor}"))
}

fn open_tree(arguments: &[String]) -> Tried {
    const OPEN_TREE_CLONE: i64 = 1;
    let path = text(argument(arguments, 0, "a path")?)?;
    let arguments = [Number(libc::AT_FDCWD.into()), Text(&path), Number(OPEN_TREE_CLONE)];
    call(libc::SYS_open_tree, arguments).map(|descriptor| format!("a copy of the mount, as {descriptor}"))
}

fn mount_setattr(arguments: &[String]) -> Tried {
    let path = text(argument(arguments, 0, "a path")?)?;
    // struct mount_attr of linux/mount.h: attr_set, attr_clr (MOUNT_ATTR_RDONLY), propagation, userns_fd.
    let mut attributes = [0_u8; 32];
    attributes[8] = 1;
    let arguments = [
        Number(libc::AT_FDCWD.into()),
        Text(&path),
        Number(0),
        crate::raw::Argument::Bytes(&mut attributes),
        Number(32),
    ];
    call(libc::SYS_mount_setattr, arguments)?;
    Ok("writable".to_owned())
}
