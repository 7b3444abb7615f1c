//! The terminal that a caller lends to a program in a sandbox.

use super::{PROGRAM, Scene};
use crate::harness::terminal::Terminal;
use crate::harness::user::By;

fn nothing_can_be_typed_into_the_callers_terminal(by: By) {
    let scene = Scene::new(by);
    let tries = format!("{PROGRAM} tiocsti=touch_attacked tioclinux; stty -echo; tty; echo end");
    let command = scene.gateway.plain_command(&["sandbox", "exec", "-it", "box", "--", "sh", "-c", &tries]);
    // A shell of the caller's own comes after it, and would read what was typed.
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy().replace('\'', "'\\''")))
        .collect();
    let script = format!(
        "{}; if IFS= read -r -t 1 line; then echo heard \"$line\"; else echo heard nothing; fi",
        words.join(" ")
    );
    let mut bash = std::process::Command::new("bash");
    bash.args(["-c", &script]);
    for (name, value) in command.get_envs() {
        bash.env(name, value.unwrap_or_default());
    }
    if let Some(folder) = command.get_current_dir() {
        bash.current_dir(folder);
    }
    let terminal = Terminal::run(bash, 40, 100);
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("heard nothing"), "the caller's shell was typed to: {shown}");
    assert!(shown.contains("/dev/pts/0"), "the program has a terminal of the sandbox's own: {shown}");
    for attack in ["tiocsti=touch_attacked", "tioclinux"] {
        assert!(shown.contains(&format!("{attack} refused")), "{shown}");
    }
    scene.unharmed();
}

by_both!(nothing_can_be_typed_into_the_callers_terminal,);
