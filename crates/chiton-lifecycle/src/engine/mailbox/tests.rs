//! What is kept, and what is not.

use chiton_model::{ExitStatus, GatewayId, SandboxId, StoreEpoch};

use super::*;

fn driver(name: &str) -> DriverId {
    DriverId::new(name).unwrap()
}

fn told(status: ObservedStatus, attempt: &str) -> Observed {
    Observed {
        id: SandboxId::new("s-01kdvdna0522zy2tr3ha7gsks8").unwrap(),
        status,
        attempt: Some(attempt.to_owned()),
        gateway: GatewayId::new("g-1").unwrap(),
        epoch: StoreEpoch::new("e-1").unwrap(),
        commit: 1,
    }
}

fn exit(code: i32, attempt: &str) -> Observed {
    told(ObservedStatus::Exited(ExitStatus { code: Some(code), reason: String::new(), at: None }), attempt)
}

fn kept(mailbox: &Mailbox) -> Vec<(DriverId, Observed)> {
    std::iter::from_fn(|| mailbox.take()).collect()
}

#[test]
fn only_exits_are_kept_and_of_each_start_the_last() {
    let mailbox = Mailbox::default();
    for observed in [exit(1, "a"), told(ObservedStatus::Running, "a"), exit(2, "b"), exit(3, "a")] {
        mailbox.put(&driver("one"), observed);
    }
    assert_eq!(kept(&mailbox), [(driver("one"), exit(2, "b")), (driver("one"), exit(3, "a"))]);
}

#[test]
fn a_driver_that_tells_without_end_pushes_out_nobody_elses() {
    let mailbox = Mailbox::default();
    mailbox.put(&driver("one"), exit(1, "a"));
    for attempt in 0..1000 {
        mailbox.put(&driver("two"), exit(0, &attempt.to_string()));
    }
    let kept = kept(&mailbox);
    assert_eq!(kept.len(), 1 + MOST);
    assert_eq!(kept[0], (driver("one"), exit(1, "a")));
    assert_eq!(kept.last(), Some(&(driver("two"), exit(0, "999"))));
}
