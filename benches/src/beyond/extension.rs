//! What a hook costs more when its extension is behind a socket: the same extension both ways, in one engine's creates.

use std::error::Error;
use std::time::Duration;

use chiton_extension_process::local::over_a_socket;
use chiton_gateway::Plugins;
use chiton_gateway::compose::Gateway;
use chiton_lifecycle::journal::StepKey;
use chiton_model::{Error as ModelError, ExtensionName};

use crate::engine::{create_steps, gateway_of};
use crate::figures::Figures;
use crate::null_driver;

const GOAL: Duration = Duration::from_micros(60);

/// The noop extension in process, and the same behind a socket of this process. To be called outside of any runtime.
pub(super) fn plugins() -> Result<Plugins, ModelError> {
    let mut plugins = Plugins::default();
    plugins.driver(null_driver::kind())?;
    plugins.extension(chiton_extension_noop::extension()?)?;
    let name = ExtensionName::new("noop-beyond")?;
    let beyond =
        chiton_extension_noop::extension()?.wrapped(|descriptor| descriptor.name = name, |extension| extension);
    plugins.extension(over_a_socket(Ok(beyond))?)?;
    Ok(plugins)
}

pub(super) async fn run(rounds: usize, plugins: &Plugins) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::Builder::new().prefix("chiton-bench-").tempdir()?;
    let (inside, beyond) = (
        gateway_of(&folder.path().join("inside"), plugins, &["noop"]).await?,
        gateway_of(&folder.path().join("beyond"), plugins, &["noop-beyond"]).await?,
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
    there.report("one hook, over a socket");
    let added = there.median().saturating_sub(here.median());
    println!("added by the socket: {:.1} µs; goal {} µs", added.as_secs_f64() * 1e6, GOAL.as_micros());
    Ok(())
}

async fn hooks(gateway: &Gateway) -> Result<Vec<Duration>, ModelError> {
    let steps = create_steps(gateway).await?;
    let hooks = steps.into_iter().filter(|step| matches!(step.step, StepKey::Hook { .. }));
    Ok(hooks.map(|step| Duration::from_micros(step.took_us)).collect())
}
