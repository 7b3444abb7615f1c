//! Taking what others need.

use std::fs::OpenOptions;
use std::io::{self, Write as _};

use crate::raw::fork;
use crate::{Attack, Tried, argument};

pub(crate) const ATTACKS: &[(&str, Attack)] = &[
    ("fork-bomb", fork_bomb),
    ("fork-storm", fork_storm),
    ("fill", fill),
    ("fill-files", fill_files),
    ("open-files", open_files),
    ("take-memory", take_memory),
];

fn number(arguments: &[String], index: usize) -> io::Result<u64> {
    argument(arguments, index, "a number")?.parse().map_err(io::Error::other)
}

/// MOST: as many sleeping processes as there may be; refused where fewer than that may.
fn fork_bomb(arguments: &[String]) -> Tried {
    let most = number(arguments, 0)?;
    for _ in 0..most {
        fork()?;
    }
    Ok(format!("{most} processes"))
}

/// Wants more processes without a pause, until killed.
fn fork_storm(_: &[String]) -> Tried {
    loop {
        // A refusal is what it goes on after.
        drop(fork());
    }
}

/// MEBIBYTES of memory that is written to.
fn take_memory(arguments: &[String]) -> Tried {
    let most = number(arguments, 0)?;
    let mut taken = Vec::new();
    for _ in 0..most {
        taken.push(vec![0x5a_u8; 1024 * 1024]);
    }
    Ok(format!("{} MiB", taken.len()))
}

/// PATH,MEBIBYTES: one file; refused where fewer may be written.
fn fill(arguments: &[String]) -> Tried {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).open(argument(arguments, 0, "a path")?)?;
    let piece = vec![0x5a; 1024 * 1024];
    let most = number(arguments, 1)?;
    for _ in 0..most {
        file.write_all(&piece)?;
    }
    Ok(format!("{most} MiB"))
}

/// FOLDER,MOST: empty files; refused where fewer may be made.
fn fill_files(arguments: &[String]) -> Tried {
    let (folder, most) = (argument(arguments, 0, "a folder")?, number(arguments, 1)?);
    std::fs::create_dir_all(folder)?;
    for name in 0..most {
        OpenOptions::new().write(true).create_new(true).open(format!("{folder}/{name}"))?;
    }
    Ok(format!("{most} files"))
}

/// MOST: as many open files as there may be.
fn open_files(arguments: &[String]) -> Tried {
    let most = number(arguments, 0)?;
    let mut open = Vec::new();
    for _ in 0..most {
        open.push(std::fs::File::open("/dev/null")?);
    }
    Ok(format!("{} files", open.len()))
}
