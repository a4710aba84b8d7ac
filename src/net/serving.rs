//! The requests of one peer that are open here: from when they came until their answers have been written, so that a peer
//! that asks and does not read is noticed.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::base::limits::MAX_REQUESTS_PER_PEER;

/// See the module.
#[derive(Default)]
pub struct Serving {
    /// By id: the task that makes the answer, once it is known.
    open: Mutex<HashMap<u32, Option<AbortHandle>>>,
}

/// The place of one open request; free again once this is dropped.
pub struct Place {
    serving: Arc<Serving>,
    id: u32,
}

impl Serving {
    /// A request came. `None` if the peer has too many open, or this very one.
    pub fn begin(self: &Arc<Self>, id: u32) -> Option<Place> {
        let mut open = self.open.lock();
        if open.len() >= MAX_REQUESTS_PER_PEER || open.contains_key(&id) {
            return None;
        }
        open.insert(id, None);
        Some(Place { serving: Arc::clone(self), id })
    }

    /// True if nothing is asked at present.
    pub fn is_empty(&self) -> bool {
        self.open.lock().is_empty()
    }

    /// Its answer is made by this task.
    pub fn runs_as(&self, id: u32, task: AbortHandle) {
        // It may be done already, and its place with it.
        if let Some(place) = self.open.lock().get_mut(&id) {
            *place = Some(task);
        }
    }

    /// The peer does not want the answer any more. One that is on its way out arrives all the same, and counts until then.
    pub fn cancel(&self, id: u32) {
        let task = self.open.lock().get(&id).cloned().flatten();
        if let Some(task) = task {
            task.abort();
        }
    }

    /// No answer is wanted any more.
    pub fn cancel_all(&self) {
        let tasks: Vec<AbortHandle> = self.open.lock().values().flatten().cloned().collect();
        tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.serving.open.lock().remove(&self.id);
    }
}
