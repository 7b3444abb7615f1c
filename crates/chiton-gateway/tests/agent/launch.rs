//! An agent that is launched by standard input: what it is told arrives where it shall and is seen nowhere else.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Output, Stdio};

use chiton_agent_proto::launch::{LIMIT, LaunchDocument};
use chiton_confine::{Arch, Confinement, Landlock, Seccomp};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use super::sandbox::{ATTEMPT, Sandbox, TOKEN, binary, run, soon, start};

/// The value of `SECRET` in every document here.
const VALUE: &str = "the-value-that-only-programs-see";

fn line(confinement: Option<Confinement>) -> Vec<u8> {
    let env = [("SECRET", VALUE), ("GREETING", "of the document")].map(|(name, value)| (name.into(), value.into()));
    let document = LaunchDocument { env: BTreeMap::from(env), confinement, ..LaunchDocument::new(TOKEN, ATTEMPT) };
    document.encode().expect("a line").to_vec()
}

/// The agent's command with its standard input open and nothing secret in its environment.
fn command(sandbox: &Sandbox, main: &[&str]) -> Command {
    let mut command = sandbox.command(main);
    command
        .env("CHITON_AGENT_LAUNCH", "stdin")
        .env_remove("CHITON_AGENT_TOKEN")
        .env_remove("CHITON_AGENT_ATTEMPT")
        .stdin(Stdio::piped());
    command
}

/// Starts it and hands it the bytes; its standard input stays open.
async fn launched(command: &mut Command, bytes: &[u8]) -> (Child, ChildStdin) {
    let mut agent = command.spawn().expect("started");
    let mut stdin = agent.stdin.take().expect("a pipe");
    // An agent that refuses what it reads, or does not read it, may end before all is written.
    let _ = soon(stdin.write_all(bytes)).await;
    (agent, stdin)
}

/// Reads lines until the given one, which is left out.
async fn lines_until(last: &str, from: impl tokio::io::AsyncRead + Unpin) -> Vec<String> {
    let mut lines = BufReader::new(from).lines();
    let mut seen = Vec::new();
    loop {
        let line = soon(lines.next_line()).await.expect("read").expect("not the end");
        if line == last {
            return seen;
        }
        seen.push(line);
    }
}

#[tokio::test]
async fn programs_see_the_secret_variable_and_the_null_device_and_nobody_sees_the_token() {
    let sandbox = Sandbox::new();
    // The main program shows what the kernel shows of it, then stays.
    let show = "readlink /proc/self/fd/0; cat | wc -c; tr '\\0' '\\n' < /proc/$$/environ; echo shown";
    let mut command = command(&sandbox, &["sh", "-c", &format!("{show}; exec sleep 1000")]);
    let mut bytes = line(None);
    bytes.extend_from_slice(b"what is behind the line\n");
    let (mut agent, _open) = launched(command.stdout(Stdio::piped()), &bytes).await;
    sandbox.connected().await;
    let main = lines_until("shown", agent.stdout.take().expect("a pipe")).await;
    assert_eq!(main[..2], ["/dev/null", "0"]);
    let (exec, exit) = run(&mut sandbox.client(), start(&["sh", "-c", show])).await;
    assert_eq!(exit.code, 0);
    for seen in [main.join("\n"), exec.text()] {
        assert!(seen.contains(&format!("SECRET={VALUE}\n")), "{seen}");
        assert!(seen.contains("GREETING=of the document\n"), "it wins: {seen}");
        assert!(!seen.contains(TOKEN) && !seen.contains("CHITON_"), "{seen}");
    }

    let pid = agent.id().expect("it runs");
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children");
    let pids: Vec<_> = std::iter::once(pid.to_string()).chain(children.split_whitespace().map(str::to_owned)).collect();
    assert!(pids.len() > 1, "the main program runs");
    for pid in pids {
        for file in ["environ", "cmdline"] {
            // The agent's environment only root may read.
            let shown = match soon(shown_of(&format!("/proc/{pid}/{file}"))).await {
                Err(_) if !nix::unistd::geteuid().is_root() => continue,
                shown => String::from_utf8_lossy(&shown.expect("read")).into_owned(),
            };
            assert!(!shown.contains(TOKEN), "{pid} {file}");
        }
    }
    if nix::unistd::geteuid().is_root() {
        assert_eq!(fs::read_link(format!("/proc/{pid}/fd/0")).expect("a link"), Path::new("/dev/null"));
    }
    // By the agent, so that the main program ends too.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGTERM)
        .expect("told");
    assert_eq!(soon(agent.wait()).await.expect("ended").code(), Some(143));
}

/// What the kernel shows of a process. For a moment in the middle of its `execve` that is nothing.
async fn shown_of(path: &str) -> std::io::Result<Vec<u8>> {
    loop {
        let shown = fs::read(path)?;
        if !shown.is_empty() {
            return Ok(shown);
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_line_is_enough_and_nobody_holds_the_stream_after_it() {
    let sandbox = Sandbox::new();
    let (mut agent, mut open) = launched(&mut command(&sandbox, &[]), &line(None)).await;
    sandbox.connected().await;
    // Another test's child that has not executed its program yet has what this process had, for a moment.
    let broken = soon(async {
        loop {
            match open.write_all(b"more").await {
                Ok(()) => tokio::task::yield_now().await,
                Err(broken) => return broken,
            }
        }
    });
    assert_eq!(broken.await.kind(), std::io::ErrorKind::BrokenPipe, "nobody reads it");
    agent.kill().await.expect("killed");
}

#[tokio::test]
async fn a_confinement_in_the_line_holds_for_the_agent_and_its_programs() {
    let sandbox = Sandbox::new();
    let seccomp = Seccomp::standard().compile(Arch::current().expect("a known processor")).expect("compiled");
    let confinement = Confinement { seccomp, landlock: Landlock::standard() };
    let (mut agent, _open) = launched(&mut command(&sandbox, &[]), &line(Some(confinement))).await;
    sandbox.connected().await;
    let of_agent = fs::read_to_string(format!("/proc/{}/status", agent.id().expect("it runs"))).expect("a status");
    let (of_program, exit) = run(&mut sandbox.client(), start(&["cat", "/proc/self/status"])).await;
    assert_eq!(exit.code, 0);
    for status in [of_agent, of_program.text()] {
        assert!(status.lines().any(|line| line == "Seccomp:\t2"), "{status}");
    }
    agent.kill().await.expect("killed");
}

/// How an agent ends that is handed these bytes and then the end.
async fn ended(command: &mut Command, bytes: &[u8]) -> (Option<i32>, String) {
    let (agent, stdin) = launched(command.stdout(Stdio::piped()).stderr(Stdio::piped()), bytes).await;
    drop(stdin);
    let Output { status, stdout, stderr } = soon(agent.wait_with_output()).await.expect("ended");
    assert!(stdout.is_empty(), "nothing was started");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[tokio::test]
async fn what_is_no_launch_document_is_refused_and_not_repeated() {
    let whole = line(None);
    let with = |more: &str| format!(r#"{{"token":"{TOKEN}","attempt":"a-1",{more}}}"#).into_bytes();
    let lined = |mut bytes: Vec<u8>| {
        bytes.push(b'\n');
        bytes
    };
    let cases = [
        (Vec::new(), "ended after 0 bytes"),
        (whole[..whole.len() - 1].to_vec(), "before the end of the launch document's line"),
        (vec![b'x'; LIMIT + 1], "without a newline"),
        (lined(whole[..whole.len() / 2].to_vec()), "not one JSON object"),
        (lined(TOKEN.as_bytes().to_vec()), "not one JSON object"),
        (lined(with(&format!("\"{VALUE}\":1"))), "unknown key"),
        (lined(with(&format!("\"env\":[\"{VALUE}\"]"))), "wrong type"),
        (lined(with(&format!("\"env\":{{\"CHITON_X\":\"{VALUE}\"}}"))), "\"CHITON_X\""),
        (lined(with(&format!("\"confinement\":\"{VALUE}\""))), "wrong type"),
        (lined(format!("{{\"token\":\"{TOKEN}\"}}").into_bytes()), "has no \"attempt\""),
    ];
    for (bytes, why) in cases {
        let sandbox = Sandbox::new();
        let (code, said) = ended(&mut command(&sandbox, &["echo", "ran"]), &bytes).await;
        assert_eq!(code, Some(125), "{said}");
        assert!(said.contains(why), "{why}: {said}");
        assert!(!said.contains(TOKEN) && !said.contains(VALUE), "{said}");
    }
}

#[tokio::test]
async fn a_secret_in_the_environment_or_another_way_of_launching_is_refused() {
    for (name, value, why) in [
        ("CHITON_AGENT_TOKEN", TOKEN, "CHITON_AGENT_TOKEN is set although"),
        ("CHITON_AGENT_ATTEMPT", "", "CHITON_AGENT_ATTEMPT is set although"),
        ("CHITON_AGENT_CONFINEMENT", "{}", "CHITON_AGENT_CONFINEMENT is set although"),
        ("CHITON_AGENT_LAUNCH", "env", "the only value allowed is \"stdin\""),
    ] {
        let sandbox = Sandbox::new();
        let (code, said) = ended(command(&sandbox, &["echo", "ran"]).env(name, value), &line(None)).await;
        assert_eq!(code, Some(125), "{said}");
        assert!(said.contains(why) && !said.contains(TOKEN), "{said}");
    }
}

#[tokio::test]
async fn a_terminal_is_refused_because_it_repeats_what_it_is_given() {
    let sandbox = Sandbox::new();
    let pair = nix::pty::openpty(None, None).expect("a terminal");
    let mut command = command(&sandbox, &["true"]);
    let output = soon(command.stdin(pair.slave).output()).await.expect("ended");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("standard input is a terminal"), "{said}");
}

/// As a container engine runs it: process 1, an ordinary user, a root that nobody can write, the program at a place of the
/// driver's choice and not readable, the socket in a folder that cannot be listed.
#[tokio::test]
async fn as_a_container_runs_it_without_root_it_does_the_same() {
    if !nix::unistd::geteuid().is_root() {
        return println!("SKIPPED as_a_container_runs_it_without_root_it_does_the_same: it makes namespaces as root");
    }
    let sandbox = Sandbox::new();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    mode(sandbox.run.path(), 0o711);
    mode(sandbox.work.path(), 0o755);
    let program = sandbox.work.path().join("an agent");
    // By a process of its own: a descriptor that writes to it must not be in a child of another test when it is executed.
    let copied = soon(Command::new("cp").arg(binary()).arg(&program).status()).await;
    assert!(copied.expect("it ran").success());
    mode(&program, 0o711);
    let show = "id -u; echo $SECRET; readlink /proc/self/fd/0; touch /tmp/x /run/x 2>/dev/null || echo read-only; read x < /proc/1/comm; echo $x; exit 4";
    let inner = command(&sandbox, &["sh", "-c", show]);
    let mut outer = Command::new("unshare");
    outer.args(["--pid", "--fork", "--mount", "--mount-proc", "--kill-child", "sh", "-c"]);
    let root =
        "for m in / /tmp /run; do mount --bind $m $m && mount -o remount,bind,ro $m || exit 99; done; exec \"$@\"";
    outer.args([root, "sh", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
    outer.args(inner.as_std().get_args());
    outer.envs(inner.as_std().get_envs().filter_map(|(name, value)| Some((name, value?))));
    outer.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let (agent, _open) = launched(&mut outer, &line(None)).await;
    let output = soon(agent.wait_with_output()).await.expect("it ran");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text, format!("65534\n{VALUE}\n/dev/null\nread-only\nan agent\n"), "{said}");
}
