//! One simulated transfer: peers that send one chunk after the other over links with a rate and a delay, and the planner
//! that asks them.

use std::cmp::Ordering;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::bound::{Happened, bound};
use super::scenario::{Dice, Fault, Kind, Peer, Scenario, Wanted};
use crate::base::chunks::CHUNK;
use crate::base::ranges::Ranges;
use crate::swarm::planner::{Act, Planner, Ticket};
use crate::swarm::sections::Slot;

/// What came of a case. Seconds.
#[derive(Debug, Clone)]
#[allow(dead_code)] // Shown by `Debug`.
pub struct Outcome {
    pub kind: Kind,
    pub wanted: Wanted,
    pub chunks: u64,
    pub peers: usize,
    pub took: f64,
    pub bound: f64,
    /// The bound if all faults count as one.
    pub tight: f64,
    /// Requests for chunks.
    pub asked: u64,
    pub faults: u64,
    /// The longest that a reader waited for one chunk.
    pub stall: f64,
}

impl Outcome {
    pub fn ratio(&self) -> f64 {
        self.took / self.bound
    }
}

#[derive(Clone, Debug)]
enum Event {
    Arrives(usize),
    Vanishes(usize),
    Grows(usize, Ranges),
    /// A request, or its cancellation, reaches a peer.
    Asked(usize, Ticket),
    Cancelled(usize, Ticket),
    /// A peer has put a chunk on the wire.
    Sent(usize, Ticket),
    /// An answer reaches this node.
    Brought(usize, Ticket, bool),
    Lacks(usize, Ticket),
    Busy(Ticket),
    Wake,
}

struct Due(f64, u64, Event);

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        // The earliest first.
        other.0.total_cmp(&self.0).then(other.1.cmp(&self.1))
    }
}

/// A peer at work.
struct Working {
    spec: Peer,
    held: Option<Ranges>,
    slot: Option<Slot>,
    there: bool,
    queue: VecDeque<Ticket>,
    /// What it is sending, and since when.
    sending: Option<(Ticket, f64)>,
    sent: u64,
    asked: u64,
    struck: bool,
}

impl Working {
    /// Bytes per second at `time`.
    fn rate(&self, time: f64) -> f64 {
        match self.spec.changes {
            Some((at, rate)) if time >= at => rate,
            _ => self.spec.rate,
        }
    }

    /// When a chunk is on the wire that is begun at `from`; `None`: never.
    fn done(&self, from: f64) -> Option<f64> {
        let mut end = from + CHUNK as f64 / self.rate(from);
        if let Some((change, later)) = self.spec.changes
            && from < change
            && end > change
        {
            end = change + (CHUNK as f64 - (change - from) * self.spec.rate) / later;
        }
        match self.spec.fault {
            Fault::Stops(at) if end > at => None,
            _ => Some(end),
        }
    }

    /// Bytes that have reached this node by `now`.
    fn received(&self, now: f64) -> u64 {
        let there = now - self.spec.delay;
        let stopped = match self.spec.fault {
            Fault::Stops(at) => there.min(at),
            _ => there,
        };
        let partly = self
            .sending
            .map_or(0.0, |(_, since)| ((stopped - since).max(0.0) * self.rate(since)).min(CHUNK as f64 - 1.0));
        self.sent * CHUNK + partly as u64
    }
}

struct World {
    scenario: Scenario,
    planner: Planner,
    peers: Vec<Working>,
    by_slot: HashMap<Slot, usize>,
    queue: BinaryHeap<Due>,
    count: u64,
    now: f64,
    epoch: Instant,
    dice: Dice,
    open: BTreeSet<u64>,
    happened: Happened,
    asked: u64,
    wake: Option<f64>,
    wanted: Ranges,
    head: u64,
    ahead: u64,
    waits_since: f64,
    stall: f64,
    tell: bool,
}

/// Runs the case of `seed`. Panics where the invariant breaks or nothing comes any more.
pub fn run(seed: u64, tell: bool) -> Outcome {
    let scenario = Scenario::of(seed);
    let epoch = Instant::now();
    let peers: Vec<Working> = scenario
        .peers
        .iter()
        .map(|spec| Working {
            spec: spec.clone(),
            held: spec.held.clone(),
            slot: None,
            there: false,
            queue: VecDeque::new(),
            sending: None,
            sent: 0,
            asked: 0,
            struck: false,
        })
        .collect();
    let count = peers.len();
    let mut world = World {
        planner: Planner::new(scenario.chunks, seed, epoch),
        scenario,
        peers,
        by_slot: HashMap::new(),
        queue: BinaryHeap::new(),
        count: 0,
        now: 0.0,
        epoch,
        dice: Dice::new(!seed),
        open: BTreeSet::new(),
        happened: Happened {
            known: (0.0, Ranges::new()),
            lost_before: vec![0.0; count],
            lost: vec![0.0; count],
            faults: vec![0; count],
        },
        asked: 0,
        wake: None,
        wanted: Ranges::new(),
        head: 0,
        ahead: 0,
        waits_since: 0.0,
        stall: 0.0,
        tell,
    };
    world.go();
    let faults = world.happened.faults.iter().sum();
    let (bound, tight) = bound(&world.scenario, &world.happened);
    Outcome {
        kind: world.scenario.kind,
        wanted: world.scenario.wanted,
        chunks: world.scenario.chunks,
        peers: count,
        took: world.now,
        bound,
        tight,
        asked: world.asked,
        faults,
        stall: world.stall,
    }
}

impl World {
    fn at(&self, time: f64) -> Instant {
        self.epoch + Duration::from_secs_f64(time)
    }

    fn push(&mut self, time: f64, event: Event) {
        self.count += 1;
        self.queue.push(Due(time, self.count, event));
    }

    fn go(&mut self) {
        for at in 0..self.peers.len() {
            self.push(self.peers[at].spec.arrives, Event::Arrives(at));
            if let Fault::Vanishes(when) = self.peers[at].spec.fault {
                self.push(when, Event::Vanishes(at));
            }
            for (when, more) in self.peers[at].spec.grows.clone() {
                self.push(when, Event::Grows(at, more));
            }
        }
        match self.scenario.wanted {
            Wanted::Whole => {
                self.wanted = Ranges::of(0..self.scenario.chunks);
                self.planner.want(&self.wanted);
            }
            Wanted::Stream(_) => self.read_on(),
        }
        let mut surprises = self.scenario.surprises();
        surprises.retain(|at| *at > 0.0);
        surprises.sort_by(f64::total_cmp);
        let mut steps = 0u64;
        while self.planner.table().done().len() < self.scenario.chunks {
            let Some(Due(time, _, event)) = self.queue.pop() else { panic!("nothing happens any more") };
            if self.scenario.kind == Kind::PartsThatChange && surprises.first().is_some_and(|at| *at <= time) {
                surprises.retain(|at| *at > time);
                self.now = time;
                self.learns();
            }
            self.now = time;
            self.happens(event);
            if matches!(self.scenario.wanted, Wanted::Stream(_)) {
                self.read_on();
            }
            // Who is there from the start is found at once.
            if self.queue.peek().is_some_and(|due| due.0 == time && matches!(due.2, Event::Arrives(_))) {
                continue;
            }
            self.act();
            steps += 1;
            self.planner.table().check(Some(&self.wanted));
            assert!(
                steps < 3_000_000 && time < 1e5,
                "it never ends: {} of {} done",
                self.planner.table().done().len(),
                self.scenario.chunks
            );
        }
    }

    /// A reader takes what is there and asks for what is next.
    fn read_on(&mut self) {
        let Wanted::Stream(window) = self.scenario.wanted else { return };
        let chunks = self.scenario.chunks;
        let before = self.head;
        while self.head < chunks && self.planner.table().done().contains(self.head) {
            self.head += 1;
        }
        let until = (self.head + window).min(chunks);
        if until > self.ahead && (until - self.ahead >= window / 4 || until == chunks) {
            let more = Ranges::of(self.ahead..until);
            self.wanted.union_with(&more);
            self.ahead = until;
            self.planner.want_near(&more);
        }
        if self.head > before || self.now == 0.0 {
            self.stall = self.stall.max(self.now - self.waits_since);
            self.waits_since = self.now;
        }
        if self.head < chunks {
            self.planner.want_now(self.head);
        }
    }

    fn happens(&mut self, event: Event) {
        let now = self.at(self.now);
        if self.tell && !matches!(event, Event::Wake | Event::Asked(..) | Event::Sent(..)) {
            println!("{:.4} {event:?}", self.now);
        }
        match event {
            Event::Arrives(at) => {
                let peer = &mut self.peers[at];
                peer.there = true;
                let held = match peer.spec.fault {
                    Fault::Boasts => None,
                    _ => peer.held.clone(),
                };
                // More or less what it was last time.
                let error = self.dice.log(0.75, 1.33);
                let rate = self.scenario.known.then_some(peer.spec.rate * error);
                let slot = self.planner.arrives(held, rate, 64, now);
                self.planner.round_trip(slot, Duration::from_secs_f64(2.0 * peer.spec.delay));
                peer.slot = Some(slot);
                self.by_slot.insert(slot, at);
            }
            Event::Vanishes(at) => self.parts(at),
            Event::Grows(at, more) => {
                let peer = &mut self.peers[at];
                if let Some(held) = &mut peer.held {
                    held.union_with(&more);
                }
                if let Some(slot) = peer.slot {
                    self.planner.holds_more(slot, &more);
                }
            }
            Event::Asked(at, ticket) => self.asked(at, ticket),
            Event::Cancelled(at, ticket) => self.peers[at].queue.retain(|waiting| *waiting != ticket),
            Event::Sent(at, ticket) => {
                let peer = &mut self.peers[at];
                peer.sending = None;
                peer.sent += 1;
                let right = !matches!(peer.spec.fault, Fault::Lies(from) if peer.sent > from);
                let delay = peer.spec.delay;
                self.push(self.now + delay, Event::Brought(at, ticket, right));
                self.send(at);
            }
            Event::Brought(at, ticket, right) => {
                if !self.open.remove(&ticket.serial) {
                    return;
                }
                self.planner.brought(ticket, CHUNK as usize, now);
                if right {
                    self.planner.verified(ticket);
                } else {
                    self.happened.faults[at] += 1;
                    self.learns();
                    self.parts(at);
                }
            }
            Event::Lacks(at, ticket) => {
                if self.open.remove(&ticket.serial) {
                    let held = self.peers[at].held.clone().unwrap_or_default();
                    self.planner.lacks(ticket, held, now);
                }
            }
            Event::Busy(ticket) => {
                if self.open.remove(&ticket.serial) {
                    self.planner.busy(ticket, now);
                }
            }
            Event::Wake => {
                self.wake = None;
                let (peers, by_slot, time) = (&self.peers, &self.by_slot, self.now);
                self.planner.tick(now, |slot| by_slot.get(&slot).map(|at| peers[*at].received(time)));
            }
        }
    }

    /// Something comes out that could not have been known.
    fn learns(&mut self) {
        if self.scenario.kind == Kind::PartsThatChange {
            self.happened.known = (self.now, self.planner.table().done().clone());
            let peers = self.peers.iter().zip(&self.happened.lost);
            // What is held up now is not lost yet.
            let ahead = |peer: &Working| peer.sending.map_or(0.0, |(_, begin)| (begin - self.now).max(0.0));
            self.happened.lost_before = peers.map(|(peer, lost)| lost - ahead(peer)).collect();
        }
    }

    /// A peer's session ends.
    fn parts(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        peer.there = false;
        if let Some(slot) = peer.slot.take() {
            if peer.asked > 0 && matches!(peer.spec.fault, Fault::Vanishes(_)) {
                self.happened.faults[at] += 1;
            }
            self.by_slot.remove(&slot);
            self.planner.gone(slot);
        }
    }

    /// A request reaches a peer.
    fn asked(&mut self, at: usize, ticket: Ticket) {
        let peer = &mut self.peers[at];
        if !peer.there {
            return;
        }
        peer.asked += 1;
        let back = self.now + peer.spec.delay;
        let lacks = peer.held.as_ref().is_some_and(|held| !held.contains(ticket.chunk));
        let fault = peer.spec.fault;
        let mut faulty = |happened: &mut Happened| {
            if !std::mem::replace(&mut peer.struck, true) {
                happened.faults[at] += 1;
            }
        };
        match fault {
            Fault::Silent => faulty(&mut self.happened),
            Fault::Busy(until) if self.now < until => {
                faulty(&mut self.happened);
                self.push(back, Event::Busy(ticket));
            }
            Fault::Forgets(probability) if self.dice.chance(probability) => self.happened.faults[at] += 1,
            _ if lacks => {
                if fault == Fault::Boasts {
                    faulty(&mut self.happened);
                    self.learns();
                }
                self.push(back, Event::Lacks(at, ticket));
            }
            _ => {
                peer.queue.push_back(ticket);
                self.send(at);
            }
        }
    }

    /// A peer that sends nothing begins with the next request.
    fn send(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        if peer.sending.is_some() || !peer.there {
            return;
        }
        let Some(ticket) = peer.queue.pop_front() else { return };
        let (probability, time) = peer.spec.loss;
        let mut begin = self.now;
        if self.dice.chance(probability) {
            begin += time;
            self.happened.lost[at] += time;
        }
        peer.sending = Some((ticket, begin));
        match peer.done(begin) {
            Some(done) => self.push(done, Event::Sent(at, ticket)),
            None => self.happened.faults[at] = 1,
        }
    }

    /// Does what the planner wants done.
    fn act(&mut self) {
        let now = self.at(self.now);
        for act in self.planner.acts(now) {
            match act {
                Act::Ask(ticket) => {
                    self.asked += 1;
                    self.open.insert(ticket.serial);
                    if let Some(&at) = self.by_slot.get(&ticket.slot) {
                        if self.tell {
                            println!("{:.4} ask {at} for {}", self.now, ticket.chunk);
                        }
                        self.push(self.now + self.peers[at].spec.delay, Event::Asked(at, ticket));
                    }
                }
                Act::Cancel(ticket) => {
                    self.open.remove(&ticket.serial);
                    if let Some(&at) = self.by_slot.get(&ticket.slot) {
                        self.push(self.now + self.peers[at].spec.delay, Event::Cancelled(at, ticket));
                    }
                }
            }
        }
        if let Some(wake) = self.planner.wake() {
            let wake = wake.saturating_duration_since(self.epoch).as_secs_f64().max(self.now);
            if self.wake.is_none_or(|set| wake < set - 1e-9) {
                self.wake = Some(wake);
                self.push(wake, Event::Wake);
            }
        }
    }
}
