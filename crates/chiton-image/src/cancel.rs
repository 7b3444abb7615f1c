//! Ending work that nobody waits for any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::ImageError;

/// Tells work on other threads to end.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends the work; it stops at its next look, which comes with every piece of data.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// An error once the work was ended.
    pub(crate) fn check(&self) -> Result<(), ImageError> {
        if self.0.load(Ordering::SeqCst) { Err(ImageError::Cancelled) } else { Ok(()) }
    }

    /// A guard that ends the work when it is dropped: for the future that waits for it.
    pub fn on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }
}

/// Ends work when whoever waits for it goes away.
#[derive(Debug)]
pub struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
