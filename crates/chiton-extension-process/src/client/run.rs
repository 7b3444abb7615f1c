//! One attempt of a step, from this side: the call, what it saves, its cancellation, its answer.

use std::pin::pin;
use std::sync::Arc;

use chiton_driver::Capabilities;
use chiton_lifecycle::extension::{Fence, HookContext, HookCore, StepError, StepResult, WorkspaceContext};
use chiton_lifecycle::journal::{ExtensionState, Subject};
use futures::future::{Either, select};
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::extension::{RemoteExtension, Unanswered, status_error};
use super::link::{Link, told};
use crate::proto::run_hook_input::Input;
use crate::proto::run_hook_output::Output;
use crate::proto::run_result::Outcome;
use crate::proto::{
    RunArguments, RunCancel, RunHookInput, RunHookOutput, RunSaved, RunStart, RunStates, SandboxView, StepId,
    SubjectState,
};
use crate::wire;

/// A step that was sent: where to, and by what name the process is asked whether it is over.
#[derive(Clone)]
pub(super) struct Begun {
    pub(super) link: Arc<Link>,
    pub(super) id: StepId,
}

/// An answer that does not belong to the phase.
pub(super) fn wrong_answer(outcome: &Outcome) -> StepError {
    let what = match outcome {
        Outcome::Done(_) => "done",
        Outcome::Failure(_) => "a failure",
        Outcome::Veto(_) => "a veto",
        Outcome::Slots(_) => "slots",
        Outcome::Reconcile(_) => "a reconcile's outcome",
    };
    StepError::fatal(format!("its process answered with {what}, which is no answer in this phase"))
}

/// How the conversation about a step ended.
enum Ended {
    Answered(Outcome),
    /// The process says that the step never began.
    Refused(Status),
    /// Nobody knows whether anything of it still runs.
    Lost(Status),
}

impl RemoteExtension {
    pub(super) async fn about_sandbox(&self, cx: &HookContext, arguments: RunArguments) -> StepResult<Outcome> {
        self.step(cx, Some(wire::sandbox_view(cx)), &cx.driver, arguments).await
    }

    pub(super) async fn about_workspace(&self, cx: &WorkspaceContext, arguments: RunArguments) -> StepResult {
        match self.step(cx, None, &cx.driver, arguments).await? {
            Outcome::Done(_) => Ok(()),
            other => Err(wrong_answer(&other)),
        }
    }

    async fn step(
        &self,
        core: &HookCore,
        sandbox: Option<SandboxView>,
        driver: &Capabilities,
        arguments: RunArguments,
    ) -> StepResult<Outcome> {
        let step = core.step();
        let id = StepId {
            gateway_run: self.instance.run.clone(),
            call: step.call,
            operation: step.operation.to_string(),
            phase: step.phase.to_string(),
            extension: step.extension.to_string(),
            attempt: step.attempt,
        };
        let state = core.stored_state().map(|state| wire::saved_state(&state));
        let mut start = RunStart {
            instance_id: String::new(),
            step: Some(id.clone()),
            subject: Some(wire::subject(core.subject())),
            time_left_ms: wire::millis(core.time_left()),
            may_repair: core.may_repair(),
            state,
            arguments: Some(arguments),
            sandbox,
            driver_json: wire::driver_json(driver),
        };
        let unanswered = Unanswered::new(&self.process.shared);
        let mut known_again = false;
        let ended = loop {
            let (link, instance) = match self.reach().await {
                Ok(reached) => reached,
                Err(error) => {
                    unanswered.answered();
                    self.instance.begun.lock().remove(&step.call);
                    return Err(error);
                }
            };
            start.instance_id = instance;
            self.instance.begun.lock().insert(step.call, Begun { link: Arc::clone(&link), id: id.clone() });
            let ended = converse(core, &link, start.clone()).await;
            if matches!(&ended, Ended::Refused(status) if status.code() == Code::NotFound && !known_again) {
                // Its process began anew behind the same connection, or forgot it.
                link.forget(&self.instance);
                known_again = true;
                continue;
            }
            break ended;
        };
        if let Ended::Lost(_) = &ended {
            // Over only when its process says so, or is gone; until then this hook goes on.
            self.fenced(Fence::Step(step.clone())).await;
        }
        unanswered.answered();
        self.instance.begun.lock().remove(&step.call);
        match ended {
            Ended::Answered(Outcome::Failure(failure)) => Err(wire::read_failure(&failure)),
            Ended::Answered(outcome) => Ok(outcome),
            Ended::Refused(status) => Err(status_error(&status)),
            Ended::Lost(status) => Err(match status.code() {
                Code::InvalidArgument | Code::Internal | Code::Unimplemented => {
                    StepError::fatal(format!("its process broke the step off: {}", told(&status)))
                }
                _ => StepError::retryable(format!("its process was lost while the step ran: {}", told(&status))),
            }),
        }
    }
}

async fn converse(core: &HookCore, link: &Link, start: RunStart) -> Ended {
    let (say, said) = channel(4);
    // There is room for the first.
    drop(say.try_send(RunHookInput { input: Some(Input::Start(start)) }));
    let mut client = link.client.clone();
    let mut cancelled = false;
    // A process may answer with its first word only: until then it is to hear of a cancellation, too.
    let mut asked = pin!(client.run(ReceiverStream::new(said)));
    let answered = loop {
        if let Some(answered) = unless_cancelled(core, cancelled, asked.as_mut()).await {
            break answered;
        }
        cancelled = true;
        cancel(&say);
    };
    let mut answers = match answered {
        Ok(answers) => answers.into_inner(),
        Err(status) => {
            return match status.code() {
                // By the contract nothing began.
                Code::NotFound | Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented => {
                    Ended::Refused(status)
                }
                _ => Ended::Lost(status),
            };
        }
    };
    loop {
        let Some(said) = unless_cancelled(core, cancelled, answers.message()).await else {
            cancelled = true;
            cancel(&say);
            continue;
        };
        let output = match said {
            Ok(Some(RunHookOutput { output })) => output,
            Ok(None) => return Ended::Lost(Status::internal("it ended the conversation without a result")),
            Err(status) => return Ended::Lost(status),
        };
        match output {
            Some(Output::Result(result)) => {
                return match result.outcome {
                    Some(outcome) => Ended::Answered(outcome),
                    None => Ended::Lost(Status::internal("it answered with a result that is not known")),
                };
            }
            Some(Output::Save(asked)) => {
                let saved = save(core, &asked.payload_json, asked.durable).await;
                let error = saved.err().unwrap_or_default();
                tell(&say, Input::Saved(RunSaved { ask: asked.ask, error })).await;
            }
            Some(Output::ListStates(asked)) => {
                let (states, error) = match list(core).await {
                    Ok(states) => (states, String::new()),
                    Err(error) => (Vec::new(), error),
                };
                tell(&say, Input::States(RunStates { ask: asked.ask, error, states })).await;
            }
            // Something newer than this version.
            None => {}
        }
    }
}

/// What comes; none when the hook is cancelled first.
async fn unless_cancelled<T>(core: &HookCore, cancelled: bool, coming: impl Future<Output = T>) -> Option<T> {
    if cancelled {
        return Some(coming.await);
    }
    match select(pin!(coming), pin!(core.cancel().cancelled())).await {
        Either::Left((came, _)) => Some(came),
        Either::Right(_) => None,
    }
}

/// Tells the process to end the step. There is room: it is told once.
fn cancel(say: &Sender<RunHookInput>) {
    drop(say.try_send(RunHookInput { input: Some(Input::Cancel(RunCancel {})) }));
}

async fn tell(say: &Sender<RunHookInput>, input: Input) {
    // When the other side is gone, the next message says so.
    drop(say.send(RunHookInput { input: Some(input) }).await);
}

async fn save(core: &HookCore, payload: &str, durable: bool) -> Result<(), String> {
    let payload = wire::document("payload_json", payload)?;
    let saved = if durable { core.save_durable(&payload).await } else { core.save(&payload) };
    saved.map_err(|error| error.to_string())
}

async fn list(core: &HookCore) -> Result<Vec<SubjectState>, String> {
    let states = core.stored_states().await.map_err(|error| error.to_string())?;
    let one = |(subject, state): (Subject, ExtensionState)| SubjectState {
        subject: Some(wire::subject(&subject)),
        state: Some(wire::saved_state(&state)),
    };
    Ok(states.into_iter().map(one).collect())
}
