//! The agent as init: main program, signals, orphans.

use std::process::Stdio;

use chiton_proto::agent::v1::HealthRequest;
use chiton_proto::agent::v1::exec_input::Input;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt as _;
use tokio::process::Child;

use super::sandbox::{Call, Sandbox, ready, run, soon, start};

fn signal(agent: &Child, signal: Signal) {
    let pid = i32::try_from(agent.id().expect("it runs")).expect("a process id");
    kill(Pid::from_raw(pid), signal).expect("signalled");
}

#[tokio::test]
async fn the_main_program_decides_output_and_exit_code() {
    let sandbox = Sandbox::new();
    let mut agent = sandbox.command(&["sh", "-c", "echo $GREETING; env | grep -c CHITON; pwd >&2; exit 7"]);
    let output = soon(agent.stdout(Stdio::piped()).stderr(Stdio::piped()).output()).await.expect("it ran");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\n0\n");
    let folder = sandbox.work.path().canonicalize().expect("there");
    assert_eq!(String::from_utf8_lossy(&output.stderr), format!("{}\n", folder.display()));
    assert_eq!(output.status.code(), Some(7));
}

#[tokio::test]
async fn a_signal_that_ends_the_main_program_is_in_the_exit_code() {
    let sandbox = Sandbox::new();
    let mut agent = sandbox.command(&["sh", "-c", "kill -9 $$"]).spawn().expect("started");
    assert_eq!(soon(agent.wait()).await.expect("it ended").code(), Some(137));
    let mut agent = sandbox.command(&["no-such-program"]).stderr(Stdio::null()).spawn().expect("started");
    assert_eq!(soon(agent.wait()).await.expect("it ended").code(), Some(127));
}

#[tokio::test]
async fn the_main_program_waits_for_a_gateway() {
    let sandbox = Sandbox::new();
    sandbox.sessions.forget(&sandbox.id);
    assert!(!sandbox.run.path().join("agent.sock").exists());
    let mut agent = sandbox.command(&["sh", "-c", "echo ran"]);
    let mut agent = agent.stdout(Stdio::piped()).spawn().expect("started");
    let mut stdout = agent.stdout.take().expect("a pipe");
    // Ended while nobody answered: had the program started, its word would be there.
    signal(&agent, Signal::SIGCONT);
    sandbox.sessions.listen(&sandbox.id, sandbox.run.path()).expect("bound");
    sandbox.connected().await;
    let mut text = String::new();
    soon(stdout.read_to_string(&mut text)).await.expect("read");
    assert_eq!(text, "ran\n");
    assert!(soon(agent.wait()).await.expect("it ended").success());
}

#[tokio::test]
async fn without_a_gateway_nothing_runs_and_term_ends_it() {
    let sandbox = Sandbox::new();
    sandbox.sessions.forget(&sandbox.id);
    let mut agent = sandbox.command(&["sh", "-c", "echo ran"]);
    let mut agent = agent.stdout(Stdio::piped()).spawn().expect("started");
    caught(&agent, Signal::SIGTERM).await;
    signal(&agent, Signal::SIGTERM);
    let mut text = String::new();
    soon(agent.stdout.take().expect("a pipe").read_to_string(&mut text)).await.expect("read");
    assert_eq!(text, "");
    assert_eq!(soon(agent.wait()).await.expect("it ended").code(), Some(143));
}

/// Resolves when the agent has a handler for the signal: before that it would die of it.
async fn caught(agent: &Child, signal: Signal) {
    let path = format!("/proc/{}/status", agent.id().expect("it runs"));
    soon(async {
        loop {
            let status = std::fs::read_to_string(&path).expect("its status");
            let line = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a mask").trim();
            if u64::from_str_radix(line, 16).expect("a mask") & (1 << (signal as i32 - 1)) != 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn signals_are_handed_to_the_main_program() {
    let sandbox = Sandbox::new();
    let script = "trap 'echo term; exit 9' TERM; echo up; while :; do sleep 0.02; done";
    let mut agent = sandbox.command(&["sh", "-c", script]).stdout(Stdio::piped()).spawn().expect("started");
    let mut stdout = agent.stdout.take().expect("a pipe");
    let mut up = [0; 3];
    soon(stdout.read_exact(&mut up)).await.expect("it is up");
    signal(&agent, Signal::SIGTERM);
    let mut text = String::new();
    soon(stdout.read_to_string(&mut text)).await.expect("read");
    assert_eq!(text, "term\n");
    assert_eq!(soon(agent.wait()).await.expect("it ended").code(), Some(9));
}

#[tokio::test]
async fn without_a_main_program_term_ends_it_with_zero_and_its_programs_too() {
    let (sandbox, mut agent) = ready().await;
    let mut client = sandbox.client();
    let mut call = Call::begin(&mut client, start(&["sleep", "1000"])).await.expect("accepted");
    call.started().await;
    signal(&agent, Signal::SIGTERM);
    // The farewell: the caller hears how its program ended before the connection closes.
    let exit = call.end().await;
    assert_eq!((exit.code, exit.signal), (137, 9));
    assert_eq!(soon(agent.wait()).await.expect("it ended").code(), Some(0));
}

#[tokio::test]
async fn orphans_are_reaped_and_exit_codes_stay_with_their_programs() {
    let (sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    let before = client.health(HealthRequest {}).await.expect("health").into_inner().reaped;
    // Each leaves five orphans that end at once, in sessions of their own.
    let script = "for i in 1 2 3 4 5; do setsid sh -c 'sh -c : & exit 0'; (sh -c 'exit 1' &) ; done; exit $CODE";
    let calls = (0..20).map(|code| {
        let mut client = client.clone();
        let mut begin = start(&["sh", "-c", script]);
        begin.env.insert("CODE".into(), code.to_string());
        async move { (code, run(&mut client, begin).await.1.code) }
    });
    for (wanted, code) in futures::future::join_all(calls).await {
        assert_eq!(code, wanted);
    }
    let all_reaped = async {
        // 20 programs and, of each, at least five orphans.
        while client.health(HealthRequest {}).await.expect("health").into_inner().reaped < before + 20 + 100 {
            tokio::task::yield_now().await;
        }
    };
    soon(all_reaped).await;
}

#[tokio::test]
async fn as_process_one_of_a_namespace_it_does_the_same() {
    let sandbox = Sandbox::new();
    let inner = sandbox.command(&["sh", "-c", "(sh -c 'sh -c : &' &); read x < /proc/1/comm; echo $$ $x; exit 4"]);
    let mut outer = tokio::process::Command::new("unshare");
    outer.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]);
    outer.arg(inner.as_std().get_program()).args(inner.as_std().get_args());
    outer.envs(inner.as_std().get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = soon(outer.kill_on_drop(true).output()).await.expect("it ran");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.trim_end().ends_with("chiton-agent"), "{text} {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(4));
}

#[tokio::test]
async fn programs_of_the_same_user_cannot_read_the_token() {
    let (sandbox, agent) = ready().await;
    let pid = agent.id().expect("it runs");
    let script = format!("grep -q TOKEN /proc/{pid}/environ 2>/dev/null; echo $?; stat -c %u /proc/{pid}/environ");
    let mut begin = start(&["sh", "-c", &script]);
    begin.workdir = "/".into();
    let (call, _) = run(&mut sandbox.client(), begin).await;
    // Root reads everything; for others the kernel gives the file to root and refuses.
    let readable = call.text().starts_with("0\n");
    assert_eq!(readable, nix::unistd::geteuid().is_root());
    assert!(call.text().ends_with("0\n"));
}

#[tokio::test]
async fn a_start_without_its_variables_says_which() {
    let sandbox = Sandbox::new();
    let output = soon(sandbox.command(&[]).env_remove("CHITON_AGENT_TOKEN").output()).await.expect("it ran");
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("CHITON_AGENT_TOKEN"));
    assert!(!String::from_utf8_lossy(&output.stderr).contains(super::sandbox::TOKEN));
}

#[tokio::test]
async fn an_exec_outlives_its_inputs() {
    let (sandbox, _agent) = ready().await;
    let mut client = sandbox.client();
    let mut call = Call::begin(&mut client, start(&["sh", "-c", "cat; echo done"])).await.expect("accepted");
    call.stdin(b"in\n").await;
    call.send(Input::StdinEnd(true)).await;
    call.input = tokio::sync::mpsc::channel(1).0;
    assert_eq!(call.end().await.code, 0);
    assert_eq!(call.text(), "in\ndone\n");
}
