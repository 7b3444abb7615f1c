//! Asking every driver, each for itself: one that is down or hangs keeps nobody from the others' answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use chiton_driver::{CallResult, ComputeDriver};
use chiton_model::{DriverId, Error};
use futures::future::join_all;

use super::inner::Inner;

/// What the drivers have, and which of them could not say.
#[derive(Clone, Debug)]
pub struct Gathered<T> {
    /// What was found, in the order of the drivers' ids.
    pub found: Vec<T>,
    /// The drivers that could not be asked, and why: what they have is missing in `found`.
    pub failed: BTreeMap<DriverId, Error>,
}

impl<T> Default for Gathered<T> {
    fn default() -> Self {
        Self { found: Vec::new(), failed: BTreeMap::new() }
    }
}

impl<T> Gathered<T> {
    /// What was found, if every driver could be asked.
    ///
    /// # Errors
    /// Why the first of those could not that could not.
    pub fn complete(self) -> Result<Vec<T>, Error> {
        match self.failed.into_values().next() {
            Some(error) => Err(error),
            None => Ok(self.found),
        }
    }
}

impl Inner {
    /// A look at each of these drivers, all at once, each within its own deadline.
    pub(super) async fn look_at_each<T, F>(
        &self,
        drivers: impl IntoIterator<Item = (&DriverId, &Arc<dyn ComputeDriver>)>,
        call: impl Fn(Arc<dyn ComputeDriver>) -> F,
    ) -> Vec<(DriverId, Result<T, Error>)>
    where
        F: Future<Output = CallResult<T>>,
    {
        let looks = drivers.into_iter().map(|(id, driver)| {
            let asked = call(Arc::clone(driver));
            async move { (id.clone(), self.look(driver, asked).await) }
        });
        join_all(looks).await
    }
}
