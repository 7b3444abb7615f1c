//! What engines leave in the packet filter. Neither takes its chains away when it ends.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use super::layout::{Engine, Layout};
use super::state::State;
use super::{processes, sweep};

/// Both families; where the filter is nftables, each has tables of its own there.
const FAMILIES: [(&str, &str); 2] = [("iptables", "ip"), ("ip6tables", "ip6")];

/// One line of `iptables-save` and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) command: &'static str,
    pub(crate) table: String,
    pub(crate) text: String,
}

impl Line {
    fn key(&self) -> String {
        format!("{} {} {}", self.command, self.table, self.text)
    }

    /// The chain that this declares, with its policy ("-" but for those of the kernel).
    fn chain(&self) -> Option<(&str, &str)> {
        self.text.strip_prefix(':')?.split_once(' ')
    }
}

/// Everything that is in the filter now. Counters are left out: they change.
fn saved() -> Vec<Line> {
    let of = |(command, _): (&'static str, &str)| {
        let output = Command::new(format!("{command}-save")).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        parse(command, &text)
    };
    FAMILIES.into_iter().flat_map(of).collect()
}

pub(crate) fn parse(command: &'static str, text: &str) -> Vec<Line> {
    let mut table = String::new();
    let mut lines = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
        } else if line.starts_with(':') || line.starts_with("-A ") {
            let text = if line.starts_with(':') { line.split(" [").next().unwrap_or(line) } else { line };
            lines.push(Line { command, table: table.clone(), text: text.to_owned() });
        }
    }
    lines
}

/// The same, to be compared with later.
pub(crate) fn rules() -> BTreeSet<String> {
    saved().iter().map(Line::key).collect()
}

/// Tables of nftables.
pub(crate) fn tables() -> BTreeSet<String> {
    let output = Command::new("nft").args(["list", "tables"]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix("table ")).map(ToOwned::to_owned).collect()
}

/// Takes away what the set's engines added and no other engine uses.
pub(crate) fn clean(layout: &Layout, state: &State) -> Result<(), String> {
    let gone = Gone {
        docker: !processes::another_dockerd(layout),
        podman: !processes::another_podman(layout),
        ours: sweep::interfaces(state)
            .into_iter()
            .chain([layout.bridge(Engine::Docker), layout.bridge(Engine::Podman)])
            .collect(),
        network: format!("10.{}.", state.network),
    };
    let lines: Vec<Line> = saved().into_iter().filter(|line| !state.rules.contains(&line.key())).collect();
    for (command, family) in FAMILIES {
        let lines: Vec<&Line> = lines.iter().filter(|line| line.command == command).collect();
        let orders = gone.orders(&lines);
        if !orders.is_empty() {
            restore(command, &orders)?;
        }
        for table in tables().difference(&state.tables) {
            if let Some(name) = table.strip_prefix(&format!("{family} "))
                && is_empty(&saved(), command, name)
            {
                drop(Command::new("nft").args(["delete", "table", family, name]).output());
            }
        }
    }
    Ok(())
}

/// Whether a table is as the program makes it to have one.
fn is_empty(lines: &[Line], command: &str, table: &str) -> bool {
    let mut lines = lines.iter().filter(|line| line.command == command && line.table == table).peekable();
    lines.peek().is_some() && lines.all(|line| line.chain().is_some_and(|(_, policy)| policy == "ACCEPT"))
}

/// What is no more used, and by what it is known.
pub(crate) struct Gone {
    pub(crate) docker: bool,
    pub(crate) podman: bool,
    /// Interfaces of the set.
    pub(crate) ours: Vec<String>,
    /// How its addresses begin.
    pub(crate) network: String,
}

impl Gone {
    fn chain(&self, name: &str) -> bool {
        (self.docker && name.starts_with("DOCKER")) || (self.podman && name.starts_with("NETAVARK"))
    }

    fn rule(&self, text: &str) -> bool {
        let words: Vec<&str> = text.split(' ').collect();
        words.iter().any(|word| word.starts_with(&self.network))
            || words.windows(2).any(|pair| match *pair {
                ["-j" | "-g", target] => self.chain(target),
                ["-i" | "-o", name] => {
                    self.ours.iter().any(|ours| ours == name) || (self.docker && name.starts_with("br-"))
                }
                _ => false,
            })
    }

    /// Input of `iptables-restore --noflush` that takes away what is not used of lines that were not there before.
    pub(crate) fn orders(&self, lines: &[&Line]) -> String {
        let tables: BTreeSet<&str> = lines.iter().map(|line| line.table.as_str()).collect();
        let mut orders = String::new();
        for table in tables {
            let lines = || lines.iter().filter(|line| line.table == table);
            let chains: Vec<&str> = lines()
                .filter_map(|line| line.chain())
                .filter(|(name, policy)| *policy == "-" && self.chain(name))
                .map(|(name, _)| name)
                .collect();
            let mut part = String::new();
            for line in lines() {
                if let Some(rule) = line.text.strip_prefix("-A ") {
                    let within = rule.split(' ').next().is_some_and(|chain| chains.contains(&chain));
                    if !within && self.rule(rule) {
                        part.extend(["-D ", rule, "\n"]);
                    }
                } else if self.docker && line.text == ":FORWARD DROP" {
                    // Docker sets this when it begins to forward packets.
                    part += "-P FORWARD ACCEPT\n";
                }
            }
            // One chain may lead to another, which is then not to be removed before the first is empty.
            for order in ["-F", "-X"] {
                for chain in &chains {
                    part.extend([order, " ", chain, "\n"]);
                }
            }
            if !part.is_empty() {
                orders.extend(["*", table, "\n", &part, "COMMIT\n"]);
            }
        }
        orders
    }
}

fn restore(command: &str, orders: &str) -> Result<(), String> {
    let program = format!("{command}-restore");
    let run = || {
        let mut child = Command::new(&program)
            .arg("--noflush")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(orders.as_bytes())?;
        }
        child.wait_with_output()
    };
    let output = run().map_err(|error| format!("{program} cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}\nof\n{orders}", String::from_utf8_lossy(&output.stderr).trim()))
}
