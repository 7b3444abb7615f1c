//! The truth behind `Fence` and behind an orderly end, for a hook that stays where it is as long as the test wants: it reads
//! a lease that is a pipe.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use chiton_extension_process::local::Beside;
use chiton_extension_process::proto::extension_client::ExtensionClient;
use chiton_extension_process::proto::{
    ConfigureExtensionRequest, DescribeExtensionRequest, FenceRequest, FenceResponse, HookSubject, OperationFence,
    RunHookInput, RunHookOutput, RunStart, SandboxView, StepId, fence_request, hook_subject, run_hook_input,
    run_hook_output, run_result,
};
use chiton_socket::{Dial, own_and_root};
use futures::poll;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use super::start;

const NAME: &str = "python-tickets";

/// No test waits longer for anything.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(1), what).await.expect("it happens in time")
}

struct Rig {
    beside: Arc<Beside>,
    client: ExtensionClient<Channel>,
    /// With leases that never wait.
    plain: (tempfile::TempDir, String),
    /// Whose first lease is a pipe.
    pipe: (tempfile::TempDir, String),
}

impl Rig {
    async fn new() -> Option<Self> {
        let beside = tokio::task::spawn_blocking(start).await.expect("started")?;
        let dial = Dial {
            what: "extension".to_owned(),
            path: beside.socket(),
            peers: own_and_root(),
            limit: Duration::from_mins(1),
        };
        let (channel, _) = dial.channel(Endpoint::from_static("http://localhost")).await.expect("a connection");
        let mut client = ExtensionClient::new(channel);
        let plain = configured(&mut client, "1").await;
        let pipe = configured(&mut client, "2").await;
        let made = Command::new("mkfifo").arg(pipe.0.path().join("1")).status().expect("mkfifo");
        assert!(made.success());
        Some(Self { beside, client, plain, pipe })
    }

    fn run(&self, call: &Call) -> JoinHandle<Result<Streaming<RunHookOutput>, Status>> {
        let (mut client, input) = (self.client.clone(), call.input(self));
        tokio::spawn(async move {
            let inputs = futures::StreamExt::chain(futures::stream::iter([input]), futures::stream::pending());
            client.run(inputs).await.map(tonic::Response::into_inner)
        })
    }

    fn fence(&self, what: fence_request::What) -> JoinHandle<Result<FenceResponse, Status>> {
        let mut client = self.client.clone();
        let request = FenceRequest { what: Some(what) };
        tokio::spawn(async move { client.fence(request).await.map(tonic::Response::into_inner) })
    }

    /// More than once: what a task was told to send goes out with one of the next.
    async fn there_and_back(&self) {
        for _ in 0..20 {
            let question = DescribeExtensionRequest { name: NAME.to_owned(), contract_version: 1 };
            soon(self.client.clone().describe(question)).await.expect("it answers");
        }
    }

    /// What the process answers a step with, at its end.
    async fn ended(&self, call: &Call) -> Result<run_result::Outcome, Status> {
        outcome(soon(self.run(call)).await.expect("no panic")?).await
    }

    /// The other end of the pipe, once a hook has come to it.
    async fn reached(&self) -> File {
        let path: PathBuf = self.pipe.0.path().join("1");
        let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("a flag");
        soon(async {
            loop {
                // Nobody reads yet.
                match OpenOptions::new().write(true).custom_flags(nonblocking).open(&path) {
                    Ok(end) => return end,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        })
        .await
    }
}

async fn configured(client: &mut ExtensionClient<Channel>, digest: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let document = json!({ "folder": folder.path(), "count": 2, "label": "x" });
    let request = ConfigureExtensionRequest {
        name: NAME.to_owned(),
        digest: format!("sha256:{digest}"),
        document_json: document.to_string(),
        dry_run: false,
    };
    let made = client.configure(request).await.expect("an instance").into_inner();
    assert!(made.issues.is_empty(), "{made:?}");
    (folder, made.instance_id)
}

async fn outcome(mut output: Streaming<RunHookOutput>) -> Result<run_result::Outcome, Status> {
    match soon(output.message()).await?.and_then(|message| message.output) {
        Some(run_hook_output::Output::Result(result)) => Ok(result.outcome.expect("an outcome")),
        other => panic!("{other:?} is no result"),
    }
}

/// One attempt of a step.
#[derive(Clone)]
struct Call {
    run: &'static str,
    number: u64,
    phase: &'static str,
    sandbox: &'static str,
    waits: bool,
}

impl Call {
    fn step(&self) -> StepId {
        StepId {
            gateway_run: self.run.to_owned(),
            call: self.number,
            operation: format!("o-{}", self.sandbox),
            phase: self.phase.to_owned(),
            extension: NAME.to_owned(),
            attempt: 1,
        }
    }

    fn input(&self, rig: &Rig) -> RunHookInput {
        let instance = if self.waits { &rig.pipe.1 } else { &rig.plain.1 };
        let subject = HookSubject { subject: Some(hook_subject::Subject::Sandbox(self.sandbox.to_owned())) };
        let start = RunStart {
            instance_id: instance.clone(),
            step: Some(self.step()),
            subject: Some(subject),
            time_left_ms: 30_000,
            sandbox: Some(SandboxView { id: self.sandbox.to_owned(), ..SandboxView::default() }),
            ..RunStart::default()
        };
        RunHookInput { input: Some(run_hook_input::Input::Start(start)) }
    }
}

const WAITING: Call = Call { run: "g-1", number: 1, phase: "before_create", sandbox: "s-1", waits: true };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_is_answered_when_nothing_runs_any_more_and_not_before() {
    let Some(rig) = Rig::new().await else { return };
    let running = rig.run(&WAITING);
    let pipe = rig.reached().await;
    let mut of_step = rig.fence(fence_request::What::Step(WAITING.step()));
    let other = OperationFence {
        operation: WAITING.step().operation,
        extension: NAME.to_owned(),
        gateway_run: "g-2".to_owned(),
    };
    let mut of_operation = rig.fence(fence_request::What::Operation(other.clone()));
    // Of what never ran it is answered at once, and that does not begin any more.
    let never = Call { number: 9, sandbox: "s-9", waits: false, ..WAITING };
    soon(rig.fence(fence_request::What::Step(never.step()))).await.expect("no panic").expect("nothing runs");
    assert_eq!(rig.ended(&never).await.expect_err("fenced off").code(), Code::FailedPrecondition);
    // The gateway gives the step up; the hook goes on, and so do the fences' waits.
    running.abort();
    let later = Call { number: 2, sandbox: "s-2", waits: false, ..WAITING };
    assert!(matches!(rig.ended(&later).await, Ok(run_result::Outcome::Slots(_))), "others work meanwhile");
    assert!(poll!(&mut of_step).is_pending() && poll!(&mut of_operation).is_pending(), "the hook runs on");
    drop(pipe);
    for fence in [of_step, of_operation] {
        soon(fence).await.expect("no panic").expect("over");
    }
    // What another life of the gateway began of it does not begin any more either; what the new one begins does.
    let late = Call { number: 3, waits: false, ..WAITING };
    assert_eq!(rig.ended(&late).await.expect_err("of the old life").code(), Code::FailedPrecondition);
    let new = Call { run: "g-2", number: 1, phase: "after_delete", waits: false, ..WAITING };
    assert!(matches!(rig.ended(&new).await, Ok(run_result::Outcome::Done(_))));
}

// On one thread, so that tasks have their turns one after another: the task that tells of the cancellation has had its
// own long before the last of the questions behind it is answered.
#[tokio::test]
async fn a_step_that_was_given_up_while_it_waited_for_its_turn_never_begins() {
    let Some(rig) = Rig::new().await else { return };
    let running = rig.run(&WAITING);
    let pipe = rig.reached().await;
    // Another life of the gateway, the same sandbox: it comes to the same pipe when its turn comes.
    let second = Call { run: "g-2", number: 1, phase: "after_delete", ..WAITING };
    let waiting = rig.run(&second);
    // Behind it, and then behind its cancellation, on the same connection, which the process hears in its order.
    rig.there_and_back().await;
    waiting.abort();
    drop(waiting.await);
    rig.there_and_back().await;
    drop(pipe);
    let first = outcome(soon(running).await.expect("no panic").expect("begun")).await;
    assert!(matches!(first, Ok(run_result::Outcome::Slots(_))), "{first:?}");
    soon(rig.fence(fence_request::What::Step(second.step()))).await.expect("no panic").expect("it never began");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_told_to_end_finishes_what_runs_and_begins_nothing() {
    let Some(rig) = Rig::new().await else { return };
    let running = rig.run(&WAITING);
    let pipe = rig.reached().await;
    let id = i32::try_from(rig.beside.id()).ok().and_then(Pid::from_raw).expect("an id");
    kill_process(id, Signal::TERM).expect("a signal");
    let refused = soon(async {
        for number in 100.. {
            let next = Call { number, sandbox: "s-3", phase: "after_delete", waits: false, ..WAITING };
            if let Err(status) = rig.ended(&next).await {
                return status;
            }
        }
        unreachable!("it is asked until it refuses")
    })
    .await;
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let mut fence = rig.fence(fence_request::What::Step(WAITING.step()));
    let nothing = StepId { call: 77, ..WAITING.step() };
    soon(rig.fence(fence_request::What::Step(nothing))).await.expect("no panic").expect("fences are still answered");
    assert!(poll!(&mut fence).is_pending(), "the hook runs on");
    drop(pipe);
    let first = outcome(soon(running).await.expect("no panic").expect("begun")).await;
    assert!(matches!(first, Ok(run_result::Outcome::Slots(_))), "{first:?}");
    soon(fence).await.expect("no panic").expect("over");
}
