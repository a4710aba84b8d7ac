//! Whom to ask for a file of at most one chunk. It comes whole with its opening, so its sources are opened one after the
//! other, the best one first: all at once would bring it as often as there are sources. The next ones are opened when
//! those that were have failed, or are late: one, then two, four and so on, for of many peers that may have it in their
//! caches perhaps none has. Pure but for what a link tells of itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pace::{FIRST_RATE, Pace};
use crate::base::ids::NodeId;
use crate::base::ranges::Ranges;
use crate::net::link::PeerLink;

/// Assumed of a link whose round trip has not been measured: longer than most, so that a known near one goes first.
const UNKNOWN: Duration = Duration::from_millis(50);
/// Bytes over links that count as a sign of life of the work, as for larger files.
const PROGRESS: u64 = 16 * 1024;

/// A source that has not been opened.
pub(super) struct Candidate {
    pub link: Arc<dyn PeerLink>,
    /// Of a downloader: what it holds. Those come last.
    pub held: Option<Ranges>,
}

/// See the module.
pub(super) struct Turns {
    waiting: Vec<Candidate>,
    opened: usize,
    /// When the last ones were opened, or the file was wanted anew; and when anything last came from them.
    since: Instant,
    heard: Instant,
    /// Bytes that had come over their links by then.
    received: Option<u64>,
}

impl Turns {
    pub fn new(now: Instant) -> Self {
        Self { waiting: Vec::new(), opened: 0, since: now, heard: now, received: None }
    }

    pub fn add(&mut self, link: &Arc<dyn PeerLink>, held: Option<Ranges>) {
        if !self.knows(link.node()) {
            self.waiting.push(Candidate { link: Arc::clone(link), held });
        }
    }

    pub fn knows(&self, node: NodeId) -> bool {
        self.waiting.iter().any(|candidate| candidate.link.node() == node)
    }

    pub fn retain(&mut self, keep: impl Fn(&Candidate) -> bool) {
        self.waiting.retain(|candidate| !candidate.link.is_closed() && keep(candidate));
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Nobody has been opened yet.
    pub fn is_fresh(&self) -> bool {
        self.opened == 0
    }

    /// It is wanted from now on: nobody is late yet.
    pub fn begin(&mut self, now: Instant) {
        (self.since, self.heard, self.received) = (now, now, None);
    }

    /// True if those that were opened are late: nothing has come over their links (`received` bytes so far) for as long as
    /// is suspicious of one with a round trip of `rtt`, or what came was not the file for as long as its deadline.
    pub fn are_late(&mut self, received: u64, rtt: Duration, now: Instant) -> bool {
        match self.received {
            Some(before) if received >= before + PROGRESS => (self.received, self.heard) = (Some(received), now),
            // One of them has gone.
            Some(before) if received < before => self.received = Some(received),
            Some(_) => {}
            None => self.received = Some(received),
        }
        let mut pace = Pace::default();
        pace.round_trip(rtt);
        now >= self.heard + pace.suspicious() || now >= self.since + pace.deadline()
    }

    /// Takes out those that are to be opened now, by what they cost.
    pub fn take(&mut self, now: Instant, cost: impl Fn(&dyn PeerLink) -> Duration) -> Vec<Candidate> {
        self.begin(now);
        self.waiting.sort_by_cached_key(|candidate| (candidate.held.is_some(), cost(&*candidate.link)));
        let count = self.opened.max(1).min(self.waiting.len());
        self.opened += count;
        self.waiting.drain(..count).collect()
    }
}

/// How long `bytes` from this link will probably take. `rate`: bytes per second, if known from elsewhere; `queued`: bytes
/// of other small files that it has been asked for.
pub(super) fn cost(link: &dyn PeerLink, bytes: u64, rate: Option<f64>, queued: u64) -> Duration {
    let rtt = match link.stats().rtt_micros {
        0 => UNKNOWN,
        micros => Duration::from_micros(micros),
    };
    let seconds = (bytes + queued) as f64 / rate.unwrap_or(FIRST_RATE).max(1.0);
    rtt + Duration::from_secs_f64(seconds.min(1e6))
}
