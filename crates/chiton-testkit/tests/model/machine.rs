//! What happens, at random: transitions of the model, each possible in its state.

use chiton_model::Phase;
use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

use crate::reference::{Ask, Model, What};

/// One thing that happens; minutes pass after it.
#[derive(Clone, Debug)]
pub(crate) enum Transition {
    Ask(Ask),
    /// Whoever stands at a door of the sandbox goes on.
    Step(usize),
    Exit(usize),
    /// A round of reconcile whose first hook waits.
    Reconcile,
    Discharge(usize),
    /// Hooks wait at their doors from now on, or no longer.
    Close(bool),
    Veto(bool),
    PlatformFails(bool),
    /// Which cleanup fails from now on.
    Fail(Option<Phase>),
    Crash {
        marks: bool,
        reboot: bool,
    },
}

/// More sandboxes than this make a history slower and no richer.
const MOST: usize = 5;

fn ask(what: impl Strategy<Value = What> + 'static) -> BoxedStrategy<Transition> {
    // Few ids and few callers, so that they meet.
    (what, 0_u8..2, prop_oneof![3 => Just(None), 2 => (0_u8..2).prop_map(Some)])
        .prop_map(|(what, principal, request)| Transition::Ask(Ask { what, principal, request }))
        .boxed()
}

pub(crate) struct Machine;

impl ReferenceStateMachine for Machine {
    type State = Model;
    type Transition = Transition;

    fn init_state() -> BoxedStrategy<Model> {
        any::<bool>().prop_map(|closed| Model { closed, ..Model::default() }).boxed()
    }

    fn transitions(model: &Model) -> BoxedStrategy<Transition> {
        let mut choices: Vec<(u32, BoxedStrategy<Transition>)> = Vec::new();
        if model.sandboxes.len() < MOST {
            let weight = if model.sandboxes.is_empty() { 20 } else { 3 };
            let name = prop_oneof![3 => (0_u8..2).prop_map(Some), 1 => Just(None)];
            choices.push((weight, ask(name.prop_map(What::Create))));
        }
        let some = |wanted: &dyn Fn(usize) -> bool| -> Vec<usize> {
            (0..model.sandboxes.len()).filter(|id| wanted(*id)).collect()
        };
        let one = |ids: Vec<usize>| proptest::sample::select(ids);
        let there = some(&|id| !model.sandboxes[id].gone);
        if !there.is_empty() {
            choices.push((6, ask(one(there.clone()).prop_map(What::Start))));
            choices.push((6, ask(one(there.clone()).prop_map(What::Stop))));
            choices.push((
                4,
                ask((one(there), prop::bool::weighted(0.2)).prop_map(|(id, force)| What::Delete(id, force))),
            ));
        }
        let gone = some(&|id| model.sandboxes[id].gone);
        if !gone.is_empty() {
            let what = (one(gone), 0..3).prop_map(|(id, kind)| match kind {
                0 => What::Start(id),
                1 => What::Stop(id),
                _ => What::Delete(id, false),
            });
            choices.push((3, ask(what)));
        }
        let at_door = some(&|id| model.sandboxes[id].busy.as_ref().is_some_and(|busy| busy.door.is_some()));
        if !at_door.is_empty() {
            choices.push((9, one(at_door).prop_map(Transition::Step).boxed()));
        }
        let runs = some(&|id| model.sandboxes[id].runs);
        if !runs.is_empty() {
            choices.push((3, one(runs).prop_map(Transition::Exit).boxed()));
        }
        let listed = some(&|id| !model.sandboxes[id].listed.is_empty());
        if !listed.is_empty() {
            choices.push((8, one(listed.clone()).prop_map(Transition::Discharge).boxed()));
        }
        let phases = [Phase::AfterStop, Phase::OnCreateFailed, Phase::AfterDelete];
        let failing = match model.failing {
            None => proptest::sample::select(phases.to_vec()).prop_map(|phase| Transition::Fail(Some(phase))).boxed(),
            Some(_) => Just(Transition::Fail(None)).boxed(),
        };
        if model.failing.is_some() || !model.owes() {
            choices.push((3, failing));
        }
        choices.push((3, Just(Transition::Close(!model.closed)).boxed()));
        choices.push((1, Just(Transition::Veto(!model.vetoes)).boxed()));
        choices.push((2, Just(Transition::PlatformFails(!model.platform_fails)).boxed()));
        choices.push((if listed.is_empty() { 2 } else { 6 }, Just(Transition::Reconcile).boxed()));
        if !listed.is_empty() {
            choices.push((5, ask(one(listed).prop_map(What::Start))));
        }
        let crash = (any::<bool>(), prop::bool::weighted(0.25));
        let crash = crash.prop_map(|(marks, reboot)| Transition::Crash { marks: marks && !reboot, reboot });
        choices.push((2, crash.boxed()));
        proptest::strategy::Union::new_weighted(choices).boxed()
    }

    fn preconditions(model: &Model, transition: &Transition) -> bool {
        let known = |id: usize| model.sandboxes.get(id);
        match transition {
            Transition::Ask(ask) => match ask.what {
                What::Create(_) => model.sandboxes.len() < MOST,
                What::Start(id) | What::Stop(id) | What::Delete(id, _) => known(id).is_some(),
            },
            Transition::Step(id) => {
                known(*id).and_then(|sandbox| sandbox.busy.as_ref()).is_some_and(|busy| busy.door.is_some())
            }
            Transition::Exit(id) => known(*id).is_some_and(|sandbox| sandbox.runs),
            Transition::Discharge(id) => known(*id).is_some_and(|sandbox| !sandbox.listed.is_empty()),
            // Of two debts of one sandbox it is chance which one is tried first.
            Transition::Fail(Some(_)) => !model.owes(),
            _ => true,
        }
    }

    fn apply(mut model: Model, transition: &Transition) -> Model {
        match transition {
            Transition::Ask(ask) => model.ask(ask),
            Transition::Step(id) => model.step(*id),
            Transition::Exit(id) => model.exit(*id),
            Transition::Reconcile => model.reconcile(),
            Transition::Discharge(id) => model.discharged = Some(model.discharge(*id)),
            Transition::Close(closed) => model.closed = *closed,
            Transition::Veto(vetoes) => model.vetoes = *vetoes,
            Transition::PlatformFails(fails) => model.platform_fails = *fails,
            Transition::Fail(phase) => model.failing = *phase,
            Transition::Crash { marks, reboot } => model.crash(*marks, *reboot),
        }
        model.pass();
        model
    }
}
