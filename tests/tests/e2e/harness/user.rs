//! A throw-away user of the machine, as whom a gateway runs.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use super::PROGRAM;

/// One after the other: who finds the machine's list of users locked gives up after a while.
pub(crate) static USERS: Mutex<()> = Mutex::new(());

/// Who runs a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The machine's root.
    Root,
    /// An ordinary user, with a range of ids where the machine grants one.
    User,
}

/// The user; removed when dropped.
pub(super) struct User {
    name: String,
    uid: u32,
    gid: u32,
}

impl User {
    /// Makes a user to whom a gateway's folder belongs.
    pub(super) fn new(folder: &Path) -> Self {
        let tail: String = folder.to_string_lossy().chars().filter(char::is_ascii_alphanumeric).collect();
        let name = format!("chg{}", tail[tail.len() - 6..].to_lowercase());
        let one = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        let made = Command::new("useradd").args(["--no-create-home", "--home-dir"]).arg(folder).arg(&name).output();
        drop(one);
        assert!(made.as_ref().is_ok_and(|output| output.status.success()), "{made:?}");
        let number = |option: &str| {
            let output = Command::new("id").args([option, &name]).output().expect("coreutils are installed");
            String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
        };
        let user = Self { uid: number("-u"), gid: number("-g"), name };
        chown(folder, Some(user.uid), Some(user.gid)).expect("an owner");
        // The sandbox's root may be another of the user's ids, which has to get to the folder too.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).expect("a mode");
        // By another process: a copy that this one writes cannot be executed while any child of another test's has
        // inherited the open file.
        let copied = Command::new("cp").arg(PROGRAM).arg(folder.join("program")).status();
        assert!(copied.is_ok_and(|status| status.success()), "the user has no program to run");
        user
    }

    /// The gateway's program, with what makes this user of root before it; it stays one process.
    pub(super) fn program(&self, folder: &Path) -> Vec<PathBuf> {
        let ids = [format!("--reuid={}", self.uid), format!("--regid={}", self.gid)];
        let words =
            ["setpriv".to_owned(), ids[0].clone(), ids[1].clone(), "--clear-groups".to_owned(), "--".to_owned()];
        words.into_iter().map(|word| PathBuf::from(OsString::from(word))).chain([folder.join("program")]).collect()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _one = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        drop(Command::new("userdel").args(["--force", &self.name]).output());
    }
}
