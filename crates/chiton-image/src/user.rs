//! Who an image's programs run as.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::Owner;
use crate::error::{Doing, ImageError, Result};
use crate::unpack::parents::Parents;

/// Bytes of `/etc/passwd` and `/etc/group` that are read.
const BYTES: u64 = 1 << 20;
/// Supplementary groups that are taken.
const GROUPS: usize = 64;

/// Ids as the kernel knows them, inside the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home folder; `/` where the image names none.
    pub home: String,
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Finds out what an image's `User` means, by its own `/etc/passwd` and `/etc/group`. `layers` are its unpacked layers,
/// the lowest first; what a sandbox wrote has no say. `ids` is how many ids the sandbox has: others belong to nobody
/// there and are refused.
pub fn resolve_user(text: &str, layers: &[PathBuf], owner: Owner, ids: u32) -> Result<User> {
    let wrong =
        |why: String| ImageError::Form { what: format!("the image's user {:?}", chiton_model::printable(text)), why };
    let parents = Parents::open(layers.iter().rev().map(PathBuf::as_path), owner)?;
    let passwd = read(&parents, &[b"etc", b"passwd"])?;
    let group = read(&parents, &[b"etc", b"group"])?;
    let (user, wanted) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    let account = accounts(&passwd).find(|account| match number {
        // A name of digits is the id that it says.
        Some(uid) => account.uid == uid,
        None => account.name == user,
    });
    let (uid, own) = match (&account, number) {
        (Some(account), _) => (account.uid, account.gid),
        (None, Some(uid)) => (uid, 0),
        (None, None) => return Err(wrong("its /etc/passwd does not have this name".to_owned())),
    };
    let gid = match wanted {
        None | Some("") => own,
        Some(name) => match name.parse::<u32>() {
            Ok(gid) => gid,
            Err(_) => groups(&group)
                .find(|(known, ..)| *known == name)
                .map(|(_, gid, _)| gid)
                .ok_or_else(|| wrong("its /etc/group does not have this group".to_owned()))?,
        },
    };
    let mut others: Vec<u32> = match (&account, wanted) {
        (Some(account), None) => groups(&group)
            .filter(|(_, _, members)| members.split(',').any(|member| member == account.name))
            .map(|(_, other, _)| other)
            .filter(|other| *other != gid && *other < ids)
            .collect(),
        _ => Vec::new(),
    };
    others.sort_unstable();
    others.dedup();
    others.truncate(GROUPS);
    if uid >= ids || gid >= ids {
        return Err(ImageError::Ids { user: chiton_model::printable(text), uid, gid, ids });
    }
    let home = account.map(|account| account.home).filter(|home| home.starts_with('/') && !home.contains('\0'));
    let home = home.unwrap_or(if uid == 0 { "/root" } else { "/" }).to_owned();
    Ok(User { uid, gid, groups: others, home })
}

fn read(parents: &Parents, path: &[&[u8]]) -> Result<String> {
    let Some(file) = parents.file(path)? else { return Ok(String::new()) };
    let mut bytes = Vec::new();
    let name = Path::new("/etc").join(String::from_utf8_lossy(path[path.len() - 1]).as_ref());
    File::from(file).take(BYTES).read_to_end(&mut bytes).doing(format!("read the image's {}", name.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn accounts(text: &str) -> impl Iterator<Item = Account<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Account { name, uid, gid, home: fields.nth(1).unwrap_or("") })
    })
}

fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        Some((name, fields.nth(1)?.parse().ok()?, fields.next().unwrap_or("")))
    })
}
