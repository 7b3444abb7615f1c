//! A program as one line for a shell.
//!
//! SSH carries a command as a single string, and the server in the sandbox hands it to a login shell. So an argument vector
//! has to be written as shell text, and some things that our agent does by itself are done by that shell: the working
//! folder, the environment (the server takes `env` requests and ignores them), a process group of its own, and telling the
//! program's process id, which signals need later.
//!
//! What profiles of the login shell write comes first; a line with a random mark separates it from the program's output,
//! on both streams.

use std::fmt::Write as _;

use chiton_proto::agent::v1::ExecStart;
use tonic::Status;

/// The longest line: one argument of a program may have 128 KiB with its end (`MAX_ARG_STRLEN`, execve(2)).
pub(crate) const LONGEST: usize = 128 * 1024 - 1;

/// What the program runs through. Its arguments: the mark, the working folder or nothing, the process group or nothing,
/// then the program's own. It sets no variable, because the program's environment is the caller's.
const RUN: &str = r#"[ -z "$2" ] || cd -- "$2" || { printf '%s folder\n' "$1"; exit 126; }
command -v "$4" >/dev/null 2>&1 || { printf '%s missing\n' "$1"; exit 127; }
[ -n "$3" ] || printf '%s\n' "$1" >&2
printf '%s %s %s\n' "$1" "$$" "${3:-$$}"
shift 3
exec "$@""#;

/// Writes a text as one word of a POSIX shell: in single quotes, in which every byte but the quote itself stands for
/// itself (POSIX 2.2.2); a quote ends them, stands escaped, and begins them again.
#[must_use]
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The line that runs a program and announces it by `mark`.
///
/// # Errors
/// `INVALID_ARGUMENT` for what no shell can carry, `RESOURCE_EXHAUSTED` for what is too long.
pub(crate) fn run(start: &ExecStart, mark: &str) -> Result<String, Status> {
    check(start)?;
    let mut line = format!("set -- {} sh {mark} {} ", quote(RUN), quote(&start.workdir));
    // On a terminal the shell leads the group of all that it starts; otherwise the program gets one of its own, so that
    // signals reach it and not the supervisor.
    line.push_str(if start.terminal.is_some() { "\"$$\"" } else { "''" });
    for argument in &start.argv {
        line.push(' ');
        line.push_str(&quote(argument));
    }
    let mut program = String::new();
    if !start.env.is_empty() {
        program.push_str("env");
        for (name, value) in &start.env {
            // Infallible: writing to a string.
            let _ = write!(program, " {}", quote(&format!("{name}={value}")));
        }
        program.push(' ');
    }
    program.push_str("/bin/sh -c \"$@\" 2>&3 3>&-");
    // A shell tells on its standard error that a signal ended its child, which is nothing the program wrote.
    line.push_str("; exec 3>&2 2>/dev/null; ");
    if start.terminal.is_some() {
        // The shell stays to tell how the program ended: signals to the group must not end it first. What is trapped is as
        // it was for the program.
        let _ = write!(line, "trap : HUP INT QUIT TERM; {program}");
    } else {
        let _ = write!(line, "if command -v setsid >/dev/null; then setsid {program}; else {program}; fi");
    }
    // What a login shell says when it goes is not the program's output either.
    line.push_str("; set -- $?; exec >/dev/null; exit \"$1\"");
    if line.len() > LONGEST {
        let text = format!(
            "program, arguments and environment have {} bytes as a line of a shell, and this sandbox's supervisor takes \
             {LONGEST}; put the data in a file, or send it to the program's standard input",
            line.len()
        );
        return Err(Status::resource_exhausted(text));
    }
    Ok(line)
}

/// The line that sends signals to a program: to its group, or to it alone where it has none of its own.
pub(crate) fn signals(signals: &[i32], process: i32, group: i32) -> String {
    let kill = |signal: &i32| format!("kill -{signal} -- -{group} 2>/dev/null || kill -{signal} {process}");
    signals.iter().map(kill).collect::<Vec<_>>().join("; ")
}

fn check(start: &ExecStart) -> Result<(), Status> {
    let wrong = |text: String| Err(Status::invalid_argument(text));
    if start.argv.first().is_none_or(String::is_empty) {
        return wrong("there is no program to run".to_owned());
    }
    let texts = start.argv.iter().chain(start.env.values()).chain([&start.workdir]);
    if let Some(text) = texts.into_iter().find(|text| text.contains('\0')) {
        return wrong(format!("{text:?} holds a zero byte; nothing that starts programs can pass it"));
    }
    // Shells drop others on the way (POSIX 8.1).
    let plain = |name: &str| {
        !name.starts_with(|first: char| first.is_ascii_digit())
            && !name.is_empty()
            && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    };
    if let Some(name) = start.env.keys().find(|name| !plain(name)) {
        return wrong(format!(
            "{name:?} is no name of a variable that this sandbox's shell hands on; use letters, digits and _, \
             or set it by the program env"
        ));
    }
    if !start.workdir.is_empty() && !start.workdir.starts_with('/') {
        return wrong(format!("the working folder {:?} is not an absolute path", start.workdir));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
