//! Kills, restarts, and the end of it all.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use chiton_client::Client;
use chiton_proto::v1 as wire;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::audit::{audit, unleased};
use super::load::{Caller, Load, a_moment, by_id};
use super::platform::{Platform, platform};
use super::process::{Process, rows, settled, waits_for_late};
use super::report::{Kills, Report, Times};
use super::{Options, config, leftovers};

/// How long after the usual time to serve a kill still meets what the last one interrupted.
const RECOVERS: Duration = Duration::from_millis(60);
/// Debts are made in the last part of each so many kills, and paid at its end: the pause between attempts to pay grows
/// with the debt's age.
const SEASON: u64 = 100;
const DEBTS: u64 = 20;
/// How long debts may take to be paid once nothing hinders them: longer than the longest pause between attempts, which
/// debts of as many lives come to where lives are long.
const PAYS: Duration = Duration::from_mins(7);
/// How long helper processes may take to be gone when everything is deleted.
const ENDS: Duration = Duration::from_secs(20);
/// How long an engine is left dead at most.
const DEAD: Duration = Duration::from_secs(2);
/// A run waits for so long in any case until nothing that was interrupted can still land on an engine.
const SOON: Duration = Duration::from_secs(30);

/// Runs a whole crash run: kills, audits, the deletion of everything, and the last look.
///
/// # Errors
/// The run itself could not be done. What it found to be wrong is in the report.
pub fn run(options: &Options) -> Result<Report, String> {
    let platform = platform(&options.driver, options.engine_kills > 0)?;
    platform.usable()?;
    let folder = tempfile::Builder::new().prefix("chiton-crash-").tempdir().map_err(|error| error.to_string())?;
    fs::write(folder.path().join("chiton.toml"), config(folder.path(), &*platform, options.late))
        .map_err(|error| format!("the config cannot be written: {error}"))?;
    let runtime = Runtime::new().map_err(|error| error.to_string())?;
    let begun = Instant::now();
    let mut run = Run {
        options,
        platform: &*platform,
        process: Process::new(&options.program, folder.path()),
        folder: folder.path(),
        gateway_id: String::new(),
        random: StdRng::seed_from_u64(options.seed),
        load: Load::default(),
        kills: Kills::default(),
        starts: 0,
        serving: Vec::new(),
        settling: Vec::new(),
        audits: 0,
        most_obligations: 0,
        most_tombstones: 0,
        engine: None,
        leaks: Vec::new(),
    };
    run.kills.engine = platform.control().map(|_| 0);
    let done = runtime.block_on(run.whole());
    if let Err(why) = done {
        run.leaks.push(format!("{why}\nthe gateway said last:\n{}", run.process.said()));
    }
    let failed = !run.leaks.is_empty();
    if failed {
        let processes = leftovers::describe(&run.gateway_id, folder.path());
        drop(fs::write(folder.path().join("processes.txt"), processes));
        // Whatever happens now is not of the run any more.
        drop(runtime.block_on(run.process.kill()));
        drop(runtime.block_on(run.engine_runs()));
        runtime.block_on(run.platform.sweep(&run.gateway_id, folder.path()));
        leftovers::sweep(&run.gateway_id, folder.path());
    }
    let report = run.report(begun.elapsed());
    drop(run);
    if failed {
        let kept = folder.keep();
        eprintln!("the gateway's folder is kept for a look: {}", kept.display());
    }
    Ok(report)
}

struct Run<'a> {
    options: &'a Options,
    platform: &'a dyn Platform,
    process: Process,
    folder: &'a Path,
    gateway_id: String,
    random: StdRng,
    load: Load,
    kills: Kills,
    starts: u64,
    serving: Vec<Duration>,
    settling: Vec<Duration>,
    audits: u64,
    most_obligations: usize,
    most_tombstones: usize,
    /// An engine that was killed, on its way back.
    engine: Option<JoinHandle<Result<(), String>>>,
    leaks: Vec<String>,
}

impl Run<'_> {
    async fn whole(&mut self) -> Result<(), String> {
        self.begin()?;
        self.serve().await?;
        let mut client = self.process.client().await?;
        let info = client.get_info(wire::GetInfoRequest {}).await.map_err(|status| format!("facts: {status}"))?;
        self.gateway_id = info.into_inner().gateway_id;
        let mut recovers = 0;
        for kill in 0..self.options.kills {
            // A killed gateway is sometimes killed again before it is back, and again.
            if kill > 0 && self.random.random_ratio(3, 10) {
                self.kill_recovering(recovers).await?;
                recovers += 1;
            } else {
                self.round(kill).await?;
                recovers = 0;
            }
            if !self.leaks.is_empty() {
                return Ok(());
            }
            self.begin()?;
        }
        self.finish().await
    }

    fn begin(&mut self) -> Result<(), String> {
        self.starts += 1;
        self.process.begin().map_err(|error| format!("{:?} cannot be started: {error}", self.options.program))
    }

    async fn serve(&mut self) -> Result<(), String> {
        let took = self.process.served().await.map_err(|said| format!("the gateway did not serve:\n{said}"))?;
        self.serving.push(took);
        Ok(())
    }

    async fn kill(&mut self) -> Result<(), String> {
        self.load.set_dying(true);
        self.kills.gateway += 1;
        self.process.kill().await.map_err(|error| format!("the gateway cannot be killed: {error}"))?;
        self.leased().await
    }

    /// Whoever has an address has its lease, also now: nobody is there who could give it back later.
    async fn leased(&mut self) -> Result<(), String> {
        if self.platform.remote() && self.engine.is_none() && !self.gateway_id.is_empty() {
            let found = self.platform.look(&self.gateway_id, self.folder, None).await?;
            let wrong = unleased(self.folder, &found).into_iter();
            let kill = self.kills.gateway;
            self.leaks.extend(wrong.map(|what| format!("just after kill {kill}: {what}")));
        }
        Ok(())
    }

    /// Waits until an engine that was killed is back.
    async fn engine_runs(&mut self) -> Result<(), String> {
        match self.engine.take() {
            Some(start) => start.await.map_err(|error| format!("the engine's start: {error}"))?,
            None => Ok(()),
        }
    }

    /// Kills a gateway that takes up what the last kill interrupted; nothing else is asked of it.
    async fn kill_recovering(&mut self, before: u64) -> Result<(), String> {
        let usual = self.serving.iter().max().copied().unwrap_or(RECOVERS);
        let mut random = StdRng::seed_from_u64(self.random.random());
        a_moment(&mut random, usual + RECOVERS).await;
        self.kills.recovering += 1;
        self.kills.recovering_again += u64::from(before > 0);
        self.kill().await
    }

    /// One life of the gateway: sometimes a look, much asked at once, perhaps a helper killed, then the gateway.
    async fn round(&mut self, kill: u64) -> Result<(), String> {
        self.serve().await?;
        let ratio = u32::try_from(self.options.engine_kills).unwrap_or(u32::MAX);
        let kills_engine = ratio > 0 && self.random.random_ratio(1, ratio);
        let audits = kill > 0 && kill.is_multiple_of(self.options.audit_every);
        if audits || kills_engine {
            self.engine_runs().await?;
        }
        if audits {
            self.audit(kill).await?;
            if !self.leaks.is_empty() {
                return Ok(());
            }
        }
        let season = kill % SEASON;
        let last = self.options.kills.saturating_sub(DEBTS).min(SEASON - DEBTS);
        self.load.set_debts(season >= last);
        self.load.set_dying(false);
        let mut client = Vec::new();
        for _ in 0..self.platform.clients() {
            client.push(self.process.client().await?);
        }
        let cut = std::mem::take(&mut self.load.tally().cut);
        let seeds: Vec<u64> = client.iter().map(|_| self.random.random()).collect();
        let mut choices = StdRng::seed_from_u64(self.random.random());
        let (platform, load) = (self.platform, &self.load);
        let callers = client.into_iter().zip(seeds).enumerate().map(|(index, (client, seed))| {
            let mut caller = Caller::new(load, platform, client, seed);
            let creates = if index == 0 { cut.clone() } else { Vec::new() };
            async move {
                caller.repeat(creates).await;
                caller.run().await;
            }
        });
        let callers = futures::future::join_all(callers);
        let (process, kills) = (&mut self.process, &mut self.kills);
        let (folder, gateway_id) = (self.folder, self.gateway_id.as_str());
        // On a slower machine longer by as much as it takes to serve, so that sandboxes get to run.
        let serves = platform.serves() + self.serving.last().copied().unwrap_or_default();
        let control = platform.control().filter(|_| kills_engine).cloned();
        let killer = async {
            if choices.random_ratio(1, 3) {
                a_moment(&mut choices, serves / 2).await;
                if let Some(kind) = platform.harm(gateway_id, folder, &mut choices).await {
                    *kills.helpers.entry(kind.to_owned()).or_default() += 1;
                }
            }
            if let Some(control) = &control {
                a_moment(&mut choices, serves / 2).await;
                let killed = u64::from(control.kill());
                kills.engine = kills.engine.map(|count| count + killed);
            }
            a_moment(&mut choices, serves).await;
            load.set_dying(true);
            process.kill().await
        };
        // The clients end because the gateway does.
        let (_, death) = tokio::join!(callers, killer);
        death.map_err(|error| format!("the gateway cannot be killed: {error}"))?;
        self.kills.gateway += 1;
        self.kills.serving += 1;
        if let Some(control) = control {
            // It comes back before the gateway does, while that recovers, or after.
            self.engine = Some(tokio::spawn(async move {
                a_moment(&mut choices, DEAD).await;
                control.start().await
            }));
        }
        self.leased().await?;
        if self.options.verbose {
            eprintln!("kill {}: {} audits, {} leaks", kill + 1, self.audits, self.leaks.len());
        }
        if season + 1 == SEASON {
            self.pay().await?;
        }
        Ok(())
    }

    /// Looks at the world, with nothing asked meanwhile.
    async fn audit(&mut self, kill: u64) -> Result<(), String> {
        let mut client = self.process.client().await?;
        settled(&mut client).await?;
        self.settling.push(self.process.begun().elapsed());
        let seen = audit(self.platform, &self.process, &self.gateway_id, self.folder).await?;
        self.audits += 1;
        self.most_obligations = self.most_obligations.max(seen.obligations);
        self.most_tombstones = self.most_tombstones.max(seen.tombstones.len());
        self.leaks.extend(seen.wrong.into_iter().map(|what| format!("after {kill} kills: {what}")));
        self.leaks.append(&mut self.load.tally().wrong);
        self.leaks.extend(self.process.heard(|heard| heard.panics.clone()));
        Ok(())
    }

    /// One life of the gateway in which every debt is paid.
    async fn pay(&mut self) -> Result<(), String> {
        let cured = self.folder.join("cured");
        fs::write(&cured, "").map_err(|error| format!("{cured:?}: {error}"))?;
        self.begin()?;
        self.engine_runs().await?;
        self.serve().await?;
        self.paid().await?;
        self.kill().await?;
        self.kills.gateway -= 1;
        fs::remove_file(&cured).map_err(|error| format!("{cured:?}: {error}"))
    }

    async fn paid(&mut self) -> Result<(), String> {
        let mut client = self.process.client().await?;
        let begun = Instant::now();
        loop {
            let owed = client.list_obligations(wire::ListObligationsRequest::default()).await;
            let owed = owed.map_err(|status| format!("the obligations: {status}"))?.into_inner().obligations;
            if owed.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > PAYS {
                let owed: Vec<String> = owed
                    .iter()
                    .map(|owed| format!("{} of {}: {}", owed.phase, owed.subject, owed.last_error))
                    .collect();
                return Err(format!(
                    "debts are not paid within {PAYS:?} after their cause is gone:\n{}",
                    owed.join("\n")
                ));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The last start: everything is right, then everything is deleted, then nothing is left.
    async fn finish(&mut self) -> Result<(), String> {
        let cured = self.folder.join("cured");
        fs::write(&cured, "").map_err(|error| format!("{cured:?}: {error}"))?;
        self.engine_runs().await?;
        self.serve().await?;
        self.audit(self.options.kills).await?;
        if !self.leaks.is_empty() {
            return Ok(());
        }
        self.paid().await?;
        let mut client = self.process.client().await?;
        self.delete_all(&mut client).await?;
        if self.platform.remote() {
            delete_volumes(&mut client).await?;
        }
        let rest = rows(&mut client).await.map_err(|status| format!("a list: {status}"))?;
        let spaces = client.list_workspaces(wire::ListWorkspacesRequest {}).await;
        let spaces = spaces.map_err(|status| format!("the workspaces: {status}"))?.into_inner().workspaces;
        // One with a sandbox of which something may still land cannot go.
        for space in spaces.into_iter().filter(|space| !rest.iter().any(|row| row.workspace == space.name)) {
            let gone = client.delete_workspace(wire::DeleteWorkspaceRequest { name: space.name.clone() }).await;
            gone.map_err(|status| format!("workspace {} cannot be deleted: {status}", space.name))?;
        }
        let seen = audit(self.platform, &self.process, &self.gateway_id, self.folder).await?;
        self.leaks.extend(seen.wrong.into_iter().map(|what| format!("after everything was deleted: {what}")));
        self.process.terminate().await?;
        // Monitors end a moment after their last word. Who does not is found by the look.
        drop(leftovers::until_ended(&self.gateway_id, self.folder, ENDS));
        let rests = |what: &String| {
            // What is held for those that may still land was looked at just now.
            let space = |row: &wire::Sandbox| what.ends_with(&format!("/{}.ensure_workspace", row.workspace));
            let holder = fs::read_to_string(what).unwrap_or_default();
            seen.tombstones.iter().any(|id| what.contains(id) || holder == *id) || rest.iter().any(space)
        };
        let left = leftovers::look(&self.gateway_id, self.folder).into_iter().filter(|what| !rests(what));
        self.leaks.extend(left.map(|what| format!("after everything was deleted there is {what}")));
        let objects = self.platform.look(&self.gateway_id, self.folder, None).await?;
        self.leaks
            .extend(objects.into_iter().map(|found| format!("after everything was deleted there is {}", found.what)));
        Ok(())
    }

    async fn delete_all(&self, client: &mut Client) -> Result<(), String> {
        let begun = Instant::now();
        let patience = PAYS + self.options.late;
        let waits = self.options.wait_late || self.options.late <= SOON;
        // What was interrupted on an engine and may still land is deleted when it cannot any more.
        let late = |row: &wire::Sandbox| !waits && waits_for_late(row) && row.phase != "Starting";
        loop {
            let mut rows = rows(client).await.map_err(|status| format!("a list: {status}"))?;
            rows.retain(|row| !late(row));
            if rows.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > patience {
                let rows: Vec<String> = rows.iter().map(|row| format!("{} is {}", row.id, row.phase)).collect();
                return Err(format!("sandboxes cannot be deleted: {}", rows.join(", ")));
            }
            for row in rows.iter().filter(|row| row.phase != "Deleted" && row.phase != "Deleting") {
                let sandbox = Some(by_id(&row.id));
                let request = wire::DeleteSandboxRequest { sandbox, ..Default::default() };
                // One that is gone meanwhile is as good.
                drop(client.delete_sandbox(request).await);
            }
            settled(client).await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn report(&mut self, took: Duration) -> Report {
        let Options { seed, driver, kills, engine_kills, late, .. } = self.options;
        let tally = std::mem::take(&mut *self.load.tally());
        let interrupted: BTreeMap<String, u64> = self.process.heard(|heard| heard.resumed.clone());
        let mut operations = tally.operations;
        operations.resumed = interrupted.values().sum();
        operations.most_obligations = self.most_obligations;
        operations.most_tombstones = self.platform.remote().then_some(self.most_tombstones);
        let mut replay = format!("cargo xtask crash --driver {driver} --kills {kills} --seed {seed}");
        if self.platform.remote() {
            let _ = write!(replay, " --engine-kills {engine_kills} --late {}", late.as_secs());
        }
        Report {
            seed: *seed,
            driver: driver.clone(),
            kills: std::mem::take(&mut self.kills),
            interrupted,
            starts: self.starts,
            to_serving: Times::of(std::mem::take(&mut self.serving)),
            to_settled: Times::of(std::mem::take(&mut self.settling)),
            requests: tally.requests,
            operations,
            audits: self.audits,
            leaks: std::mem::take(&mut self.leaks),
            duration_s: took.as_secs_f64(),
            replay,
        }
    }
}

/// Deletes the volumes that sandboxes were made with.
async fn delete_volumes(client: &mut Client) -> Result<(), String> {
    let volumes = client.list_volumes(wire::ListVolumesRequest::default()).await;
    for volume in volumes.map_err(|status| format!("the volumes: {status}"))?.into_inner().volumes {
        let wire::Volume { name, workspace, driver, .. } = volume;
        let what = format!("volume {name} of {workspace}");
        let gone = client.delete_volume(wire::DeleteVolumeRequest { name, workspace, driver }).await;
        gone.map_err(|status| format!("{what} cannot be deleted: {status}"))?;
    }
    Ok(())
}
