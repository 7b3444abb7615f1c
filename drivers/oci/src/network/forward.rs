//! Whether other rules of the host forbid what sandboxes on a bridge need. An accept of this driver's tables does not
//! overrule a drop of somebody else's: every chain of the hook has to let a packet pass.

use std::io;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::nft;
use crate::program;

/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A chain that drops what is forwarded and that no rule of its table passes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Barrier {
    /// Family and name of the table, as `nft` takes them.
    pub(crate) table: (String, String),
    /// The chain.
    pub(crate) chain: String,
}

impl Barrier {
    /// What lets sandboxes pass. The name of the bridge stands for itself: it is known when the gateway has run.
    pub(crate) fn cure(&self) -> String {
        let Self { table: (family, table), chain } = self;
        format!(
            "let the bridge pass (ip -br link show type bridge names it: chXXXXXXXX): \
             nft insert rule {family} {table} {chain} iifname \"chXXXXXXXX\" accept; \
             nft insert rule {family} {table} {chain} oifname \"chXXXXXXXX\" ct state established,related accept"
        )
    }
}

/// Looks at the rules of this machine; needs root. Rules of `iptables-legacy` are not among them.
pub(crate) fn barrier() -> io::Result<Option<Barrier>> {
    for found in barriers(&list(&["list", "chains"])?) {
        let (family, table) = &found.table;
        if !names_a_bridge(&list(&["list", "table", family, table])?) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn list(words: &[&str]) -> io::Result<String> {
    let program =
        nft::find().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the program nft is not installed"))?;
    let mut command = Command::new(program);
    command.args(words).env_clear().current_dir("/").stdin(Stdio::null());
    let ended = program::run(&mut command, PATIENCE)?;
    if ended.status.success() { Ok(ended.output()) } else { Err(io::Error::other(ended.complaint())) }
}

/// The chains of the forward hook that drop what none of their rules accepts, in what `nft list chains` prints.
pub(super) fn barriers(text: &str) -> Vec<Barrier> {
    let (mut table, mut chain, mut found) = (None, "", Vec::new());
    for line in text.lines().map(str::trim) {
        match *line.split_whitespace().collect::<Vec<_>>() {
            ["table", family, name, "{"] => table = Some((family.to_owned(), name.to_owned())),
            ["chain", name, "{"] => chain = name,
            ["type", "filter", "hook", "forward", ..] if line.ends_with("policy drop;") => {
                // Other families see what goes through the machine in other ways.
                let routed = table.clone().filter(|(family, _)| matches!(family.as_str(), "ip" | "inet"));
                found.extend(routed.map(|table| Barrier { table, chain: chain.to_owned() }));
            }
            _ => {}
        }
    }
    found
}

/// Whether rules speak of a bridge of a gateway's, by its name or by what all of these begin with.
pub(super) fn names_a_bridge(text: &str) -> bool {
    text.split("ifname \"ch").skip(1).any(|rest| {
        let name = rest.split('"').next().unwrap_or_default();
        name == "*" || (name.len() == 8 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
    })
}
