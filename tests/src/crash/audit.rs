//! The look at the world: everything on the machine is owned by a sandbox, and every sandbox has what it needs.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use chiton_client::Client;
use chiton_proto::agent::v1 as agent;
use chiton_proto::v1 as wire;
use futures::StreamExt as _;

use super::load::by_id;
use super::platform::{Found, Life, Platform, entries};
use super::process::{DEADLINE, Process, may_run, rows, settled, stop_is_owed, waits_for_late};
use super::{EFFECTS, LEASES, NETNS, leftovers};

/// What the audit asks the gateway for, and what the machine shows.
struct View {
    rows: Vec<wire::Sandbox>,
    obligations: Vec<wire::Obligation>,
    /// What the driver made.
    found: Vec<Found>,
    /// What extensions hold.
    held: Vec<Found>,
}

/// Whether sandboxes in this phase have processes.
fn runs(row: &wire::Sandbox) -> bool {
    row.phase == "Ready"
}

/// Whether sandboxes in this phase have anything at all.
fn there(row: &wire::Sandbox) -> bool {
    matches!(row.phase.as_str(), "Ready" | "Stopped" | "Completed") || (waits_for_late(row) && row.phase == "Starting")
}

/// A sandbox that is being undone, of which nothing may be there but what its extensions hold for it.
pub(super) fn tombstone(row: &wire::Sandbox) -> bool {
    waits_for_late(row) && !there(row)
}

/// Addresses that a sandbox was made with and that are not leased to it: somebody else may be given them.
pub(super) fn unleased(folder: &Path, found: &[Found]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (found, (address, id)) in found.iter().filter_map(|found| Some((found, found.address.as_ref()?))) {
        let holder = fs::read_to_string(folder.join(LEASES).join(address)).unwrap_or_default();
        if holder != *id {
            wrong.push(format!("{} has {address}, which is leased to {holder:?}", found.what));
        }
    }
    wrong
}

/// What the extensions hold.
fn held(folder: &Path) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    for entry in entries(&folder.join(LEASES)) {
        let holder = fs::read_to_string(&entry.what).unwrap_or_default();
        found.push(Found::new(Life::There, format!("{} of {holder}", entry.what)));
    }
    found.extend(entries(&folder.join(NETNS)));
    let mounts = leftovers::mounts(folder).into_iter();
    found.extend(mounts.map(|mount| Found::new(Life::There, format!("mount {mount}"))));
    for effect in entries(&folder.join(EFFECTS)) {
        let of_start = [".before_start", ".after_ready"].iter().any(|phase| effect.what.ends_with(phase));
        found.push(Found { life: if of_start { Life::Running } else { Life::There }, ..effect });
    }
    found
}

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// How many obligations are open.
    pub(super) obligations: usize,
    /// Sandboxes that wait until nothing of them can land late.
    pub(super) tombstones: Vec<String>,
    /// What is wrong.
    pub(super) wrong: Vec<String>,
}

/// One look.
async fn look(
    platform: &dyn Platform,
    process: &Process,
    client: &mut Client,
    gateway_id: &str,
    folder: &Path,
) -> Result<Seen, String> {
    let mut rows = settled(client).await?;
    let obligations = client.list_obligations(wire::ListObligationsRequest::default()).await;
    let obligations = obligations.map_err(|status| format!("the obligations: {status}"))?.into_inner().obligations;
    let found = platform.look(gateway_id, folder, process.pid()).await?;
    let held = held(folder);
    let without = unleased(folder, &found);
    let again = self::rows(client).await.map_err(|status| format!("a list: {status}"))?;
    let changed = |rows: &[wire::Sandbox]| -> Vec<(String, String, String)> {
        rows.iter().map(|row| (row.id.clone(), row.phase.clone(), row.operation.clone())).collect()
    };
    if changed(&rows) != changed(&again) {
        return Ok(Seen { wrong: vec!["the gateway is still busy".to_owned()], ..Seen::default() });
    }
    rows = again;
    let view = View { rows, obligations, found, held };
    let mut wrong = view.strangers();
    wrong.extend(without);
    wrong.extend(view.lacking(folder));
    let orphans = client.list_orphans(wire::ListOrphansRequest::default()).await;
    let orphans = orphans.map_err(|status| format!("the orphans: {status}"))?.into_inner().orphans;
    wrong.extend(orphans.iter().map(|orphan| format!("orphan {} ({}, {})", orphan.id, orphan.status, orphan.verdict)));
    if platform.exec() {
        for row in view.rows.iter().filter(|row| runs(row)) {
            if let Err(why) = answers(client.clone(), &row.id).await {
                wrong.push(format!("sandbox {} is Ready and runs no command: {why}", row.id));
            }
        }
    }
    let tombstones = view.rows.iter().filter(|row| waits_for_late(row)).map(|row| row.id.clone()).collect();
    Ok(Seen { obligations: view.obligations.len(), tombstones, wrong })
}

impl View {
    /// Things that nobody owns.
    fn strangers(&self) -> Vec<String> {
        let owned = |found: &Found, held: bool| {
            let owner = self.rows.iter().find(|row| found.what.contains(&row.id));
            // Nothing that a tombstone's extensions hold is released before nothing can land any more.
            let by_tombstone = held && owner.is_some_and(waits_for_late);
            let by_row = by_tombstone
                || match found.life {
                    Life::Running => owner.is_some_and(|row| runs(row) || may_run(row) || stop_is_owed(row)),
                    Life::There => owner.is_some_and(there),
                    Life::Common => self.rows.iter().any(there),
                    Life::Kept => true,
                };
            // A debt that is listed is known; its effect is not a leak.
            let by_debt = || self.obligations.iter().any(|debt| found.what.contains(debt.subject.as_str()));
            // What a workspace was given stays until the workspace goes.
            by_row || by_debt() || found.what.ends_with(".ensure_workspace")
        };
        let found = self.found.iter().filter(|found| !owned(found, false));
        let all = found.chain(self.held.iter().filter(|held| !owned(held, true)));
        all.map(|found| format!("nobody owns {}", found.what)).collect()
    }

    /// What sandboxes lack.
    fn lacking(&self, folder: &Path) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut names: BTreeMap<(&str, &str), u32> = BTreeMap::new();
        for row in &self.rows {
            let mut wanted: Vec<String> = Vec::new();
            if tombstone(row) {
                // What its create may have made has it.
                wanted.push(format!(" of {}", row.id));
            }
            if there(row) {
                wanted.push(format!(" of {}", row.id));
                wanted.push(format!("{}/{}", folder.join(NETNS).display(), row.id));
                wanted.extend(["before_create", "after_create"].map(|phase| format!("{}.{phase}", row.id)));
            }
            if runs(row) {
                wanted.extend(["before_start", "after_ready"].map(|phase| format!("{}.{phase}", row.id)));
            }
            for wanted in wanted {
                let count = self.held.iter().filter(|found| found.what.ends_with(&wanted)).count();
                if count != 1 {
                    wrong.push(format!("sandbox {} is {} and has {count} × {wanted:?}", row.id, row.phase));
                }
            }
            if !there(row) && !tombstone(row) && !matches!(row.phase.as_str(), "Error" | "Deleted") {
                wrong.push(format!("sandbox {} is {} and nothing runs", row.id, row.phase));
            }
            if there(row) {
                *names.entry((&row.workspace, &row.name)).or_default() += 1;
            }
        }
        wrong.extend(names.iter().filter(|(_, count)| **count > 1).map(|(name, count)| format!("{count} × {name:?}")));
        wrong
    }
}

/// Runs a command in a sandbox.
async fn answers(client: Client, id: &str) -> Result<(), String> {
    let code = exec(client, id, &["echo", "here"]).await.map_err(|status| status.to_string())?;
    if code == 0 { Ok(()) } else { Err(format!("code {code}")) }
}

/// Runs a command to its end; its exit code.
///
/// # Errors
/// The gateway or the agent refused, or went away.
pub(super) async fn exec(mut client: Client, id: &str, argv: &[&str]) -> Result<i32, tonic::Status> {
    use agent::exec_input::Input;
    use wire::exec_sandbox_request::Input as Outer;
    let select = by_id(id);
    let argv = argv.iter().map(|word| (*word).to_owned()).collect();
    let start = agent::ExecStart { argv, timeout_ms: 10_000, ..Default::default() };
    let messages = [
        Outer::Sandbox(select),
        Outer::Exec(agent::ExecInput { input: Some(Input::Start(start)) }),
        Outer::Exec(agent::ExecInput { input: Some(Input::StdinEnd(true)) }),
    ];
    let messages = messages.map(|input| wire::ExecSandboxRequest { input: Some(input) });
    // A stream that ended would mean that the client went away.
    let inputs = futures::stream::iter(messages).chain(futures::stream::pending());
    let run = async {
        let mut outputs = client.exec_sandbox(inputs).await?.into_inner();
        while let Some(output) = outputs.message().await? {
            if let Some(agent::exec_output::Output::Exit(exit)) = output.output {
                return Ok(exit.code);
            }
        }
        Err(tonic::Status::unavailable("the command's output ended before it did"))
    };
    tokio::time::timeout(DEADLINE, run).await.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no end of it")))
}

/// How long the world gets to become right: exits are noticed and orphans swept by and by.
const PATIENCE: std::time::Duration = std::time::Duration::from_mins(1);

/// Looks until nothing is wrong or patience ends.
///
/// # Errors
/// The gateway does not answer, or an operation does not end.
pub(super) async fn audit(
    platform: &dyn Platform,
    process: &Process,
    gateway_id: &str,
    folder: &Path,
) -> Result<Seen, String> {
    let begun = std::time::Instant::now();
    let mut client = process.client().await?;
    loop {
        let seen = look(platform, process, &mut client, gateway_id, folder).await?;
        if seen.wrong.is_empty() || begun.elapsed() > PATIENCE {
            return Ok(seen);
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
