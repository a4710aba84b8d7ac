//! One source as the planner sees it: its pace, what is on its way from it, and whether it can be counted on. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::pace::{Pace, Sent};
use super::sections::Slot;
use crate::base::chunks::CHUNK;

/// A source that lost its section is asked again at once for one chunk, and if it does not bring that either, after this,
/// and then after twice as long each time.
const REST: Duration = Duration::from_millis(500);
const REST_MAX: Duration = Duration::from_secs(16);
/// A busy source is asked again after this, and after twice as long each time it still is.
const BUSY: Duration = Duration::from_millis(50);
const BUSY_MAX: Duration = Duration::from_millis(400);
/// Bytes over the link that count as a sign of life of the work: more than answers to pings, far less than a chunk.
const PROGRESS: u64 = 16 * 1024;
/// A request that takes this much longer than twice what was expected has been forgotten by the source.
const OVERDUE: Duration = Duration::from_millis(50);
/// A source answers about in the order of the requests: one that this many later ones have overtaken gets no answer.
const OVERTAKEN: usize = 8;

/// One request: which chunk was asked of which source. `serial` tells two requests for the same chunk apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// Of whom.
    pub slot: Slot,
    /// What.
    pub chunk: u64,
    /// No other request of the transfer has this number.
    pub serial: u64,
}

/// A request on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flying {
    pub ticket: Ticket,
    sent: Sent,
    at: Instant,
    /// How long it was expected to take, and how many requests were before it.
    expected: Duration,
    ahead: usize,
    /// Its bytes are here, and wait for what proves them.
    here: bool,
}

impl Flying {
    fn is_overdue(&self, now: Instant) -> bool {
        !self.here && now.saturating_duration_since(self.at) > 2 * self.expected + OVERDUE
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub pace: Pace,
    flying: VecDeque<Flying>,
    /// Requests whose bytes are not here yet.
    asked: usize,
    /// When something last came from it, or it was asked for something while nothing was on its way.
    heard: Instant,
    /// The same, but a whole chunk.
    chunk_heard: Instant,
    received: u64,
    pub suspect: bool,
    /// Deadlines missed in a row; one that has missed any is asked for one chunk at a time.
    pub strikes: u32,
    busy: u32,
    rests_until: Option<Instant>,
    /// What it is willing to have open with this node.
    max_requests: usize,
    /// The table's generation at which it found nothing to do.
    pub hungry: Option<u64>,
    /// Chunks asked of it that had to be asked of another, and those asked of it although another had been.
    pub retries: u64,
    pub hedges: u64,
}

impl Source {
    pub fn new(pace: Pace, max_requests: usize, now: Instant) -> Self {
        Self {
            pace,
            flying: VecDeque::new(),
            asked: 0,
            heard: now,
            chunk_heard: now,
            received: 0,
            suspect: false,
            strikes: 0,
            busy: 0,
            rests_until: None,
            max_requests: max_requests.max(1),
            hungry: None,
            retries: 0,
            hedges: 0,
        }
    }

    pub fn allow(&mut self, max_requests: usize) {
        self.max_requests = max_requests.max(1);
    }

    /// Requests whose bytes are not here yet.
    pub fn in_flight(&self) -> usize {
        self.asked
    }

    pub fn flying(&self) -> impl Iterator<Item = &Flying> {
        self.flying.iter()
    }

    pub fn is_resting(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| until > now)
    }

    pub fn is_busy(&self) -> bool {
        self.busy > 0
    }

    /// True if it brings what it is asked for, as far as is known.
    pub fn is_reliable(&self, now: Instant) -> bool {
        !self.suspect && self.strikes == 0 && !self.is_resting(now)
    }

    /// How many more requests it should have; `extra`: for something that can't wait for its turn.
    pub fn room(&self, now: Instant, extra: usize) -> usize {
        if self.is_resting(now) || (extra > 0 && !self.is_reliable(now)) {
            return 0;
        }
        let depth = if self.strikes > 0 || self.busy > 0 { 1 } else { self.pace.depth() + extra };
        depth.min(self.max_requests).saturating_sub(self.asked)
    }

    /// How long until a chunk would be there that is asked for now. One that has missed deadlines may miss another.
    pub fn until(&self) -> Duration {
        let until = self.pace.until(self.asked);
        if self.strikes > 0 { until + self.pace.deadline() } else { until }
    }

    pub fn ask(&mut self, ticket: Ticket, now: Instant) {
        if self.asked == 0 {
            self.heard = now;
            self.chunk_heard = now;
        }
        let (expected, sent) = (self.until(), self.pace.asked(self.asked, now));
        self.flying.push_back(Flying { ticket, sent, at: now, expected, ahead: self.asked, here: false });
        self.asked += 1;
    }

    /// The bytes of `ticket` are here. False if nobody waits for them any more.
    pub fn brought(&mut self, ticket: Ticket, bytes: usize, now: Instant) -> bool {
        (self.heard, self.chunk_heard) = (now, now);
        (self.suspect, self.strikes, self.busy, self.rests_until) = (false, 0, 0, None);
        let Some(flying) = self.flying.iter_mut().find(|flying| flying.ticket == ticket && !flying.here) else {
            return false;
        };
        flying.here = true;
        self.pace.delivered(bytes, &flying.sent, now);
        self.asked -= 1;
        true
    }

    /// Takes a request off the list, if it is on it.
    pub fn remove(&mut self, wanted: impl Fn(&Ticket) -> bool) -> Option<Ticket> {
        let at = self.flying.iter().position(|flying| wanted(&flying.ticket))?;
        let flying = self.flying.remove(at)?;
        self.asked -= usize::from(!flying.here);
        Some(flying.ticket)
    }

    /// It is too busy.
    pub fn rest_busy(&mut self, now: Instant) {
        self.rests_until = Some(now + (BUSY * 2u32.pow(self.busy.min(8))).min(BUSY_MAX));
        self.busy += 1;
        (self.heard, self.suspect) = (now, false);
    }

    /// It missed its deadline.
    pub fn strike(&mut self, now: Instant) {
        let rest = |before: u32| (REST * 2u32.pow(before.min(8))).min(REST_MAX);
        self.rests_until = self.strikes.checked_sub(1).map(|before| now + rest(before));
        self.strikes += 1;
        self.suspect = false;
    }

    /// `received` bytes have come over its link, ever.
    pub fn progress(&mut self, received: u64, now: Instant) {
        if received >= self.received + PROGRESS {
            self.received = received;
            self.heard = now;
        }
    }

    /// How long nothing has come although something should.
    pub fn silence(&self, now: Instant) -> Duration {
        if self.asked == 0 { Duration::ZERO } else { now.saturating_duration_since(self.heard) }
    }

    /// Bytes per second, as far as it can be counted on now.
    pub fn rate(&self, now: Instant) -> f64 {
        let silence = if self.asked == 0 { Duration::ZERO } else { now.saturating_duration_since(self.chunk_heard) };
        let rate = self.pace.rate_after(silence);
        if self.strikes > 0 { rate.min(CHUNK as f64 / self.pace.deadline().as_secs_f64()) } else { rate }
    }

    /// How long until the request that is number `ahead` in its queue is there.
    pub fn remaining(&self, ahead: usize, flying: &Flying, now: Instant) -> Duration {
        if flying.here {
            return Duration::ZERO;
        }
        let silence = now.saturating_duration_since(self.chunk_heard);
        let remaining = self.pace.remaining(ahead, silence);
        if flying.is_overdue(now) { remaining.max(now.saturating_duration_since(flying.at)) } else { remaining }
    }

    /// Requests with how long they will still take.
    pub fn remainings(&self, now: Instant) -> impl Iterator<Item = (Ticket, Duration)> + '_ {
        let waiting = self.flying.iter().filter(|flying| !flying.here).enumerate();
        waiting.map(move |(ahead, flying)| (flying.ticket, self.remaining(ahead, flying, now)))
    }

    /// A request that the source seems to have forgotten: many that were sent after it have been answered.
    pub fn forgotten(&self, now: Instant) -> Option<Ticket> {
        let first = self.flying.iter().find(|flying| !flying.here)?;
        let overtaken = self.pace.since(&first.sent) > (first.ahead + OVERTAKEN) as u64 * CHUNK;
        (overtaken && first.is_overdue(now)).then_some(first.ticket)
    }
}
