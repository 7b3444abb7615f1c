//! Tightening is never loosening, and loosening is always seen.

use chiton_confine::{Alternative, Check, Family, Landlock, PathRule, ProfileError, Right, Seccomp, TcpRule};
use proptest::prelude::*;

fn allowed() -> Vec<String> {
    let standard = Seccomp::standard();
    standard.allow.iter().chain(standard.limited.keys()).cloned().collect()
}

fn path() -> impl Strategy<Value = String> {
    "(/[a-z.]{1,6}){1,4}".prop_filter("a plain path", |path| !path.split('/').any(|part| part == "." || part == ".."))
}

proptest! {
    #[test]
    fn denying_calls_and_families_never_loosens(
        picks in prop::collection::vec(0_usize..1000, 0..40), families in prop::collection::vec(0_usize..3, 0..4),
        call in 0_usize..1000, args in prop::array::uniform6(prop_oneof![0_u64..32, any::<u64>()]),
    ) {
        let standard = Seccomp::standard();
        let mut tightened = standard.clone();
        let names = allowed();
        for pick in picks {
            match tightened.deny(std::slice::from_ref(&names[pick % names.len()])) {
                Ok(()) | Err(ProfileError::Needed(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        for family in families {
            tightened.deny_family(Family::ALL[family].1);
        }
        prop_assert!(tightened.at_least_as_tight(&standard));
        tightened.check().unwrap();
        let name = &names[call % names.len()];
        prop_assert!(!tightened.allows(name, &args) || standard.allows(name, &args), "{} {:?}", name, args);
        prop_assert_eq!(standard.at_least_as_tight(&tightened), standard == tightened);
    }

    #[test]
    fn fewer_writable_paths_never_loosen(paths in prop::collection::vec(path(), 0..6), required in any::<bool>()) {
        let standard = Landlock::standard();
        let mut tightened = standard.clone();
        tightened.writable(&paths).unwrap();
        tightened.required = required;
        prop_assert!(tightened.at_least_as_tight(&standard));
        prop_assert!(!standard.at_least_as_tight(&tightened));
    }
}

#[test]
fn every_way_to_loosen_calls_is_seen() {
    let standard = Seccomp::standard();
    let seen = |change: &dyn Fn(&mut Seccomp), name: &str| {
        let mut loosened = standard.clone();
        change(&mut loosened);
        assert_eq!(loosened.looser_than(&standard), Some(name));
    };
    let free = |profile: &mut Seccomp, name: &str| assert!(profile.allow.insert(name.to_owned()));
    seen(&|profile| free(profile, "ptrace"), "ptrace");
    seen(
        &|profile| {
            profile.limited.remove("clone");
            free(profile, "clone");
        },
        "clone",
    );
    seen(&|profile| drop(profile.limited.insert("bpf".to_owned(), vec!["arg0 == 0x1".parse().unwrap()])), "bpf");
    seen(&|profile| drop(profile.limited.insert("clone".to_owned(), Vec::new())), "clone");
    seen(
        &|profile| {
            let packet: Alternative = "arg0 == 0x11".parse().unwrap();
            profile.limited.get_mut("socket").unwrap().push(packet);
        },
        "socket",
    );
    // One condition less.
    seen(&|profile| drop(profile.limited.insert("socket".to_owned(), vec!["arg0 == 0x2".parse().unwrap()])), "socket");
    // One condition more, and a limit on what was free.
    let mut tightened = standard.clone();
    tightened.limited.insert("socket".to_owned(), vec!["arg0 == 0x1 && arg1 == 0x1".parse().unwrap()]);
    tightened.allow.remove("kill");
    tightened.limited.insert("kill".to_owned(), vec!["arg1 == 0x0".parse().unwrap()]);
    assert!(tightened.at_least_as_tight(&standard));
}

#[test]
fn every_way_to_loosen_paths_is_seen() {
    let standard = Landlock::standard();
    let looser = |change: &dyn Fn(&mut Landlock)| {
        let mut loosened = standard.clone();
        change(&mut loosened);
        assert!(!loosened.at_least_as_tight(&standard));
    };
    looser(&|profile| profile.scopes.clear());
    looser(&|profile| assert!(profile.rules[0].rights.insert(Right::Devices)));
    let rule = |path: &str| PathRule { path: path.to_owned(), rights: [Right::Devices].into() };
    looser(&|profile| profile.rules.push(rule("/device")));
    looser(&|profile| profile.rules.push(rule("/dev/../sys")));
    let mut tighter = standard.clone();
    tighter.tcp = TcpRule::Nothing;
    tighter.rules.push(rule("/dev/net"));
    assert!(tighter.at_least_as_tight(&standard));
    assert!(!standard.at_least_as_tight(&tighter));
    for path in ["relative", "/a/../b", "/a\0b", ""] {
        let refused = Landlock::standard().writable(&[path.to_owned()]);
        assert_eq!(refused, Err(ProfileError::Path(path.to_owned())));
    }
}

#[test]
fn what_a_start_needs_and_what_is_unknown_is_not_denied_and_nothing_changes() {
    let mut profile = Seccomp::standard();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(profile.deny(&names(&["kill", "execve"])), Err(ProfileError::Needed("kill".to_owned())));
    assert!(matches!(profile.deny(&names(&["splice", "splise"])), Err(ProfileError::UnknownSyscall { .. })));
    assert_eq!(profile, Seccomp::standard());
    profile.deny_family(Family::Inet);
    assert!(!profile.allows("socket", &[2, 1, 0, 0, 0, 0]) && profile.allows("socket", &[1, 1, 0, 0, 0, 0]));
    assert!(profile.limited["socket"].iter().all(|rule| !rule.checks().contains(&Check::Equal { arg: 0, value: 2 })));
}
