use chiton_model::SandboxId;
use chiton_testkit::conformance::Bench;
use serde_json::json;

use crate::leases::{LeaseError, Leases};
use crate::range::Range;

chiton_testkit::conformance!(crate::extension(), || {
    Bench::in_folder(|folder| json!({ "folder": folder, "range": "10.88.0.2-10.88.0.9" }))
});

fn id(name: &str) -> SandboxId {
    SandboxId::new(name).expect("a valid id")
}

fn leases(folder: &tempfile::TempDir, range: &str) -> Leases {
    Leases::new(folder.path().join("leases"), Range::parse(range).expect("a valid range"))
}

#[test]
fn a_sandbox_keeps_its_address_when_it_asks_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let leases = leases(&folder, "10.0.0.2-10.0.0.9");
    let first = leases.take(&id("s-1")).expect("an address");
    assert_eq!(leases.take(&id("s-1")).expect("the same address"), first);
    assert_eq!(leases.held().expect("a listing"), [id("s-1")]);
}

#[test]
fn no_address_is_leased_twice_by_many_threads() {
    let folder = tempfile::tempdir().expect("a folder");
    let leases = leases(&folder, "10.0.0.1-10.0.0.40");
    let taken: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..40)
            .map(|n| {
                let leases = leases.clone();
                scope.spawn(move || leases.take(&id(&format!("s-{n}"))).expect("an address"))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let distinct: std::collections::BTreeSet<_> = taken.iter().collect();
    assert_eq!(distinct.len(), 40);
    assert!(matches!(leases.take(&id("s-late")), Err(LeaseError::Exhausted(40))));
}

#[test]
fn free_works_twice_and_without_a_lease() {
    let folder = tempfile::tempdir().expect("a folder");
    let leases = leases(&folder, "10.0.0.1-10.0.0.1");
    leases.free(&id("s-none")).expect("nothing to free");
    let address = leases.take(&id("s-1")).expect("an address");
    leases.free(&id("s-1")).expect("freed");
    leases.free(&id("s-1")).expect("freed again");
    assert_eq!(leases.take(&id("s-2")).expect("the freed address"), address);
}

#[test]
fn a_foreign_file_in_the_folder_is_an_address_that_is_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let leases = leases(&folder, "10.0.0.1-10.0.0.1");
    std::fs::create_dir_all(folder.path().join("leases")).expect("a folder");
    std::fs::write(folder.path().join("leases/10.0.0.1"), "by hand, not an id").expect("a file");
    assert!(matches!(leases.take(&id("s-1")), Err(LeaseError::Exhausted(1))));
    assert_eq!(leases.held().expect("a listing"), []);
}

#[test]
fn ranges_that_make_no_sense_are_refused() {
    for (text, why) in [
        ("10.0.0.1", "\"10.0.0.1\" is not FIRST-LAST"),
        ("10.0.0.9-10.0.0.1", "\"10.0.0.9-10.0.0.1\" ends before it begins"),
        ("10.0.0.1-x", "\"x\" is not an IPv4 address"),
        ("10.0.0.0-10.255.255.255", "\"10.0.0.0-10.255.255.255\" has more than 65536 addresses"),
    ] {
        assert_eq!(Range::parse(text), Err(why.to_owned()));
    }
}
