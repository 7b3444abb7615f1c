//! What the system's files grant.

use std::path::PathBuf;

use super::{Ids, Range, granted};

fn programs() -> Option<(PathBuf, PathBuf)> {
    Some(("/usr/bin/newuidmap".into(), "/usr/bin/newgidmap".into()))
}

#[test]
fn a_user_is_found_by_name_and_by_number_and_nobody_elses_lines_count() {
    let file = "ann:100000:65536\nbob:165536:65536\n1001:300000:10\n# a comment\n";
    assert_eq!(
        granted(file, 1001, Some("ann"), 1001),
        [Range { first: 100_000, count: 65_536 }, Range { first: 300_000, count: 10 }]
    );
    assert_eq!(granted(file, 1002, None, 1002), []);
}

#[test]
fn what_no_map_could_hold_is_left_out() {
    let file = "ann:x:5\nann:10:0\nann:4294967295:2\nann:100:50:1\nann:1000:10\nann:2000:10\nann:2005:10\n";
    assert_eq!(granted(file, 1001, Some("ann"), 1001), [Range { first: 2000, count: 10 }]);
}

#[test]
fn a_range_needs_both_files_and_both_programs_and_says_what_is_missing() {
    let line = "ann:100000:65536\n";
    let why = |files, programs| match Ids::from_grants((1001, 1001, Some("ann")), files, programs) {
        Ids::One { why, cure } => {
            assert!(!cure.is_empty());
            why
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(why(("", ""), programs()), "/etc/subuid and /etc/subgid grant user ann no range");
    assert_eq!(why((line, ""), programs()), "/etc/subgid grants user ann no range");
    assert_eq!(why(("", line), programs()), "/etc/subuid grants user ann no range");
    assert_eq!(why((line, line), None), "newuidmap and newgidmap are not installed");
    assert_eq!(Ids::from_grants((1001, 1001, Some("ann")), (line, line), programs()).size(), 65_536);
}

#[test]
fn only_whole_ranges_make_windows_of_their_own() {
    let of = |count: u32| match Ids::from_grants(
        (1001, 1001, Some("ann")),
        (&format!("ann:100000:{count}"), "ann:100000:200000"),
        programs(),
    ) {
        Ids::Ranges(ranges) => (ranges.windows(), ranges.size()),
        other => panic!("{other:?}"),
    };
    assert_eq!((of(1000), of(65_536), of(131_072), of(1_000_000)), ((1, 1000), (1, 65_536), (2, 65_536), (3, 65_536)));
}
