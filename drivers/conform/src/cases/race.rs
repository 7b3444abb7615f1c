//! Calls about one sandbox at once.

use tonic::Code;

use crate::stage::Stage;
use crate::verdict::{Verdict, broken, equal, must, said};

/// How often; every second time the delete is sent first.
const ROUNDS: u32 = 8;

pub(crate) async fn create_and_delete_agree(stage: &Stage) -> Verdict {
    for round in 0..ROUNDS {
        let sandbox = stage.sandbox();
        // One connection keeps the order in which requests are sent.
        let (created, deleted) = if round % 2 == 0 {
            tokio::join!(stage.create(&sandbox), stage.delete(&sandbox))
        } else {
            let (deleted, created) = tokio::join!(biased; stage.delete(&sandbox), stage.create(&sandbox));
            (created, deleted)
        };
        must("DeleteSandbox while the sandbox is made", deleted?)?;
        let created = created?;
        // Whoever won: all calls say the same at last, and a second delete ends it.
        stage
            .until("that get and list agree", stage.limits().delete, || async {
                let listed = stage.listed(&sandbox.id).await?;
                Ok(match (stage.wire.get(&sandbox.id, &sandbox.name).await?, listed) {
                    (Ok(_), 1) => Ok(()),
                    (Err(status), 0) if status.code() == Code::NotFound => Ok(()),
                    (Ok(_), listed) => Err(format!("get has the sandbox, the list has it {listed} times")),
                    (Err(status), listed) => Err(format!("get says {}, the list has it {listed} times", said(&status))),
                })
            })
            .await?;
        must("DeleteSandbox after both", stage.delete(&sandbox).await?)?;
        stage.until_gone(&sandbox.id).await?;
        if created.is_ok() {
            // What was made and deleted is deleted for good; no late half of the create brings it back.
            equal("how often the list has the sandbox after both", &stage.listed(&sandbox.id).await?, &0)?;
        }
        if let Ok(found) = stage.wire.get(&sandbox.id, &sandbox.name).await? {
            return Err(broken("GetSandbox after both", "NOT_FOUND", format!("{:?}", found.id)));
        }
    }
    Ok(())
}
