//! Which peer's request is served next: weighted fair queueing (start-time fair queueing: Goyal, Vin and Cheng,
//! "Start-time Fair Queuing", SIGCOMM 1996), a bound on how much is being served at once, and a limit on the rate. Pure.
//!
//! Weights decide only while more is asked than can be sent. So the bound on what is being served follows the rate at
//! which chunks leave: about [`QUEUE_TIME`] of it, enough to keep the link busy, and less than what two peers ask for
//! ahead, so that they wait here and not in the kernel, where all are equal. A peer that takes its chunks slowly (its own
//! link is the narrow one) keeps a few of its own and holds up nobody else.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::base::chunks::CHUNK;
use crate::base::ids::NodeId;

/// What is being served should take about this long to leave.
const QUEUE_TIME: f64 = 0.01;
/// Never fewer chunks at once: the disk and the link should both have work.
const MIN_SLOTS: usize = 4;
/// Chunks at once before the rate is known.
const FIRST_SLOTS: usize = 8;
/// The rate at which chunks leave is measured over spans of this length.
const SPAN: Duration = Duration::from_millis(250);
/// Chunks of a slow peer that are served beside the others.
const SLOW_SLOTS: usize = 2;
/// A peer whose chunk needs this much longer than the queue explains is slow.
const SLOW_AFTER: Duration = Duration::from_millis(500);
/// A rate limit lets this much through at once, so that chunks of full size pass a small limit.
const BURST: f64 = 2.0 * CHUNK as f64;
/// Peers whose place in the queue is remembered after their last request.
const MAX_FLOWS: usize = 4096;

/// One request that waits or is served.
pub type Ticket = u64;

/// Bounds that a user may set.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct UploadLimits {
    /// Bytes per second to all peers together; `None`: what the link takes.
    pub rate: Option<u64>,
    /// Chunks at once; `None`: as the rate asks for, up to `MAX_SLOTS`.
    pub slots: Option<usize>,
}

/// The most chunks that are served at once.
pub const MAX_SLOTS: usize = 32;

#[derive(Debug, Default)]
struct Flow {
    weight: f64,
    /// The finish tag of the last request.
    finish: f64,
    /// Ticket, start tag, bytes.
    waiting: VecDeque<(Ticket, f64, usize)>,
    /// Since when each is served.
    serving: BTreeMap<Ticket, (Instant, usize)>,
    slow: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Admission {
    limits: UploadLimits,
    /// The start tag of the request that was admitted last.
    virtual_time: f64,
    flows: BTreeMap<NodeId, Flow>,
    of: BTreeMap<Ticket, NodeId>,
    next: Ticket,
    span: (Instant, usize),
    /// Bytes per second that leave; 0 if not known.
    rate: f64,
    tokens: (Instant, f64),
}

impl Admission {
    /// Nobody asks yet.
    pub fn new(limits: UploadLimits, now: Instant) -> Self {
        Self {
            limits,
            virtual_time: 0.0,
            flows: BTreeMap::new(),
            of: BTreeMap::new(),
            next: 1,
            span: (now, 0),
            rate: 0.0,
            tokens: (now, BURST),
        }
    }

    /// Other limits from now on.
    pub fn limit(&mut self, limits: UploadLimits) {
        self.limits = limits;
        // What was sent before does not count against a new limit.
        self.tokens.1 = BURST;
    }

    /// The limits in force.
    pub fn limits(&self) -> UploadLimits {
        self.limits
    }

    /// A request of `node` for `bytes`. `weight` is what it has earned by now; only the ratio to the others' counts.
    pub fn ask(&mut self, node: NodeId, bytes: usize, weight: f64) -> Ticket {
        let ticket = self.next;
        self.next += 1;
        if self.flows.len() >= MAX_FLOWS {
            self.flows.retain(|_, flow| !flow.waiting.is_empty() || !flow.serving.is_empty());
        }
        let virtual_time = self.virtual_time;
        let flow = self.flows.entry(node).or_default();
        flow.weight = weight.max(1.0);
        let start = flow.finish.max(virtual_time);
        flow.finish = start + bytes as f64 / flow.weight;
        flow.waiting.push_back((ticket, start, bytes));
        self.of.insert(ticket, node);
        ticket
    }

    /// The next request to serve, if any may be served now.
    pub fn admit(&mut self, now: Instant) -> Option<Ticket> {
        self.refill(now);
        if self.limits.rate.is_some() && self.tokens.1 < 0.0 {
            return None;
        }
        self.mark_slow(now);
        let counted: usize = self.flows.values().filter(|flow| !flow.slow).map(|flow| flow.serving.len()).sum();
        let slots = self.slots();
        let may = |flow: &Flow| if flow.slow { flow.serving.len() < SLOW_SLOTS } else { counted < slots };
        let heads = self.flows.iter().filter(|(_, flow)| may(flow));
        let heads = heads.filter_map(|(node, flow)| flow.waiting.front().map(|head| (head.1, *node)));
        let (start, node) = heads.min_by(|a, b| a.0.total_cmp(&b.0))?;
        let flow = self.flows.get_mut(&node)?;
        let (ticket, _, bytes) = flow.waiting.pop_front()?;
        flow.serving.insert(ticket, (now, bytes));
        self.virtual_time = self.virtual_time.max(start);
        if self.limits.rate.is_some() {
            self.tokens.1 -= bytes as f64;
        }
        Some(ticket)
    }

    /// A request has been served, or nobody wants it any more.
    pub fn done(&mut self, ticket: Ticket, now: Instant) {
        let Some(node) = self.of.remove(&ticket) else { return };
        let Some(flow) = self.flows.get_mut(&node) else { return };
        match flow.serving.remove(&ticket) {
            Some((since, bytes)) => {
                let limit = slow_limit(self.rate, self.limits.slots);
                if now.saturating_duration_since(since) < limit
                    && flow.serving.values().all(|(since, _)| now.saturating_duration_since(*since) < limit)
                {
                    flow.slow = false;
                }
                self.measure(bytes, now);
            }
            None => flow.waiting.retain(|(waiting, _, _)| *waiting != ticket),
        }
    }

    /// When to call [`Admission::admit`] again although nothing has happened: the rate limit lets more through then.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        let rate = self.limits.rate?;
        let waits = self.flows.values().any(|flow| !flow.waiting.is_empty());
        (waits && self.tokens.1 < 0.0).then(|| now + Duration::from_secs_f64(-self.tokens.1 / rate.max(1) as f64))
    }

    /// Peers with a request that waits or is served, and each one's share of the link while all of them ask.
    pub fn shares(&self) -> Vec<(NodeId, f64)> {
        let active = |flow: &&Flow| !flow.waiting.is_empty() || !flow.serving.is_empty();
        let all: f64 = self.flows.values().filter(active).map(|flow| flow.weight).sum();
        self.flows.iter().filter(|(_, flow)| active(flow)).map(|(node, flow)| (*node, flow.weight / all)).collect()
    }

    fn slots(&self) -> usize {
        let wanted =
            if self.rate == 0.0 { FIRST_SLOTS } else { (self.rate * QUEUE_TIME / CHUNK as f64).ceil() as usize };
        wanted.max(MIN_SLOTS).min(self.limits.slots.unwrap_or(MAX_SLOTS).max(1))
    }

    fn refill(&mut self, now: Instant) {
        if let Some(rate) = self.limits.rate {
            let passed = now.saturating_duration_since(self.tokens.0).as_secs_f64();
            self.tokens.1 = (self.tokens.1 + passed * rate as f64).min(BURST);
        }
        self.tokens.0 = now;
    }

    fn measure(&mut self, bytes: usize, now: Instant) {
        self.span.1 += bytes;
        let passed = now.saturating_duration_since(self.span.0);
        if passed < SPAN {
            return;
        }
        let rate = self.span.1 as f64 / passed.as_secs_f64();
        // A span with a pause in it says nothing of the link.
        if passed < 4 * SPAN {
            self.rate = if self.rate == 0.0 { rate } else { 0.5 * self.rate + 0.5 * rate };
        }
        self.span = (now, 0);
    }

    fn mark_slow(&mut self, now: Instant) {
        let limit = slow_limit(self.rate, self.limits.slots);
        for flow in self.flows.values_mut() {
            if flow.serving.values().any(|(since, _)| now.saturating_duration_since(*since) > limit) {
                flow.slow = true;
            }
        }
    }
}

/// A chunk that is being served for longer than this waits for its receiver, not for its turn.
fn slow_limit(rate: f64, slots: Option<usize>) -> Duration {
    let queue = match slots {
        Some(slots) if rate > 0.0 => slots as f64 * CHUNK as f64 / rate,
        _ => QUEUE_TIME,
    };
    // With few slots on a slow link, the queue is longer than it should be.
    let least = if rate > 0.0 { MIN_SLOTS as f64 * CHUNK as f64 / rate } else { 0.0 };
    SLOW_AFTER + Duration::from_secs_f64((2.0 * queue.max(least)).min(60.0))
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
