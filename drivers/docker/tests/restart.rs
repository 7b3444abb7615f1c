//! The engine's restart beneath its sandboxes; a file of its own, so that no other test runs beside it.

mod common;

use chiton_engine_bench::{EngineBench, Without, judged, survives_the_engines_restart};
use common::DOCKER;

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_and_watches_when_the_engine_is_restarted() {
    let tried = async { survives_the_engines_restart(EngineBench::new(DOCKER)?, "docker", Without::Ended).await };
    judged("sandboxes_and_watches_when_the_engine_is_restarted", tried.await);
}
