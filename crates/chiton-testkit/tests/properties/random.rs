//! Random worlds: which driver, which chain, and how each of them misbehaves.

use std::time::Duration;

use chiton_lifecycle::extension::{ReconcileOutcome, ReconcileSupport, StepError};
use chiton_lifecycle::policy::{FailurePolicy, Policy};
use chiton_model::Phase;
use chiton_testkit::{Act, AgentBehaviour, Behaviour, Call, DriverSpec, ExtensionScript, Lab, Rng};

/// Actions together with the cleanups without which they would leak by design.
const GROUPS: [(&[Phase], &[Phase]); 3] = [
    (&[Phase::BeforeCreate, Phase::AfterCreate], &[Phase::OnCreateFailed, Phase::AfterDelete]),
    (&[Phase::BeforeStart, Phase::AfterReady], &[Phase::AfterStop]),
    (&[Phase::EnsureWorkspace], &[Phase::ReleaseWorkspace]),
];

/// Phases that owe nothing.
const FREE: [Phase; 7] = [
    Phase::ValidateRequest,
    Phase::PreparePlan,
    Phase::ValidatePlan,
    Phase::ApproveStop,
    Phase::BeforeStop,
    Phase::BeforeDelete,
    Phase::Sweep,
];

pub(crate) fn spec(rng: &mut Rng) -> DriverSpec {
    let mut spec = DriverSpec::new("fake").watch_lag(rng.millis(3000));
    if rng.one_in(2) {
        spec = spec.remote();
    }
    if rng.one_in(3) {
        spec = spec.one_phase();
        if spec.is_remote() && rng.one_in(2) {
            spec = spec.deferred();
        }
    }
    if rng.one_in(4) {
        spec = spec.without_agent();
    }
    if rng.one_in(4) {
        spec = spec.managed();
    }
    spec
}

pub(crate) fn chain(rng: &mut Rng, mut lab: Lab) -> (Lab, Vec<String>) {
    let mut names = Vec::new();
    for index in 0..rng.below(6) {
        let name = format!("ext-{index}");
        let policy = policy(rng);
        lab = lab.extension_with(extension(rng, &name, &policy), |standing| *standing = policy);
        names.push(name);
    }
    (lab, names)
}

fn policy(rng: &mut Rng) -> Policy {
    let failure = match rng.below(10) {
        0..=5 => FailurePolicy::Required,
        6..=8 => FailurePolicy::Optional,
        _ => FailurePolicy::Observe,
    };
    Policy {
        failure,
        deadline: Duration::from_secs(2 + u64::from(rng.one_in(2)) * 28),
        authoritative: rng.one_in(2),
        concurrency: rng.one_in(3).then_some(1),
        ..Policy::default()
    }
}

fn extension(rng: &mut Rng, name: &str, policy: &Policy) -> ExtensionScript {
    let mut script = ExtensionScript::new(name);
    for (actions, cleanups) in GROUPS {
        let taken: Vec<Phase> = actions.iter().copied().filter(|_| !rng.one_in(3)).collect();
        if !taken.is_empty() || rng.one_in(4) {
            script = script.phases(taken).phases(cleanups.iter().copied());
        }
    }
    script = script.phases(FREE.into_iter().filter(|_| !rng.one_in(3)));
    if rng.one_in(2) {
        // What a reconcile repaired is undone by after_delete.
        script = script.phases([Phase::Reconcile, Phase::AfterDelete]);
        if rng.one_in(2) {
            script = script.declare(|descriptor| descriptor.reconcile = ReconcileSupport::Authoritative);
        }
    }
    if script.descriptor().takes_part(Phase::BeforeCreate) {
        if rng.one_in(2) {
            // An optional extension's slot needs a default.
            let variable = name.to_uppercase().replace('-', "_");
            script = match policy.failure {
                FailurePolicy::Optional => script.slot_or("ip", &variable, "none"),
                _ => script.slot("ip", &variable),
            };
        }
        script = match rng.below(3) {
            0 => script.saves(),
            1 => script.saves_durably(),
            _ => script,
        };
    }
    if rng.one_in(4) { script.local_effects() } else { script }
}

/// How one hook call goes wrong, or takes its time.
pub(crate) fn act(rng: &mut Rng, script: &ExtensionScript, phase: Phase) -> Act {
    let error = match rng.below(3) {
        0 => StepError::retryable("scripted"),
        1 => StepError::Exhausted { resource: "leases".to_owned(), message: "scripted".to_owned() },
        _ => StepError::fatal("scripted"),
    };
    match rng.below(12) {
        0..=2 => Act::Fail(error),
        3 => Act::Refuse(error),
        4 => Act::Hang,
        5 => Act::Obey,
        6 => Act::Panic,
        7 => Act::Slow(rng.millis(40_000)),
        8 => Act::Block(rng.millis(90_000)),
        // Longer than the grace of a hook that is cut off, an effect would be work that the hook left behind.
        9 if !script.descriptor().local_effects => Act::Late(rng.millis(900)),
        10 if phase == Phase::BeforeCreate => Act::WrongSlots,
        11 if phase == Phase::ApproveStop => Act::Veto("scripted".to_owned()),
        _ => Act::Slow(rng.millis(1500)),
    }
}

pub(crate) fn misbehave(rng: &mut Rng, lab: &Lab, names: &[String]) {
    for name in names {
        let script = lab.script(name);
        let phases: Vec<Phase> = script.descriptor().phases.iter().copied().collect();
        for _ in 0..rng.below(4) {
            let Some(phase) = (!phases.is_empty()).then(|| *rng.pick(&phases)) else { break };
            let quiet = matches!(phase, Phase::ValidateRequest | Phase::PreparePlan | Phase::ValidatePlan);
            if quiet && !rng.one_in(4) {
                continue;
            }
            let act = act(rng, script, phase);
            script.next(phase, act);
        }
        if rng.one_in(3) {
            let why = "scripted".to_owned();
            script.next_reconcile(match rng.below(3) {
                0 => ReconcileOutcome::Drift(why),
                // Without leave, an extension that mends would break its own contract and leak.
                1 if script.descriptor().reconcile == ReconcileSupport::Authoritative => {
                    ReconcileOutcome::Repaired(why)
                }
                _ => ReconcileOutcome::Failed(why),
            });
        }
    }
    for _ in 0..rng.below(4) {
        let call = *rng.pick(&[
            Call::Create,
            Call::Create,
            Call::Start,
            Call::Start,
            Call::Stop,
            Call::Delete,
            Call::Delete,
            Call::Prepare,
            Call::Get,
            Call::List,
            Call::EnsureWorkspace,
        ]);
        let behaviour = behaviour(rng, call, lab.platform().spec());
        lab.platform().next(call, behaviour);
    }
    if rng.one_in(5) {
        lab.agents().next(AgentBehaviour::Never);
    } else if rng.one_in(2) {
        lab.agents().next(AgentBehaviour::After(rng.millis(4000)));
    }
    if rng.one_in(4) {
        let (after, code) = (rng.millis(20_000), i32::from(rng.one_in(2)));
        lab.platform().next_exits(after, code);
    }
}

fn behaviour(rng: &mut Rng, call: Call, spec: &DriverSpec) -> Behaviour {
    let why = "scripted".to_owned();
    match rng.below(9) {
        0 => Behaviour::Succeed(rng.millis(50_000)),
        1 => Behaviour::NotRun(why),
        2 => Behaviour::Fail(rng.millis(5000), why),
        3 => Behaviour::FailDone(rng.millis(5000), why),
        4 if call == Call::Create => Behaviour::HalfMake(rng.millis(5000), why),
        5 => Behaviour::Hang,
        6 => Behaviour::HangDone(rng.millis(120_000)),
        7 => {
            let lands = rng.one_in(2).then(|| rng.millis(300_000));
            Behaviour::Unknown(rng.millis(5000), lands)
        }
        // An object that survives one delete. A local delete that lies would also let a call live on that it should end.
        8 if call == Call::Delete && spec.is_remote() => Behaviour::Lie(rng.millis(2000)),
        8 if call == Call::Create && spec.is_deferred() => Behaviour::Accept(rng.millis(2000), rng.millis(300_000)),
        _ => Behaviour::Succeed(rng.millis(2000)),
    }
}
