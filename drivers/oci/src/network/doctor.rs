//! What the machine has for sandboxes with a network.

use super::{check, forward, nft};
use crate::options::NetworkOptions;

/// One thing that was looked at: what, whether it is there, what was found, what to do.
pub(crate) type Look = (&'static str, bool, String, String);

/// Looks at all of it. What is missing is a fault only where the operator has settings for the bridge: without it,
/// requests that ask for a bridge are refused, and all others are not concerned.
pub(crate) fn looks(options: &NetworkOptions) -> Vec<Look> {
    let wanted = *options != NetworkOptions { host: options.host, ..NetworkOptions::default() };
    let look = |what, there: bool, detail: String, cure: &str| {
        let note = if there || wanted { "" } else { "; requests for network bridge are refused" };
        (what, there || !wanted, format!("{detail}{note}"), str::to_owned(cure))
    };
    let program = nft::find();
    let found = program.as_ref().map_or_else(|| "not installed".to_owned(), |path| path.display().to_string());
    let bridges = ["/sys/module/bridge", "/proc/sys/net/bridge"].iter().any(|path| std::path::Path::new(path).exists());
    let loads = if bridges { "present" } else { "not loaded; it is loaded when it is needed" };
    let (forwards, enable) = (check::forwards(), options.enable_forwarding);
    let forward = match (forwards, enable) {
        (true, _) => "on",
        (false, true) => "off; the driver sets it for the first sandbox on the bridge",
        (false, false) => "off",
    };
    let host = if options.host { "allowed: such a sandbox reaches the host's local services" } else { "not allowed" };
    vec![
        look("bridge network: nft", program.is_some(), found, "install nftables"),
        ("bridge network: module", true, loads.to_owned(), String::new()),
        look(
            "bridge network: ip_forward",
            forwards || enable,
            forward.to_owned(),
            "run: sysctl -w net.ipv4.ip_forward=1, or set enable_forwarding = true in the bridge settings",
        ),
        passage(wanted),
        ("host network", true, host.to_owned(), String::new()),
    ]
}

/// Whether other rules let sandboxes out: Docker and many firewalls drop what is forwarded and is not their own.
fn passage(wanted: bool) -> Look {
    let what = "bridge network: other rules";
    if nft::find().is_none() || !rustix::process::geteuid().is_root() {
        return (what, true, "not looked at, which takes root and nft".to_owned(), String::new());
    }
    match forward::barrier() {
        Ok(None) => (what, true, "none drops all that is forwarded".to_owned(), String::new()),
        Ok(Some(barrier)) => {
            let (family, table) = &barrier.table;
            let chain = &barrier.chain;
            let detail = format!(
                "chain {chain} of table {family} {table} drops what is forwarded: sandboxes on a bridge reach nothing"
            );
            (what, !wanted, detail, barrier.cure())
        }
        // Not being able to look is no fault of the rules.
        Err(error) => (what, true, format!("cannot be listed: {error}"), String::new()),
    }
}
