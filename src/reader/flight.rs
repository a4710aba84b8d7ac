//! Single flight: readers of the same chunk share one load from the sealed cache.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::base::ids::ContentId;
use crate::base::tree::VerifiedChunk;

type Key = (ContentId, u64);
type Waiter = oneshot::Sender<Option<VerifiedChunk>>;

/// Loads under way, and who waits for each.
#[derive(Default)]
pub struct Flights {
    waiting: Mutex<HashMap<Key, Vec<Waiter>>>,
}

impl Flights {
    /// None under way.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The outcome of `work` for `key`, which runs on a blocking thread; if it runs already, that run's outcome.
    /// The work goes on when the caller goes away: others may wait for it, and the cache keeps what it found.
    pub async fn join(
        self: &Arc<Self>,
        runtime: &Handle,
        key: Key,
        work: impl FnOnce() -> Option<VerifiedChunk> + Send + 'static,
    ) -> Option<VerifiedChunk> {
        let (waiter, outcome) = oneshot::channel();
        let first = {
            let mut waiting = self.waiting.lock();
            let waiters = waiting.entry(key).or_default();
            waiters.push(waiter);
            waiters.len() == 1
        };
        if first {
            let landing = Landing { flights: Arc::clone(self), key };
            runtime.spawn_blocking(move || landing.land(work().as_ref()));
        }
        outcome.await.ok().flatten()
    }
}

/// Removes the flight whatever happens to the work, so that nobody waits for a flight that is no more.
struct Landing {
    flights: Arc<Flights>,
    key: Key,
}

impl Landing {
    fn land(self, outcome: Option<&VerifiedChunk>) {
        for waiter in self.flights.waiting.lock().remove(&self.key).unwrap_or_default() {
            // The reader may have gone.
            let _ = waiter.send(outcome.cloned());
        }
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        // Dropping the senders wakes the waiters with nothing; after `land` there is nothing left to remove.
        self.flights.waiting.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;

    use super::*;
    use crate::base::tree::manifest_of;

    #[tokio::test]
    async fn many_wait_for_one_load() {
        let content = manifest_of(b"x").content();
        let flights = Flights::new();
        let runs = Arc::new(AtomicUsize::new(0));
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let joins = (0..10).map(|_| {
            let (flights, runs, gate) = (Arc::clone(&flights), Arc::clone(&runs), Arc::clone(&gate));
            async move {
                let work = move || {
                    runs.fetch_add(1, Ordering::SeqCst);
                    gate.lock().recv().ok()?;
                    VerifiedChunk::from_sealed(content, 0, Bytes::from_static(b"x"))
                };
                flights.join(&Handle::current(), (content, 0), work).await
            }
        });
        let joins = futures_util::future::join_all(joins);
        let release = async {
            // By now every join has been polled once.
            tokio::task::yield_now().await;
            go.send(()).unwrap();
        };
        let (chunks, ()) = tokio::join!(joins, release);
        assert!(chunks.iter().all(Option::is_some));
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        let again = flights.join(&Handle::current(), (content, 0), || panic!("a load that fails")).await;
        assert!(again.is_none());
        assert!(flights.waiting.lock().is_empty());
    }
}
