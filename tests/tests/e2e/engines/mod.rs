//! The program on real container engines: each test once on docker and once on podman.
//!
//! - `agentless`: sandboxes into which nothing is put, or somebody else's supervisor
//! - `life`: what a user does with a sandbox, and what is left of it on the engine: nothing
//! - `chain`: three extensions; what they gave is seen by the engine's own program; leases and addresses
//! - `secrets`: where a secret is on an engine, and where it is not
//! - `neighbours`: two gateways on one engine
//! - `networks`: one for all of a gateway's sandboxes, and none for none
//! - `composed`: the composed driver of the documentation
//! - `kills`: a gateway that dies in the midst of everything
//! - `restarts`: an engine that goes away under running sandboxes
//! - `served`: the driver of an engine behind a socket, for a gateway of another make
//! - `late`: what an engine does after its answer was lost

mod agentless;
mod chain;
mod composed;
mod kills;
mod late;
mod life;
mod neighbours;
mod networks;
mod restarts;
mod secrets;
mod served;

use std::io::Write as _;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use chiton_tests::engines::{Engine, Kind};
use serde_json::Value;

use crate::harness::{Gateway, Share, root};

/// One test of each function for each engine.
macro_rules! on_each {
    ($($body:ident),+ $(,)?) => {
        mod docker {
            $(#[test] fn $body() {
                if let Some(engine) = $crate::engines::find(chiton_tests::engines::Kind::Docker) { super::$body(&engine); }
            })+
        }
        mod podman {
            $(#[test] fn $body() {
                if let Some(engine) = $crate::engines::find(chiton_tests::engines::Kind::Podman) { super::$body(&engine); }
            })+
        }
    };
}
use on_each;

/// The engine that the environment names; says by name who cannot run without.
pub(crate) fn find(kind: Kind) -> Option<Engine> {
    if !root() {
        return None;
    }
    match Engine::from_environment(kind) {
        Ok(engine) => Some(engine),
        Err(why) => {
            assert!(std::env::var_os("ENGINES_REQUIRED").is_none(), "{why}");
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("a test").to_owned();
            // Not by a macro, which the test runner would swallow.
            drop(writeln!(std::io::stderr(), "SKIPPED {name}: {why}"));
            None
        }
    }
}

/// A gateway on an engine. When it is dropped, nothing of it may be left on the engine either.
pub(crate) struct Scene<'a> {
    engine: &'a Engine,
    gateway: Option<Gateway>,
}

impl<'a> Scene<'a> {
    /// A gateway on this engine; `compute` stands in `[compute]`, `rest` after it.
    #[track_caller]
    pub(crate) fn new(engine: &'a Engine, compute: &str, rest: &str) -> Self {
        Self::behind(engine, &engine.socket, compute, rest)
    }

    /// The same, and what it takes for the engine's socket is another.
    #[track_caller]
    pub(crate) fn behind(engine: &'a Engine, socket: &Path, compute: &str, rest: &str) -> Self {
        let gateway = Gateway::sharing(&config(engine, socket, compute, rest), Share::Part);
        Self { engine, gateway: Some(gateway) }
    }
}

/// A config whose only driver is this engine's.
pub(crate) fn config(engine: &Engine, socket: &Path, compute: &str, rest: &str) -> String {
    format!("[compute]\ndrivers = [\"{}\"]\n{compute}\n{}{rest}\n", engine.kind, engine.block(socket))
}

impl Deref for Scene<'_> {
    type Target = Gateway;

    fn deref(&self) -> &Gateway {
        self.gateway.as_ref().expect("it is there until the end")
    }
}

impl DerefMut for Scene<'_> {
    fn deref_mut(&mut self) -> &mut Gateway {
        self.gateway.as_mut().expect("it is there until the end")
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        let id = self.id().to_owned();
        let failed = std::thread::panicking();
        // Looks at the machine itself.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(self.gateway.take())));
        let left = std::panic::catch_unwind(|| self.engine.left(&id));
        // The next test is not to stumble over it; an engine that does not answer fails this one anyway.
        drop(std::panic::catch_unwind(|| self.engine.sweep(&id)));
        if failed {
            return;
        }
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
        let left = left.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(left.is_empty(), "something is left on the engine:\n{}", left.join("\n"));
    }
}

#[track_caller]
fn id(sandbox: &Value) -> &str {
    sandbox["id"].as_str().expect("an id")
}

/// The first three numbers of a range of addresses that no other test has.
fn range() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id().wrapping_mul(7).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % (16 * 16 * 16);
    // Below the ranges that sets of engines take (10.201–10.250).
    format!("10.{}.{}", 130 + number / 256, number % 256)
}
