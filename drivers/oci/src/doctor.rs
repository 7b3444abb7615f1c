//! What the driver needs of the machine, each need looked at by itself.

use std::fs;
use std::path::Path;

use chiton_model::Error;
use rustix::io::Errno;
use rustix::process::Uid;
use serde::{Deserialize, Serialize};

use crate::means::{Ids, Limit, Means, Way};
use crate::options::OciOptions;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What.
    pub what: String,
    /// Whether it is as the driver needs it.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What to do about it; empty when nothing. With `ok` it is how to get more than what works already.
    pub cure: String,
}

fn finding(what: &str, ok: bool, detail: impl Into<String>, cure: &str) -> Finding {
    let cure = if ok { String::new() } else { cure.to_owned() };
    Finding { what: what.to_owned(), ok, detail: detail.into(), cure }
}

/// Looks at everything. Makes nothing but the folders' absence visible; may be called by any user.
pub fn doctor(options: &OciOptions) -> Vec<Finding> {
    let mut findings = essentials();
    findings.push(landlock());
    findings.extend(means());
    findings.push(folder("state folder", &options.state_dir));
    findings.push(folder("run folder", &options.run_dir));
    findings.push(images(options));
    let network = crate::network::doctor::looks(&options.network);
    findings.extend(network.into_iter().map(|(what, ok, detail, cure)| finding(what, ok, detail, &cure)));
    findings
}

/// Whether this user can make sandboxes here at all: how, in a few words, or the first thing that stops them all and its
/// cure. Reads a few files and makes nothing; folders, limits, images and networks are no part of it.
///
/// # Errors
/// `unavailable`.
pub fn probe() -> Result<String, Error> {
    match essentials().into_iter().find(|finding| !finding.ok) {
        None => {
            let as_whom = if rustix::process::geteuid().is_root() { "as root" } else { "without root" };
            Ok(format!("containers of this kernel, Linux {}, {as_whom}", release()))
        }
        Some(Finding { what, detail, cure, .. }) => {
            Err(Error::unavailable("oci driver", format!("{what}: {detail}")).cure(cure))
        }
    }
}

/// What no sandbox can be without.
fn essentials() -> Vec<Finding> {
    let uid = rustix::process::geteuid();
    let mut findings = vec![whom(uid), user_namespaces(uid)];
    for namespace in ["user", "mnt", "pid", "net", "uts", "ipc", "cgroup"] {
        let there = Path::new("/proc/self/ns").join(namespace).exists();
        let detail = if there { "supported" } else { "not supported by this kernel" };
        let cure = "run a kernel built with all namespaces";
        findings.push(finding(&format!("{namespace} namespaces"), there, detail, cure));
    }
    let systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    for kind in ["overlay", "tmpfs"] {
        let there = systems.lines().any(|line| line.split_whitespace().last() == Some(kind));
        // The kernel loads a module by itself when the first mount asks for it.
        let (ok, detail) = match there || loadable(kind) {
            true if there => (true, "supported"),
            true => (true, "supported, as a module that is not loaded yet"),
            false => (false, "not in /proc/filesystems"),
        };
        findings.push(finding(&format!("{kind} file system"), ok, detail, &format!("load it: modprobe {kind}")));
    }
    findings.push(mount_calls());
    if let Err(error) = Means::detect() {
        findings.push(finding("cgroups", false, error.to_string(), "mount /proc"));
    }
    findings
}

/// Root in a container of somebody else's may lack what makes it root.
fn whom(uid: Uid) -> Finding {
    const SYS_ADMIN: u32 = 21;
    if !uid.is_root() {
        return finding("user", true, format!("uid {}: the driver works without root", uid.as_raw()), "");
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = held.and_then(|held| u64::from_str_radix(held.trim(), 16).ok());
    match held {
        Some(held) if held & (1 << SYS_ADMIN) == 0 => {
            let cure = "run the gateway outside of the container that it is in, or give it CAP_SYS_ADMIN there";
            finding("user", false, "uid 0 without CAP_SYS_ADMIN: it may not mount", cure)
        }
        _ => finding("user", true, "uid 0: the driver works as root", ""),
    }
}

/// Whether the running kernel has a file system as a module.
fn loadable(kind: &str) -> bool {
    let list = fs::read_to_string(Path::new("/lib/modules").join(release()).join("modules.dep")).unwrap_or_default();
    let module = format!("/{kind}.ko");
    list.lines().filter_map(|line| line.split(':').next()).any(|path| {
        // Compressed ones have one more suffix.
        path.split_once(&module).is_some_and(|(_, rest)| rest.is_empty() || rest.starts_with('.'))
    })
}

fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

fn user_namespaces(uid: Uid) -> Finding {
    let number =
        |name: &str| -> Option<u64> { fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?.trim().parse().ok() };
    let limit = number("user/max_user_namespaces").unwrap_or(0);
    if limit > 0 && !uid.is_root() {
        // Some distributions have switches of their own; elsewhere the files are not there.
        if number("kernel/unprivileged_userns_clone") == Some(0) {
            let cure = "allow them: sysctl -w kernel.unprivileged_userns_clone=1, or run the gateway as root";
            return finding("user namespace limit", false, "not for users other than root", cure);
        }
        let confined = fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
        // A profile of the program's own may allow them.
        if number("kernel/apparmor_restrict_unprivileged_userns") == Some(1) && confined.trim() == "unconfined" {
            let cure = "allow them: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or a profile with \"userns,\", \
                        or run the gateway as root";
            return finding("user namespace limit", false, "AppArmor leaves them to root and to named programs", cure);
        }
    }
    let cure = "allow them: sysctl -w user.max_user_namespaces=16384";
    finding("user namespace limit", limit > 0, format!("at most {limit}"), cure)
}

/// The mount calls with file descriptors came with Linux 5.2, their attributes with 5.12. A call with a descriptor that
/// is none tells whether the kernel has it.
fn mount_calls() -> Finding {
    let flags = rustix::mount::OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let known = !matches!(rustix::mount::open_tree(rustix::fs::CWD, "", flags), Err(Errno::NOSYS));
    let release = release();
    let mut numbers = release.split(['.', '-']).map(|part| part.trim().parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let ok = known && version >= (5, 14);
    finding("mount and cgroup calls", ok, format!("Linux {release}"), "run Linux 5.14 or newer")
}

/// Landlock came with Linux 5.13; all that the standard rules use with 6.12. The driver runs without, so that this is no
/// demand; a request that requires it is refused then.
fn landlock() -> Finding {
    let all = chiton_confine::enforceable(&chiton_confine::Landlock::standard());
    let detail = if all {
        "all path rules can be enforced"
    } else {
        "not all path rules can be enforced: run Linux 6.12 or newer with landlock in the boot option lsm="
    };
    finding("landlock", true, detail, "")
}

/// By which means each limit is enforced, and which ids sandboxes get. What an ordinary user cannot have is no fault of
/// the machine: sandboxes work without it, and a request for it is refused.
fn means() -> Vec<Finding> {
    // What stops it is among the essentials.
    let Ok(means) = Means::detect() else { return Vec::new() };
    let root = means.root();
    let mut findings: Vec<Finding> = Limit::ALL
        .into_iter()
        .map(|limit| {
            let way = means.way(limit);
            let what = format!("limit {}", limit.name());
            match &way {
                Way::Nothing { cure, .. } => {
                    let detail = format!("{way}; sandboxes with this limit are refused");
                    Finding { cure: cure.clone(), ..finding(&what, !root, detail, "") }
                }
                _ => finding(&what, true, way.to_string(), ""),
            }
        })
        .collect();
    if root {
        let unified = means.cgroups.iter().find(|mounted| mounted.unified);
        let detail = unified.map_or_else(|| "not mounted".to_owned(), |mounted| mounted.root.display().to_string());
        let cure = "mount it: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified";
        findings.push(finding("unified cgroup hierarchy", unified.is_some(), detail, cure));
    }
    findings.push(match &means.ids {
        Ids::Any => finding("ids of sandboxes", true, "a range of its own for each", ""),
        Ids::One { why, cure } => {
            let detail = format!("one id: a sandbox's root is uid {} on the host, because {why}", means.uid);
            Finding { cure: cure.clone(), ..finding("ids of sandboxes", true, detail, "") }
        }
        Ids::Ranges(ranges) => {
            let shared = match ranges.windows().len() {
                1 => "which all sandboxes share".to_owned(),
                windows => format!("enough for {windows} sandboxes to have their own"),
            };
            finding("ids of sandboxes", true, format!("{} granted to this user, {shared}", ranges.total()), "")
        }
    });
    findings
}

fn folder(what: &str, path: &Path) -> Finding {
    if !path.is_absolute() {
        return finding(what, false, format!("{} is not absolute", path.display()), "name an absolute path");
    }
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let writable = rustix::fs::access(existing, rustix::fs::Access::WRITE_OK).is_ok();
    let detail =
        format!("{} ({} {})", path.display(), existing.display(), if writable { "writable" } else { "not writable" });
    finding(what, writable, detail, "let the gateway's user write there, or choose another folder")
}

fn images(options: &OciOptions) -> Finding {
    let host = if options.host_image { "host" } else { "not host" };
    let folders = match &options.dir_roots {
        None => "dir: of any folder".to_owned(),
        Some(roots) if roots.is_empty() => "no dir:".to_owned(),
        Some(roots) => {
            let list: Vec<String> = roots.iter().map(|root| root.display().to_string()).collect();
            format!("dir: below {}", list.join(", "))
        }
    };
    let some = options.host_image || options.dir_roots.as_ref().is_none_or(|roots| !roots.is_empty());
    finding("images", some, format!("{host}; {folders}"), "allow the host image or a folder of images")
}
