//! Threads for file work.
//!
//! Not the runtime's own pool: that aborts when the kernel gives it no thread, which any sandbox can bring about by using
//! up its process limit. Here it is an error of the one call.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tonic::Status;

/// How many file calls work at a time; more wait for their turn.
const THREADS: usize = 32;
/// File work is shallow: the deepest frame holds one copy buffer on the heap.
const STACK: usize = 256 * 1024;
/// How long a call waits for its turn.
const TURN: Duration = Duration::from_secs(30);

/// A bounded number of threads.
#[derive(Clone, Debug)]
pub struct Blocking(Arc<Semaphore>);

impl Default for Blocking {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(THREADS)))
    }
}

impl Blocking {
    /// Starts the work on a thread of its own and returns where its result will arrive.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` when there is no turn in time or no thread.
    pub async fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<T>, Status> {
        let turn = tokio::time::timeout(TURN, Arc::clone(&self.0).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return Err(Status::resource_exhausted(
                "too many file calls are under way in this sandbox; try again later",
            ));
        };
        let (sender, receiver) = oneshot::channel();
        std::thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || {
                let _turn = turn;
                // A caller that went away needs no result.
                let _ = sender.send(work());
            })
            .map_err(|error| {
                let text =
                    format!("the sandbox gives the agent no thread ({error}); raise its process limit or free some");
                Status::resource_exhausted(text)
            })?;
        Ok(receiver)
    }

    /// Does the work on a thread of its own.
    ///
    /// # Errors
    /// Those of [`Blocking::start`] and of the work itself.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let result = self.start(work).await?;
        result.await.unwrap_or_else(|_| Err(Status::internal("the agent's file thread ended without a result")))
    }
}
