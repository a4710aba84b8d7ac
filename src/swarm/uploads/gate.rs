//! Waiting for admission: the tokio side of [`Admission`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::admission::{Admission, Ticket, UploadLimits};
use crate::base::ids::NodeId;

/// See the module.
pub struct Gate {
    state: Mutex<State>,
    runtime: Handle,
}

struct State {
    admission: Admission,
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
    /// For the rate limit: when the next pass is due, and what will see to it.
    timer: Option<(Instant, AbortHandle)>,
}

/// A request's place, waiting or served, until it is dropped.
pub struct Place {
    gate: Arc<Gate>,
    ticket: Ticket,
}

impl Gate {
    /// Timers run on `runtime`.
    pub fn new(limits: UploadLimits, runtime: &Handle) -> Arc<Self> {
        let admission = Admission::new(limits, Instant::now());
        let state = Mutex::new(State { admission, waiting: HashMap::new(), timer: None });
        Arc::new(Self { state, runtime: runtime.clone() })
    }

    /// Waits until a chunk of `bytes` may be served to `node`. Keep the place until the chunk has left.
    pub async fn pass(self: &Arc<Self>, node: NodeId, bytes: usize, weight: f64) -> Place {
        let (place, admitted) = {
            let mut state = self.state.lock();
            let ticket = state.admission.ask(node, bytes, weight);
            let (admit, admitted) = oneshot::channel();
            state.waiting.insert(ticket, admit);
            (Place { gate: Arc::clone(self), ticket }, admitted)
        };
        self.pump();
        // The sender stays in `waiting` until it is used, for as long as the place is held.
        let _ = admitted.await;
        place
    }

    /// Other limits from now on.
    pub fn limit(self: &Arc<Self>, limits: UploadLimits) {
        self.state.lock().admission.limit(limits);
        self.pump();
    }

    /// The limits in force.
    pub fn limits(&self) -> UploadLimits {
        self.state.lock().admission.limits()
    }

    /// Who is being served, and each one's share while all of them ask.
    pub fn shares(&self) -> Vec<(NodeId, f64)> {
        self.state.lock().admission.shares()
    }

    fn pump(self: &Arc<Self>) {
        let mut state = self.state.lock();
        let now = Instant::now();
        while let Some(ticket) = state.admission.admit(now) {
            // A place that was given up takes its sender with it.
            if let Some(admit) = state.waiting.remove(&ticket) {
                let _ = admit.send(());
            }
        }
        let Some(at) = state.admission.next_change(now) else { return };
        // Under another limit it may be due long before the one that runs.
        if state.timer.as_ref().is_some_and(|(due, _)| *due <= at) {
            return;
        }
        let gate = Arc::clone(self);
        let timer = self.runtime.spawn(async move {
            tokio::time::sleep_until(at.into()).await;
            {
                let mut state = gate.state.lock();
                // It may have been too late to abort this one.
                if state.timer.as_ref().is_none_or(|(due, _)| *due != at) {
                    return;
                }
                state.timer = None;
            }
            gate.pump();
        });
        if let Some((_, late)) = state.timer.replace((at, timer.abort_handle())) {
            late.abort();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let mut state = self.gate.state.lock();
            state.waiting.remove(&self.ticket);
            state.admission.done(self.ticket, Instant::now());
        }
        self.gate.pump();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_place_is_for_one_and_a_limit_is_lifted_live() {
        let limits = UploadLimits { rate: None, slots: Some(1) };
        let gate = Gate::new(limits, &Handle::current());
        let first = gate.pass(NodeId([1; 32]), 1, 1.0).await;
        let second = gate.pass(NodeId([2; 32]), 1, 1.0);
        tokio::pin!(second);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut second).await.is_err());
        drop(first);
        let second = second.await;
        gate.limit(UploadLimits { rate: None, slots: Some(2) });
        let third = gate.pass(NodeId([1; 32]), 1, 1.0).await;
        // A request that is given up takes no place.
        let given_up = gate.pass(NodeId([3; 32]), 1, 1.0);
        assert!(tokio::time::timeout(Duration::from_millis(20), given_up).await.is_err());
        drop((second, third));
        gate.pass(NodeId([3; 32]), 1, 1.0).await;
        assert!(gate.shares().is_empty());
    }
    #[tokio::test]
    async fn a_timer_of_a_low_limit_held_up_a_higher_one() {
        let chunk = crate::base::chunks::CHUNK as usize;
        let limits = |rate| UploadLimits { rate: Some(rate), slots: None };
        // Three days for a chunk.
        let gate = Gate::new(limits(1), &Handle::current());
        let node = NodeId([1; 32]);
        for _ in 0..3 {
            drop(gate.pass(node, chunk, 1.0).await);
        }
        assert!(tokio::time::timeout(Duration::from_millis(20), gate.pass(node, chunk, 1.0)).await.is_err());
        let waits = gate.pass(node, chunk, 1.0);
        tokio::pin!(waits);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut waits).await.is_err());
        gate.limit(limits(50 << 20));
        let soon = Duration::from_secs(10);
        drop(tokio::time::timeout(soon, waits).await.unwrap());
        for _ in 0..8 {
            drop(tokio::time::timeout(soon, gate.pass(node, chunk, 1.0)).await.unwrap());
        }
    }
}
