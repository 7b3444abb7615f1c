//! Engine and store, with a driver that costs nothing.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use chiton_gateway::Plugins;
use chiton_gateway::compose::{Gateway, compose};
use chiton_gateway::config::{Flags, Sources, load};
use chiton_lifecycle::extension::ExtensionKind;
use chiton_lifecycle::journal::{StepKey, StepTiming};
use chiton_lifecycle::{CreateRequest, Request};
use chiton_model::{ExtensionName, Principal};
use futures::future::try_join_all;

use crate::figures::{Disk, Figures, millis};
use crate::null_driver;

/// Effect phases of a create in which the noop extension takes part.
const PHASES: u32 = 4;
const LONG_CHAIN: u32 = 5;
const AT_ONCE: usize = 64;

/// Noop extensions under several names, so that a chain can have more than one.
fn plugins() -> Result<Plugins, chiton_model::Error> {
    let mut plugins = Plugins::default();
    plugins.driver(null_driver::kind())?;
    for index in 0..LONG_CHAIN {
        let mut descriptor = (**chiton_extension_noop::extension()?.descriptor()).clone();
        descriptor.name = ExtensionName::new(format!("noop-{index}"))?;
        plugins.extension(ExtensionKind::new(
            descriptor,
            |_: &chiton_extension_noop::Config| Vec::new(),
            |_| Ok(chiton_extension_noop::Noop),
        ))?;
    }
    Ok(plugins)
}

async fn gateway(folder: &Path, plugins: &Plugins, chain: u32) -> Result<Gateway, Box<dyn Error>> {
    let names: Vec<String> = (0..chain).map(|index| format!("noop-{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    gateway_of(folder, plugins, &names).await
}

/// A gateway with the null driver and this chain.
pub(crate) async fn gateway_of(folder: &Path, plugins: &Plugins, chain: &[&str]) -> Result<Gateway, Box<dyn Error>> {
    let text = format!("[compute]\ndrivers = [\"null\"]\nextensions = {chain:?}\n");
    let sources = Sources {
        file: Some(("bench.toml".into(), text)),
        flags: Flags { data_dir: Some(folder.to_owned()), ..Flags::default() },
        cwd: folder.to_owned(),
        ..Sources::default()
    };
    let config = load(&sources, plugins)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    compose(&config, plugins, None)
        .await
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ").into())
}

/// The steps of a create.
pub(crate) async fn create_steps(gateway: &Gateway) -> Result<Vec<StepTiming>, chiton_model::Error> {
    let principal = Principal { subject: "bench".to_owned(), claims: BTreeMap::new() };
    let request = Request { principal, request_id: None };
    let accepted = gateway.engine().create(request, CreateRequest::default()).await?;
    let operation = accepted.operation.ok_or_else(|| chiton_model::Error::internal("no operation"))?;
    Ok(gateway.engine().wait(&operation).await?.steps)
}

/// A create, from the request to its outcome; the time that hooks took in it.
async fn create(gateway: &Gateway) -> Result<(Duration, Duration), chiton_model::Error> {
    let principal = Principal { subject: "bench".to_owned(), claims: BTreeMap::new() };
    let begin = Instant::now();
    let accepted = gateway.engine().create(Request { principal, request_id: None }, CreateRequest::default()).await?;
    let operation = accepted.operation.ok_or_else(|| chiton_model::Error::internal("no operation"))?;
    let ended = gateway.engine().wait(&operation).await?;
    let took = begin.elapsed();
    let hooks =
        ended.steps.iter().filter(|step| matches!(step.step, StepKey::Hook { .. })).map(|step| step.took_us).sum();
    Ok((took, Duration::from_micros(hooks)))
}

pub(crate) async fn run(rounds: usize) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::Builder::new().prefix("chiton-bench-").tempdir()?;
    let plugins = plugins()?;
    let (bare, long) = (
        gateway(&folder.path().join("bare"), &plugins, 0).await?,
        gateway(&folder.path().join("long"), &plugins, LONG_CHAIN).await?,
    );
    let mut disk = Disk::open(folder.path())?;
    let (mut floor, mut without, mut with, mut hooks) =
        (Figures::default(), Figures::default(), Figures::default(), Figures::default());
    for round in 0..rounds + 5 {
        let sync = disk.sync()?;
        let (alone, _) = create(&bare).await?;
        let (chained, in_hooks) = create(&long).await?;
        // The first rounds fill caches.
        if round >= 5 {
            floor.add(sync);
            without.add(alone);
            with.add(chained);
            hooks.add(in_hooks);
        }
    }
    println!("# engine and store, scripted driver");
    floor.report("F: fdatasync of 4 KiB");
    without.report("create, no extension");
    with.report("create, 5 noop extensions");
    let f = floor.median();
    let goal = f * 2 + Duration::from_micros(300);
    println!(
        "create, no extension: {:.2} F; goal 2 F + 0.3 ms = {:.3} ms",
        without.median().as_secs_f64() / f.as_secs_f64(),
        millis(goal)
    );
    let each = hooks.median() / (LONG_CHAIN * PHASES);
    println!("one extension, one effect phase, hook alone: {:.1} µs; goal 3 µs", each.as_secs_f64() * 1e6);
    let total = with.median().saturating_sub(without.median()) / (LONG_CHAIN * PHASES);
    println!("one extension, one effect phase, all of it (marks, record): {:.1} µs", total.as_secs_f64() * 1e6);

    let batches = rounds.max(10);
    let begin = Instant::now();
    for _ in 0..batches {
        try_join_all((0..AT_ONCE).map(|_| create(&bare))).await?;
    }
    let count = f64::from(u32::try_from(batches * AT_ONCE)?);
    println!("creates/s at {AT_ONCE} in flight: {:.0}; goal 5000", count / begin.elapsed().as_secs_f64());
    Ok(())
}
