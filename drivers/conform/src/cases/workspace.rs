//! Workspaces.

use tonic::Code;

use crate::stage::Stage;
use crate::verdict::{By, Verdict, must, not_here};

pub(crate) async fn calls_are_idempotent(stage: &Stage) -> Verdict {
    let workspace = stage.word("conform");
    let ensured = stage.wire.ensure_workspace(&workspace).await?;
    if ensured.as_ref().is_err_and(|status| status.code() == Code::Unimplemented) {
        return not_here(By::Driver, "EnsureWorkspace is optional and not implemented");
    }
    must("EnsureWorkspace", ensured)?;
    let again = stage.wire.ensure_workspace(&workspace).await?;
    let deleted = stage.wire.delete_workspace(&workspace).await?;
    must("EnsureWorkspace of one that is there", again)?;
    if deleted.as_ref().is_err_and(|status| status.code() == Code::Unimplemented) {
        return Ok(());
    }
    must("DeleteWorkspace", deleted)?;
    must("DeleteWorkspace of one that is gone", stage.wire.delete_workspace(&workspace).await?)
}
