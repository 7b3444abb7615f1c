//! Agents of another make: which drivers bring such, and who serves them.

use std::collections::BTreeMap;
use std::sync::Arc;

use chiton_driver::ComputeDriver;
use chiton_lifecycle::Engine;
use chiton_model::{DriverId, Error};

use crate::config::Config;
use crate::plugin::{AgentFolder, GuestContext, GuestServer, Plugins};
use crate::sessions::Sessions;
use crate::world::{EngineExits, StoredTokens};

/// Drivers whose sandboxes have agents that do not dial a socket of ours: they are of another make.
pub(super) fn brought_by(
    drivers: &[Arc<dyn ComputeDriver>],
    folders: &BTreeMap<DriverId, Arc<AgentFolder>>,
) -> Vec<DriverId> {
    let said = drivers.iter().map(|driver| driver.capabilities());
    said.filter(|said| said.agent && !folders.contains_key(&said.id)).map(|said| said.id.clone()).collect()
}

/// Listens for them, if there is a driver that brings such.
pub(super) async fn serve(
    drivers: Vec<DriverId>,
    config: &Config,
    plugins: &Plugins,
    tokens: &Arc<StoredTokens>,
    sessions: &Sessions,
    engine: &Engine,
) -> Result<Option<Box<dyn GuestServer>>, Error> {
    let Some(driver) = drivers.first() else { return Ok(None) };
    let Some(kind) = plugins.guests else {
        let text = format!("driver {driver} brings agents of another make, and nothing compiled in serves them");
        return Err(Error::unsupported(driver.as_str(), "agent", text).cure("choose another agent for it"));
    };
    let context = GuestContext {
        tokens: Arc::clone(tokens) as _,
        sessions: sessions.clone(),
        exits: Arc::new(EngineExits(engine.clone())),
        listen: config.supervisor.listen.clone(),
        allow_remote: config.supervisor.allow_remote,
    };
    (kind.serve)(context).await.map(Some)
}
