//! What a driver asks the gateway to listen on is asked at each greeting and told in the log.

mod common;

use std::io::Write;
use std::sync::Arc;

use chiton_driver::WhoseAgent;
use chiton_driver_external::{ExternalDriver, ExternalOptions};
use chiton_driver_scripted::{Fault, Script};
use common::{Rig, options, script};
use parking_lot::Mutex;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What is said of warnings while a driver that was just begun is greeted.
async fn warnings(script: Script, agent: WhoseAgent) -> String {
    let rig = Rig::new(script);
    let lines = Lines::default();
    let writer = lines.clone();
    let said = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // One thread: what is spawned speaks to it, too.
    let _said = tracing::subscriber::set_default(said);
    let supervisors = Some("127.0.0.1:17680".parse().expect("an address"));
    let driver = ExternalDriver::new(ExternalOptions { agent, supervisors, ..options(&rig.socket()) });
    driver.greet().await.expect("it is used all the same");
    String::from_utf8(lines.0.lock().clone()).expect("text")
}

fn asking(addresses: &[&str], stock: bool) -> Script {
    Script { listeners: addresses.iter().map(ToString::to_string).collect(), ..script(&[], stock) }
}

#[tokio::test]
async fn a_wish_that_is_not_met_is_told_with_its_cure() {
    let told = warnings(asking(&["172.17.0.1:17680", "127.0.0.1:17680"], true), WhoseAgent::Openshell).await;
    assert_eq!(told.lines().count(), 1, "{told}");
    for part in ["kyma", "172.17.0.1:17680", "127.0.0.1:17680", "allow_remote = true", "[supervisor]"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let odd = warnings(script(&[Fault::BadRequirements], false), WhoseAgent::Openshell).await;
    assert!(odd.contains("no address"), "{odd}");
}

#[tokio::test]
async fn where_there_is_nothing_to_tell_nothing_is_told() {
    for (script, agent) in [
        (asking(&["127.0.0.1:17680"], true), WhoseAgent::Openshell),
        // It does not know the question.
        (asking(&[], true), WhoseAgent::Openshell),
        (asking(&[], false), WhoseAgent::Openshell),
        // Nobody in its sandboxes dials there.
        (asking(&["172.17.0.1:17680"], true), WhoseAgent::None),
    ] {
        assert_eq!(warnings(script, agent).await, "");
    }
}
