//! What is still under way before the first view can be called complete: counted by guards.

use std::sync::Arc;

use tokio::sync::watch;

/// Counts what is under way.
#[derive(Clone)]
pub struct Pending(Arc<watch::Sender<usize>>);

/// One thing that is under way, until it is dropped.
pub struct Guard(Arc<watch::Sender<usize>>);

impl Default for Pending {
    fn default() -> Self {
        Self(Arc::new(watch::channel(0).0))
    }
}

impl Pending {
    /// One more.
    pub fn guard(&self) -> Guard {
        self.0.send_modify(|count| *count += 1);
        Guard(Arc::clone(&self.0))
    }

    /// How many.
    pub fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Changes with the count.
    pub fn watch(&self) -> watch::Receiver<usize> {
        self.0.subscribe()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
