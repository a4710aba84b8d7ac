//! What a session has still to send: control before bulk, both bounded.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::link::UntilSent;
use super::serving::Place;
use crate::wire::frame::Header;

/// Control bytes that may wait: a peer that reads nothing while it asks for this much is cut off.
const MAX_CONTROL: usize = 32 << 20;

/// What a frame holds on to until it has been written.
#[allow(dead_code, reason = "held, and never looked at")]
#[derive(Default)]
pub struct Held {
    /// Room in the bulk budget.
    pub room: Option<OwnedSemaphorePermit>,
    /// Whatever its answer came with.
    pub until_sent: UntilSent,
    /// The request that it answers, which counts as open until then.
    pub place: Option<Place>,
}

/// One frame to send.
pub struct Outgoing {
    /// Its header.
    pub header: Header,
    /// Its body.
    pub body: Bytes,
    /// What is held until it is sent.
    pub held: Held,
}

#[derive(Default)]
struct Queues {
    control: VecDeque<Outgoing>,
    control_bytes: usize,
    bulk: VecDeque<Outgoing>,
}

/// See the module.
#[derive(Default)]
pub struct Outbox {
    queues: Mutex<Queues>,
    ready: Notify,
}

impl Outbox {
    /// Queues a frame that goes before all bulk. False if too much waits already.
    pub fn control(&self, frame: Outgoing) -> bool {
        let mut queues = self.queues.lock();
        if queues.control_bytes + frame.body.len() > MAX_CONTROL || queues.control.len() > MAX_CONTROL / 64 {
            return false;
        }
        queues.control_bytes += frame.body.len();
        queues.control.push_back(frame);
        drop(queues);
        self.ready.notify_one();
        true
    }

    /// Queues a bulk frame; the room that it holds bounds how many there can be.
    pub fn bulk(&self, frame: Outgoing) {
        self.queues.lock().bulk.push_back(frame);
        self.ready.notify_one();
    }

    /// The next frame, if there is one.
    pub fn pop(&self) -> Option<Outgoing> {
        let mut queues = self.queues.lock();
        if let Some(frame) = queues.control.pop_front() {
            queues.control_bytes -= frame.body.len();
            return Some(frame);
        }
        queues.bulk.pop_front()
    }

    /// Returns when there may be a frame.
    pub async fn ready(&self) {
        self.ready.notified().await;
    }
}
