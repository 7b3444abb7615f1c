use chiton_confine::{Arch, Check, Landlock, ProfileError, Seccomp, known_syscall, why_refused};
use serde_json::{Value, json};

#[test]
fn the_standard_profile_is_sound_on_both_processors() {
    let standard = Seccomp::standard();
    standard.check().unwrap();
    Landlock::standard().check().unwrap();
    for arch in [Arch::X86_64, Arch::Aarch64] {
        let program = standard.compile(arch).unwrap();
        assert!((200..600).contains(&program.instructions()), "{} instructions", program.instructions());
        assert_eq!(serde_json::from_value::<chiton_confine::Program>(json!(program)).unwrap(), program);
    }
    assert_eq!(standard.limited["socket"].len(), 12);
    assert_eq!((Arch::X86_64.syscall("open"), Arch::Aarch64.syscall("open")), (Some(2), None));
    assert_eq!((Arch::X86_64.syscall("clone3"), Arch::Aarch64.syscall("clone3")), (Some(435), Some(435)));
}

#[test]
fn what_is_refused_has_a_reason_and_what_is_allowed_has_none() {
    let standard = Seccomp::standard();
    for name in ["mount", "bpf", "ptrace", "keyctl", "setns", "io_uring_setup", "open_by_handle_at", "clone3"] {
        assert!(why_refused(name).is_some(), "{name}");
        assert!(!standard.allows(name, &[0; 6]), "{name}");
    }
    for name in standard.allow.iter().chain(standard.limited.keys()) {
        assert_eq!(why_refused(name), None, "{name}");
    }
}

#[test]
fn a_profile_is_read_strictly() {
    let standard = json!(Seccomp::standard());
    let read = |change: &dyn Fn(&mut Value)| {
        let mut changed = standard.clone();
        change(&mut changed);
        serde_json::from_value::<Seccomp>(changed).map_err(|error| error.to_string())
    };
    assert_eq!(read(&|_| {}).unwrap(), Seccomp::standard());
    assert!(read(&|profile| profile["more"] = json!(1)).unwrap_err().contains("unknown field"));
    assert!(read(&|profile| profile["default"] = json!("ALLOW")).unwrap_err().contains("unknown variant"));
    for text in ["", "arg6 == 0x0", "arg0 == 1", "arg0 == 0x01", "arg0 = 0x1", "arg0 & 0x1 == 0x2", "arg0 == 0x1 &&"] {
        let error = read(&|profile| profile["limited"]["clone"] = json!([text])).unwrap_err();
        assert!(error.contains("is not a condition on arguments"), "{text:?}: {error}");
    }
    let mut twice = Seccomp::standard();
    twice.allow.insert("clone3".to_owned());
    assert_eq!(twice.check(), Err(ProfileError::Twice("clone3".to_owned())));
    let mut free = Seccomp::standard();
    free.limited.insert("ptrace".to_owned(), Vec::new());
    assert_eq!(free.check(), Err(ProfileError::NoAlternative("ptrace".to_owned())));
    let text = json!(Landlock::standard()).to_string();
    assert!(serde_json::from_str::<Landlock>(&text.replace("\"required\"", "\"wanted\"")).is_err());
}

#[test]
fn an_unknown_name_is_refused_with_the_nearest_known_one() {
    let error = known_syscall("ptrce").unwrap_err();
    assert_eq!(
        (error.to_string(), error.cure()),
        ("\"ptrce\" is not a system call that this version knows".to_owned(), "did you mean \"ptrace\"?".to_owned(),)
    );
    assert_eq!(
        known_syscall("unrelated-word").unwrap_err().cure(),
        "use the kernel's name, as in section 2 of the manual"
    );
}

#[test]
fn conditions_are_written_as_they_are_read() {
    let all = [
        Check::Equal { arg: 0, value: 2 },
        Check::Differs { arg: 1, value: 0x5412 },
        Check::Masked { arg: 5, mask: 0xf000, value: 0x1000 },
    ];
    for check in all {
        assert_eq!(check.to_string().parse::<Check>().unwrap(), check);
    }
    // The kernel ignores the upper half of such an argument, so it must not hide a value.
    assert!(!all[1].holds(&[0, 0xffff_ffff_0000_5412, 0, 0, 0, 0]));
}
