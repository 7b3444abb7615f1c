//! One whole life, exhaustively: a crash after every single thing that could be seen, with and without the mark log. The
//! matrix takes samples by default; this leaves nothing out.

use std::time::Duration;

use chiton_testkit::{DriverSpec, ExtensionScript, Lab};

fn lab(seed: u64) -> Lab {
    Lab::new(seed)
        .driver(DriverSpec::new("fake"))
        .extension(ExtensionScript::everywhere("first"))
        .extension(ExtensionScript::everywhere("second").slot("ip", "SECOND_IP").saves())
}

/// Create, stop, start, delete; each as far as the gateway lives.
fn history(lab: &Lab) -> Option<()> {
    let accepted = lab.ask_create("one")?.ok()?;
    let id = accepted.sandbox.id;
    let wait = |operation| {
        let engine = lab.engine();
        lab.run(async move { engine.wait(&operation).await })
    };
    wait(accepted.operation?)?.ok()?;
    let (engine, request, sandbox) = (lab.engine(), lab.request(), id.clone());
    let stopped = lab.run(async move { engine.stop(request, sandbox).await })?.ok()?;
    wait(stopped.operation?)?.ok()?;
    let (engine, request, sandbox) = (lab.engine(), lab.request(), id.clone());
    let started = lab.run(async move { engine.start(request, sandbox).await })?.ok()?;
    wait(started.operation?)?.ok()?;
    let (engine, request, sandbox) = (lab.engine(), lab.request(), id);
    let deleted = lab.run(async move { engine.delete(request, sandbox, false).await })?.ok()?;
    wait(deleted.operation?)?.ok()?;
    Some(())
}

fn cell(seed: u64, crash: usize, lose: bool) {
    let mut lab = lab(seed);
    lab.ledger().crash_after(crash);
    if lab.try_start().expect("it starts") {
        history(&lab);
    }
    lab.ledger().no_crash();
    lab.crash();
    if lose {
        lab.lose_marks();
    }
    lab.start();
    assert!(lab.quiesce(Duration::from_hours(4)), "crash {crash}, lose {lose}: not quiet\n{:?}", lab.ledger());
    lab.assert_sound();
}

#[test]
fn after_a_crash_at_any_point_everything_is_owned_undone_or_listed() {
    let mut whole = lab(1);
    whole.start();
    history(&whole).expect("no crash is placed");
    let points = whole.ledger().len();
    for crash in 1..=points {
        for lose in [false, true] {
            cell(1, crash, lose);
        }
    }
}
