//! What the way over a socket costs.

mod driver;
mod extension;

use std::error::Error;

use chiton_gateway::Plugins;
use chiton_model::Error as ModelError;

/// To be called outside of any runtime.
pub(crate) fn plugins() -> Result<Plugins, ModelError> {
    extension::plugins()
}

pub(crate) async fn run(rounds: usize, plugins: &Plugins) -> Result<(), Box<dyn Error>> {
    driver::run(rounds).await?;
    extension::run(rounds, plugins).await
}
