//! Nothing is done to the extension: a whole life on every kind of driver.

use chiton_driver::Feature;
use chiton_model::Phase;

use super::Rule;
use super::kit::{Found, Kit};
use super::stage::Setting;
use crate::driver::DriverSpec;

fn drivers(kit: &Kit) -> Vec<(&'static str, DriverSpec)> {
    let plain = || DriverSpec::new("kit-driver");
    let mut drivers = vec![
        ("on a local driver", plain()),
        ("on a remote driver", plain().remote()),
        ("on a driver without agent", plain().without_agent()),
    ];
    // An extension that needs the two phases is refused where they are one.
    if !kit.kind().descriptor().needs.features.contains(&Feature::TwoPhaseStart) {
        drivers.push(("on a driver that cannot create without starting", plain().one_phase()));
    }
    drivers
}

/// A life in which nothing goes wrong but what goes wrong elsewhere.
pub(super) fn calm(kit: &Kit) -> Found {
    let mut found = Found::default();
    for (place, driver) in drivers(kit) {
        let mut stage = kit.stage(&Setting { driver: Some(driver), ..Setting::default() }, place);
        if stage.start() {
            stage.play();
            if stage.takes_part(Phase::Reconcile) && stage.rig.calls(Phase::Reconcile) == 0 && stage.rig.is_clean() {
                let what =
                    "it declares reconcile, which is called only for sandboxes that it saved state for: it saves none";
                stage.rig.find(Rule::Reconcile, what);
            }
        }
        found.add(stage.end());
    }
    found
}

/// After a hook returned, nothing of it goes on.
pub(super) fn no_detached_work(kit: &Kit, phase: Phase) -> Found {
    let mut found = Found::default();
    let mut stage = kit.stage(&Setting::default(), "nothing was done to it");
    stage.rig.watch_threads(phase);
    if stage.start() {
        stage.play();
    }
    found.add(stage.end());
    found
}
