//! What the driver needs of the machine, each need looked at by itself.

use std::fs;
use std::path::Path;

use chiton_model::Error;
use chiton_oci_monitor::cgroup;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

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
    /// What to do about it; empty when nothing.
    pub cure: String,
}

/// The driver's one demand on who runs it.
pub(crate) fn require_root() -> Result<(), Error> {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return Ok(());
    }
    let text = format!("the oci driver must run as root and this process runs as uid {}", uid.as_raw());
    Err(Error::unavailable("oci driver", text).cure(ROOT_CURE))
}

const ROOT_CURE: &str = "start the gateway as root, for example with sudo or as a system service";

fn finding(what: &str, ok: bool, detail: impl Into<String>, cure: &str) -> Finding {
    let cure = if ok { String::new() } else { cure.to_owned() };
    Finding { what: what.to_owned(), ok, detail: detail.into(), cure }
}

/// Looks at everything. Makes nothing but the folders' absence visible; may be called by any user.
pub fn doctor(options: &OciOptions) -> Vec<Finding> {
    let uid = rustix::process::geteuid();
    let mut findings =
        vec![finding("root", uid.is_root(), format!("this process runs as uid {}", uid.as_raw()), ROOT_CURE)];
    findings.push(user_namespaces());
    for namespace in ["user", "mnt", "pid", "net", "uts", "ipc", "cgroup"] {
        let there = Path::new("/proc/self/ns").join(namespace).exists();
        let detail = if there { "supported" } else { "not supported by this kernel" };
        let cure = "run a kernel built with all namespaces";
        findings.push(finding(&format!("{namespace} namespaces"), there, detail, cure));
    }
    let systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    for kind in ["overlay", "tmpfs"] {
        let there = systems.lines().any(|line| line.split_whitespace().last() == Some(kind));
        let detail = if there { "supported" } else { "not in /proc/filesystems" };
        findings.push(finding(&format!("{kind} file system"), there, detail, &format!("load it: modprobe {kind}")));
    }
    findings.push(mount_calls());
    findings.extend(controllers());
    findings.push(folder("state folder", &options.state_dir));
    findings.push(folder("run folder", &options.run_dir));
    findings.push(images(options));
    let network = crate::network::doctor::looks(&options.network);
    findings.extend(network.into_iter().map(|(what, ok, detail, cure)| finding(what, ok, detail, cure)));
    findings
}

fn user_namespaces() -> Finding {
    let limit = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    let limit = limit.trim().parse::<u64>().unwrap_or(0);
    let cure = "allow them: sysctl -w user.max_user_namespaces=16384";
    finding("user namespace limit", limit > 0, format!("at most {limit}"), cure)
}

/// The mount calls with file descriptors came with Linux 5.2, their attributes with 5.12. A call with a descriptor that
/// is none tells whether the kernel has it.
fn mount_calls() -> Finding {
    let flags = rustix::mount::OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let known = !matches!(rustix::mount::open_tree(rustix::fs::CWD, "", flags), Err(Errno::NOSYS));
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(|part| part.trim().parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let ok = known && version >= (5, 14);
    finding("mount and cgroup calls", ok, format!("Linux {}", release.trim()), "run Linux 5.14 or newer")
}

fn controllers() -> Vec<Finding> {
    let mounted = match cgroup::detect() {
        Ok(mounted) => mounted,
        Err(error) => return vec![finding("cgroups", false, error.to_string(), "mount /proc")],
    };
    let mut findings: Vec<Finding> = cgroup::CONTROLLERS
        .iter()
        .map(|name| {
            let place = mounted.iter().find(|mounted| mounted.controllers.iter().any(|known| known == name));
            let detail = place.map_or_else(
                || "in no mounted hierarchy; sandboxes with this limit are refused".to_owned(),
                |mounted| {
                    let version = if mounted.unified { 2 } else { 1 };
                    format!("version {version} at {}", mounted.root.display())
                },
            );
            finding(
                &format!("cgroup controller {name}"),
                place.is_some(),
                detail,
                &format!("boot with the {name} controller and mount /sys/fs/cgroup"),
            )
        })
        .collect();
    let unified = mounted.iter().find(|mounted| mounted.unified);
    let detail = unified.map_or_else(|| "not mounted".to_owned(), |mounted| mounted.root.display().to_string());
    let cure = "mount it: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified";
    findings.push(finding("unified cgroup hierarchy", unified.is_some(), detail, cure));
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
