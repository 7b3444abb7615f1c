use std::process::Command;

use super::*;

/// Said of the copy of this test that is started with the secret.
const INSIDE: &str = "FORGET_INSIDE";
const SECRET: &str = "0123456789abcdef-a-secret-of-the-test";

#[test]
fn what_is_forgotten_is_not_shown_by_the_kernel_any_more_and_all_else_is() {
    if std::env::var_os(INSIDE).is_some() {
        let shown = || fs::read_to_string("/proc/self/environ").expect("the environment");
        let before = shown();
        assert!(before.contains(SECRET), "it was started with it");
        forget(SECRET.as_bytes()).expect("the kernel allows it");
        assert_eq!(shown(), before.replace(SECRET, &"*".repeat(SECRET.len())));
        return;
    }
    let program = std::env::current_exe().expect("this program");
    let name = std::thread::current().name().expect("a name").to_owned();
    let status = Command::new(program)
        .args(["--exact", &name])
        .env_clear()
        .envs([(INSIDE, "1"), ("FIRST", SECRET), ("SECOND", "kept"), ("THIRD", SECRET)])
        .status();
    assert!(status.expect("a status").success());
}

#[test]
fn the_place_is_found_behind_a_name_with_brackets_and_not_in_a_broken_line() {
    let fields: Vec<String> = (3..=52).map(|field| (field * 100).to_string()).collect();
    let line = format!("7 (a ) 1 (b) {}", fields.join(" "));
    assert_eq!(place(&line), Some((5000, 100)));
    for broken in ["", "7 (a) 1 2 3", "7 a", &line.replace(" 5100", " 4900"), &line.replace(" 5000", " x")] {
        assert_eq!(place(broken), None, "{broken}");
    }
}
