//! What a hook costs more when its extension is in another process: the same extension both ways, in one engine's creates.

use std::error::Error;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use chiton_extension_process::client::{Options, Process};
use chiton_gateway::Plugins;
use chiton_gateway::compose::Gateway;
use chiton_lifecycle::extension::ExtensionKind;
use chiton_lifecycle::journal::StepKey;
use chiton_model::{Error as ModelError, ExtensionName};
use chiton_socket::own_and_root;

use crate::engine::{create_steps, gateway_of};
use crate::figures::Figures;
use crate::null_driver;

const GOAL: Duration = Duration::from_micros(60);

/// The argument that makes this program the other process; the socket follows.
pub(crate) const SERVE: &str = "serve-extension";

const BEYOND: &str = "noop-beyond";

fn beyond() -> Result<ExtensionKind, ModelError> {
    let name = ExtensionName::new(BEYOND)?;
    Ok(chiton_extension_noop::extension()?.wrapped(|descriptor| descriptor.name = name, |extension| extension))
}

/// The other process. To be called outside of any runtime.
pub(crate) fn serve(socket: &Path) -> Result<(), Box<dyn Error>> {
    Ok(chiton_extension_process::server::serve([beyond()?], socket)?)
}

/// This program once more; ended when this is dropped.
struct Beyond(Child);

impl Beyond {
    fn start(socket: &Path) -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.arg(SERVE).arg(socket).stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let said = child.stderr.take().map(BufReader::new);
        let started = Self(child);
        let first = said.and_then(|said| said.lines().next()).transpose()?.unwrap_or_default();
        if first.starts_with("listening") { Ok(started) } else { Err(format!("it did not begin: {first:?}").into()) }
    }
}

impl Drop for Beyond {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub(super) async fn run(rounds: usize) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::Builder::new().prefix("chiton-bench-").tempdir()?;
    let socket = folder.path().join("private").join("extension.sock");
    let _beyond = Beyond::start(&socket)?;
    let process = Process::start(Options { name: ExtensionName::new(BEYOND)?, socket, peers: own_and_root() });
    let mut plugins = Plugins::default();
    plugins.driver(null_driver::kind())?;
    plugins.extension(chiton_extension_noop::extension()?)?;
    plugins.extension(process.kind(process.describe().await?))?;
    let (inside, beyond) = (
        gateway_of(&folder.path().join("inside"), &plugins, &["noop"]).await?,
        gateway_of(&folder.path().join("beyond"), &plugins, &[BEYOND]).await?,
    );
    let (mut here, mut there) = (Figures::default(), Figures::default());
    for round in 0..rounds + 10 {
        for (gateway, figures) in [(&inside, &mut here), (&beyond, &mut there)] {
            let hooks = hooks(gateway).await?;
            // The first rounds fill caches.
            if round >= 10 {
                for took in hooks {
                    figures.add(took);
                }
            }
        }
    }
    println!("# extensions behind a socket, scripted driver, one at a time");
    here.report("one hook, in process");
    there.report("one hook, in another process");
    let added = there.median().saturating_sub(here.median());
    println!("added by the socket: {:.1} µs; goal {} µs", added.as_secs_f64() * 1e6, GOAL.as_micros());
    Ok(())
}

async fn hooks(gateway: &Gateway) -> Result<Vec<Duration>, ModelError> {
    let steps = create_steps(gateway).await?;
    let hooks = steps.into_iter().filter(|step| matches!(step.step, StepKey::Hook { .. }));
    Ok(hooks.map(|step| Duration::from_micros(step.took_us)).collect())
}
