//! What the system's files grant.

use std::path::PathBuf;

use super::{Ids, Range, granted};

fn programs() -> (PathBuf, PathBuf) {
    ("/usr/bin/newuidmap".into(), "/usr/bin/newgidmap".into())
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
    assert_eq!(why(("", ""), Some(programs())), "/etc/subuid and /etc/subgid grant user ann no range");
    assert_eq!(why((line, ""), Some(programs())), "/etc/subgid grants user ann no range");
    assert_eq!(why(("", line), Some(programs())), "/etc/subuid grants user ann no range");
    assert_eq!(why((line, line), None), "newuidmap and newgidmap are not installed");
    let all = Ids::from_grants((1001, 1001, Some("ann")), (line, line), Some(programs()));
    assert!(matches!(all, Ids::Ranges(ranges) if ranges.total() == 65_536));
}

#[test]
fn a_window_lies_within_one_granted_range_of_users_and_one_of_groups() {
    let of = |uids: &str, gids: &str| match Ids::from_grants((1001, 1001, Some("ann")), (uids, gids), Some(programs()))
    {
        Ids::Ranges(ranges) => {
            ranges.windows().iter().map(|window| (window.first, window.count)).collect::<Vec<(u32, u32)>>()
        }
        other => panic!("{other:?}"),
    };
    let much = "ann:100000:200000";
    assert_eq!(of("ann:100000:1000", much), [(1, 1000)]);
    assert_eq!(of("ann:100000:65536", much), [(1, 65_536)]);
    assert_eq!(of("ann:100000:131072", much), [(1, 65_536), (65_537, 65_536)]);
    assert_eq!(of("ann:100000:1000\nann:300000:70000", much), [(1001, 65_536)]);
    assert_eq!(of("ann:100000:65536", "ann:100000:30000\nann:200000:60000"), [(30_001, 35_536)]);
}
