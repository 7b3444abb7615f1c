//! What the way over a socket costs.

mod driver;
mod extension;

use std::error::Error;

pub(crate) use extension::{SERVE, serve};

pub(crate) async fn run(rounds: usize) -> Result<(), Box<dyn Error>> {
    driver::run(rounds).await?;
    extension::run(rounds).await
}
