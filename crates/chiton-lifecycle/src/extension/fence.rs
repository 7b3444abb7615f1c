//! What the engine has to know of work outside of this process before it goes on (lifecycle rule 6a).

use chiton_model::{ExtensionName, OperationId, Phase};

/// One attempt of one step. No two have the same `call` in one process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StepId {
    /// Counts the hook calls of this process.
    pub call: u64,
    /// The operation.
    pub operation: OperationId,
    /// The phase.
    pub phase: Phase,
    /// The extension.
    pub extension: ExtensionName,
    /// 1 for the first call of the step, more for a retry.
    pub attempt: u32,
}

/// What must be over, and must not begin any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fence {
    /// This attempt.
    Step(StepId),
    /// Every step of this operation that an earlier process of the gateway began.
    Operation(OperationId),
}
