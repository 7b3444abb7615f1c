//! The conflict table, from the text of rule 9: "Delete cancels create, start and reconcile; waits for stop; joins delete.
//! Stop cancels start and reconcile; during create it answers Conflict. Start queues behind stop. The same operation joins
//! the running one. Reconcile and sweep are skipped while an operation runs and give way to any. All else: Conflict."
//! An exit is a stop that nobody asked for; a retried cleanup is the engine's own, as a reconcile is.

use chiton_model::OperationKind as K;

/// What becomes of a newcomer while another operation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// It is answered with the running operation.
    Join,
    /// It waits for the running operation's end.
    Queue,
    /// It ends the running operation and waits for that.
    Cancel,
    /// It turns the running create into an unwinding and is answered with it.
    Undo,
    /// It is refused; the answer names the running operation.
    Conflict,
    /// It is not asked for by anybody, and is left out.
    Skip,
}

#[expect(clippy::match_same_arms, reason = "each arm is a sentence of the rule")]
pub(crate) fn rule(running: K, asked: K) -> Rule {
    match (asked, running) {
        (K::Reconcile, _) => Rule::Skip,
        (K::Cleanup, _) => Rule::Conflict,
        (K::Exit, _) => Rule::Queue,
        (_, K::Reconcile | K::Cleanup) => Rule::Cancel,
        (K::Delete, K::Create) => Rule::Undo,
        (K::Delete | K::Stop, K::Start) => Rule::Cancel,
        (K::Delete | K::Start, K::Stop | K::Exit) | (K::Stop, K::Exit) => Rule::Queue,
        (asked, running) if asked == running => Rule::Join,
        _ => Rule::Conflict,
    }
}

/// Every cell that can be met on a sandbox. An exit is met by whatever runs while the main process does; a discharge is
/// asked for as a cleanup.
pub(crate) fn cells() -> Vec<(K, K)> {
    let mut cells = Vec::new();
    for running in [K::Create, K::Start, K::Stop, K::Delete, K::Exit, K::Reconcile, K::Cleanup] {
        for asked in [K::Start, K::Stop, K::Delete, K::Reconcile] {
            cells.push((running, asked));
        }
    }
    cells.extend([K::Create, K::Start, K::Stop, K::Delete, K::Reconcile].map(|running| (running, K::Exit)));
    // Debts are listed by what ended before, so they are met by whatever runs on what is stopped.
    cells.extend([K::Start, K::Delete, K::Cleanup, K::Reconcile].map(|running| (running, K::Cleanup)));
    cells
}
