//! What is asked of this machine for defaults.

use std::path::PathBuf;

use chiton_model::MemoryQuantity;

/// Half of the machine's memory, so that no single sandbox can take all of it; none where the kernel does not say.
pub(super) fn half_of_memory() -> Option<MemoryQuantity> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total: u64 =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.split_whitespace().next()?.parse().ok()?;
    format!("{}Mi", total / 2 / 1024).parse().ok()
}

/// Where a gateway of this user that is told nothing keeps its things: what lasts, and what a reboot may end.
pub(super) fn folders() -> (PathBuf, PathBuf) {
    if rustix::process::geteuid().is_root() {
        return (PathBuf::from("/var/lib/chiton"), PathBuf::from("/run/chiton"));
    }
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let data = folder("XDG_DATA_HOME").or_else(|| Some(folder("HOME")?.join(".local/share")));
    let socket = chiton_client::default_socket();
    let run = socket.and_then(|socket| Some(socket.parent()?.to_path_buf()));
    (data.unwrap_or_default().join("chiton"), run.unwrap_or_default())
}
