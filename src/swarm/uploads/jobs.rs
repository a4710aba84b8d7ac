//! Work for peers that blocks on the disk: each peer has so many jobs running at once. A job counts until it has ended,
//! also when its peer has cancelled the request: a thread can't be called back.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinError;

use crate::base::ids::NodeId;

/// A quarter of the runtime's blocking threads, and more than keeps a disk busy.
const PER_PEER: usize = 16;
/// Above this, peers without a job are forgotten.
const MAX_PEERS: usize = 4096;

/// See the module.
#[derive(Default)]
pub struct Jobs {
    places: Mutex<HashMap<NodeId, Weak<Semaphore>>>,
}

impl Jobs {
    /// Runs `work` for `node` on a blocking thread, once it is its turn.
    pub async fn run<T: Send + 'static>(
        &self,
        node: NodeId,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        // The semaphore is never closed.
        let place = self.places(node).acquire_owned().await;
        let job = move || {
            let _place = place;
            work()
        };
        tokio::task::spawn_blocking(job).await
    }

    fn places(&self, node: NodeId) -> Arc<Semaphore> {
        let mut all = self.places.lock();
        if let Some(places) = all.get(&node).and_then(Weak::upgrade) {
            return places;
        }
        if all.len() >= MAX_PEERS {
            all.retain(|_, places| places.strong_count() > 0);
        }
        let places = Arc::new(Semaphore::new(PER_PEER));
        all.insert(node, Arc::downgrade(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn requests_that_were_cancelled_left_jobs_that_nobody_counted() {
        let jobs = Arc::new(Jobs::default());
        let running = Arc::new(AtomicUsize::new(0));
        let (peer, other) = (NodeId([1; 32]), NodeId([2; 32]));
        let (release, held) = channel::<()>();
        let held = Arc::new(Mutex::new(held));
        for _ in 0..3 * PER_PEER {
            let (jobs, running, held) = (Arc::clone(&jobs), Arc::clone(&running), Arc::clone(&held));
            let request = tokio::spawn(async move {
                let work = move || {
                    running.fetch_add(1, Ordering::SeqCst);
                    // Ends when the sender is dropped.
                    let _ = held.lock().recv();
                };
                jobs.run(peer, work).await
            });
            tokio::time::sleep(Duration::from_millis(2)).await;
            request.abort();
        }
        assert_eq!(jobs.run(other, || 5).await.unwrap(), 5, "another peer has its own");
        assert_eq!(running.load(Ordering::SeqCst), PER_PEER);
        let waits = jobs.run(peer, || 6);
        tokio::pin!(waits);
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut waits).await.is_err());
        drop(release);
        assert_eq!(waits.await.unwrap(), 6);
    }
}
