//! Decides whom to ask for what, when to stop waiting, and what to ask twice: the transfer without its I/O. Events and
//! the time go in, [`Act`]s come out. The transfer drives it over sessions, the simulator over a virtual clock.
//!
//! On top of the section table it knows each source's pace. It keeps every source's pipeline as full as its pace says,
//! hedges what a reader waits for when that is late, asks again what a silent source has promised, and in the end game
//! has idle sources bring what is still in flight elsewhere, if they bring it sooner.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};

use super::pace::{FIRST_RATE, Pace};
use super::report::Limit;
use super::sections::{MAX_ASKERS, Place, SectionTable, Slot};
use super::source::Source;
pub use super::source::Ticket;
use crate::base::chunks::CHUNK;
use crate::base::ranges::Ranges;

/// How often lateness is looked for while somebody waits for it (a reader, or a source that has nothing to do), and
/// otherwise.
const TICK_SOON: Duration = Duration::from_millis(10);
const TICK: Duration = Duration::from_millis(50);
/// A hedge must promise to save this much, and the chunk must take more than twice as long without it.
const HEDGE_GAIN: Duration = Duration::from_millis(20);
/// In the end game: the same, where only idle sources are asked. Less is noise.
const END_GAIN: Duration = Duration::from_millis(5);
/// In the end game a chunk from a source of which nothing is known is expected after this at the earliest.
const UNKNOWN: Duration = Duration::from_secs(1);
/// The end game is thought about at most this often.
const END_PAUSE: Duration = Duration::from_millis(5);
/// What a source that rests counts for in the table, in bytes per second: nobody waits for it.
const RESTING_RATE: f64 = 1.0;
/// How often sections are evened out while sources hold different parts.
const BALANCE: Duration = Duration::from_millis(200);
/// What a reader waits for may exceed a source's depth by this many requests.
const EXTRA: usize = 4;
/// Readers' heads that are closer than this (in chunks) are one: the kernel asks for several chunks of one reader at once.
const HEAD_APART: u64 = 64;
/// Chunks that readers wait for that are looked at at once.
const URGENT_MAX: usize = 64;

/// What is to be done. In this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// Ask the ticket's source for the ticket's chunk.
    Ask(Ticket),
    /// Nobody waits for this any more: cancel the request.
    Cancel(Ticket),
}

/// What all reliable sources together can do, as of a moment and a request.
#[derive(Clone, Copy, Debug)]
struct Outlook {
    at: Instant,
    serial: u64,
    /// Bytes per second.
    rate: f64,
    /// How long the one takes that would bring a chunk first.
    soonest: Duration,
    /// Sources that hold everything.
    whole: usize,
}

/// See the module.
pub struct Planner {
    table: SectionTable,
    sources: Vec<Option<Source>>,
    /// Chunks that readers wait for.
    urgent: BTreeSet<u64>,
    /// Chunks near a reader, in flight from sources that may have stalled.
    doubtful: BTreeSet<u64>,
    serial: u64,
    acts: Vec<Act>,
    /// Something changed for everybody, or for these sources: their pipelines are to be looked at.
    stale: bool,
    fresh: Vec<Slot>,
    /// Readers have begun to wait for these.
    rushed: Vec<u64>,
    outlook: Outlook,
    /// Some source had nothing to do when that was last looked at.
    idle: bool,
    /// Sources came since sections were given out.
    newcomers: bool,
    balanced: Instant,
    /// No work without an order while this many chunks are in flight.
    credit: usize,
    /// Which of the readers' heads gets the next section.
    turn: usize,
    ticked: Instant,
    end_game_at: Instant,
    hedges: u64,
    seed: u64,
    /// The file's last chunk.
    last: u64,
}

impl Planner {
    /// For a file of `chunks` chunks. `seed`: derived from this node's id, so that downloaders of one file begin apart.
    pub fn new(chunks: u64, seed: u64, now: Instant) -> Self {
        Self {
            table: SectionTable::new(chunks, seed % chunks.max(1)),
            sources: Vec::new(),
            urgent: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            serial: 0,
            acts: Vec::new(),
            stale: false,
            fresh: Vec::new(),
            rushed: Vec::new(),
            outlook: Outlook { at: now, serial: 0, rate: 0.0, soonest: Duration::ZERO, whole: 0 },
            idle: false,
            newcomers: false,
            balanced: now,
            credit: usize::MAX,
            turn: 0,
            ticked: now,
            end_game_at: now,
            hedges: 0,
            seed,
            last: chunks.saturating_sub(1),
        }
    }

    /// The section table, to look at.
    pub fn table(&self) -> &SectionTable {
        &self.table
    }

    /// What is to be done now. Call it after each event, or after several that came together.
    pub fn acts(&mut self, now: Instant) -> Vec<Act> {
        if std::mem::take(&mut self.stale) {
            self.fresh.clear();
            self.fill_all(now);
            self.rushed.clear();
            self.hurry_all(now);
        }
        while let Some(slot) = self.fresh.pop() {
            self.fill(slot, now);
        }
        while let Some(chunk) = self.rushed.pop() {
            self.hurry(chunk, now);
        }
        std::mem::take(&mut self.acts)
    }

    fn get(&self, slot: Slot) -> Option<&Source> {
        self.sources.get(slot.0 as usize)?.as_ref()
    }

    fn get_mut(&mut self, slot: Slot) -> Option<&mut Source> {
        self.sources.get_mut(slot.0 as usize)?.as_mut()
    }

    fn each(&self) -> impl Iterator<Item = (Slot, &Source)> {
        self.sources.iter().enumerate().filter_map(|(at, source)| Some((Slot(at as u32), source.as_ref()?)))
    }

    // ---- What is wanted.

    /// These are wanted, in no particular order.
    pub fn want(&mut self, chunks: &Ranges) {
        self.table.want(chunks);
        self.stale = true;
    }

    /// A reader will read these soon, the first ones first.
    pub fn want_near(&mut self, chunks: &Ranges) {
        self.table.want_near(chunks);
        self.stale = true;
    }

    /// A reader waits for this chunk.
    pub fn want_now(&mut self, chunk: u64) {
        if self.table.done().contains(chunk) || !self.urgent.insert(chunk) {
            return;
        }
        if !self.table.is_near(chunk) {
            self.table.want_near(&Ranges::of(chunk..chunk + 1));
        }
        // If it is on its way, there is nothing to do for others than to see whether it is late.
        match self.table.askers(chunk).next() {
            Some(_) => self.rushed.push(chunk),
            None => self.stale = true,
        }
    }

    /// Nobody wants these any more; what is in flight of them is cancelled.
    pub fn unwant(&mut self, chunks: &Ranges) {
        self.table.unwant(chunks);
        self.urgent.retain(|chunk| !chunks.contains(*chunk));
        self.doubtful.retain(|chunk| !chunks.contains(*chunk));
        let dropped: Vec<u64> = self.table.dropped().intersection(chunks).iter().collect();
        for chunk in dropped {
            let askers: Vec<Slot> = self.table.askers(chunk).collect();
            for slot in askers {
                self.cancel(chunk, slot);
                self.table.failed(chunk, slot);
            }
        }
        self.stale = true;
    }

    /// These have left the cache and may be wanted again.
    pub fn forget(&mut self, chunks: &Ranges) {
        self.table.forget(chunks);
    }

    /// At most this many chunks in flight if what is in flight has no order: whoever takes them takes no more now.
    pub fn credit(&mut self, chunks: usize) {
        let grows = chunks > self.credit;
        self.credit = chunks;
        if grows {
            self.sources.iter_mut().flatten().for_each(|source| source.hungry = None);
            self.stale = true;
        }
    }

    /// There are other downloaders of this file: fetch first what they don't have.
    pub fn scatter(&mut self) {
        self.table.scatter(self.seed);
    }

    // ---- Sources.

    /// A source is there; it brings what it holds (`None`: everything). `rate`: bytes per second, if known from elsewhere.
    pub fn arrives(&mut self, held: Option<Ranges>, rate: Option<f64>, max_requests: usize, now: Instant) -> Slot {
        let pace = rate.map_or_else(|| Pace::new(self.usual_rate()), Pace::remembered);
        let at = self.sources.iter().position(Option::is_none).unwrap_or(self.sources.len());
        let slot = Slot(at as u32);
        if at == self.sources.len() {
            self.sources.push(None);
        }
        self.table.source(slot, held, pace.rate());
        self.sources[at] = Some(Source::new(pace, max_requests, now));
        self.newcomers = true;
        self.stale = true;
        slot
    }

    /// What to expect of a stranger: what the others bring.
    fn usual_rate(&self) -> f64 {
        let measured = self.each().filter_map(|(_, source)| source.pace.measured());
        let (count, sum) = measured.fold((0u32, 0.0), |(count, sum), rate| (count + 1, sum + rate));
        if count == 0 { FIRST_RATE } else { sum / f64::from(count) }
    }

    /// What a source said of itself: what it holds and how many requests it is willing to have open.
    pub fn opened(&mut self, slot: Slot, held: Option<Ranges>, max_requests: usize, now: Instant) {
        if let Some(source) = self.sources.get_mut(slot.0 as usize).and_then(Option::as_mut) {
            source.allow(max_requests);
            source.hungry = None;
            self.table.source(slot, held, source.rate(now));
            self.stale = true;
        }
    }

    /// The source holds these too.
    pub fn holds_more(&mut self, slot: Slot, more: &Ranges) {
        self.table.holds_more(slot, more);
        self.fresh.push(slot);
    }

    /// A round trip to the source took this long.
    pub fn round_trip(&mut self, slot: Slot, rtt: Duration) {
        if let Some(source) = self.get_mut(slot) {
            source.pace.round_trip(rtt);
        }
    }

    /// The source is gone, or of no more use: what it was to bring is asked of others.
    pub fn gone(&mut self, slot: Slot) {
        let Some(source) = self.sources.get_mut(slot.0 as usize).and_then(Option::take) else { return };
        self.acts.extend(source.flying().map(|flying| Act::Cancel(flying.ticket)));
        for chunk in self.table.gone(slot) {
            self.doubtful.remove(&chunk);
        }
        self.stale = true;
    }

    // ---- Answers.

    /// The bytes that `ticket` asked for are here, `bytes` of them, not verified yet.
    pub fn brought(&mut self, ticket: Ticket, bytes: usize, now: Instant) {
        let Some(source) = self.sources.get_mut(ticket.slot.0 as usize).and_then(Option::as_mut) else { return };
        let (was_suspect, was_measured) = (source.suspect, source.pace.measured().is_some());
        source.brought(ticket, bytes, now);
        self.table.rate(ticket.slot, source.pace.rate());
        if was_suspect {
            for flying in source.flying() {
                self.doubtful.remove(&flying.ticket.chunk);
            }
        }
        if !was_measured {
            let usual = self.usual_rate();
            for (at, source) in self.sources.iter_mut().enumerate() {
                if let Some(source) = source.as_mut().filter(|source| !source.pace.is_known()) {
                    source.pace.guess(usual);
                    self.table.rate(Slot(at as u32), source.rate(now));
                }
            }
        }
    }

    /// What `ticket` asked for is here and verified. True if it was not there before.
    pub fn verified(&mut self, ticket: Ticket) -> bool {
        let known = self.get_mut(ticket.slot).and_then(|source| source.remove(|other| other.serial == ticket.serial));
        // The source may have gone, and its slot been given to another, who may have been asked for the chunk too.
        let first = self.have(ticket.chunk, known.map_or(Slot(u32::MAX), |ticket| ticket.slot));
        self.fresh.push(ticket.slot);
        first
    }

    /// `chunk` is here, whoever brought it. True if it was not there before.
    fn have(&mut self, chunk: u64, slot: Slot) -> bool {
        let landed = self.table.landed(chunk, slot);
        for loser in landed.losers {
            self.cancel(chunk, loser);
        }
        self.urgent.remove(&chunk);
        self.doubtful.remove(&chunk);
        landed.first
    }

    /// The source does not have the ticket's chunk; it holds these.
    pub fn lacks(&mut self, ticket: Ticket, held: Ranges, now: Instant) {
        self.not_brought(ticket);
        let mut held = held;
        // Whatever it says, it has just refused this one.
        held.remove(ticket.chunk..ticket.chunk + 1);
        if let Some(source) = self.sources.get_mut(ticket.slot.0 as usize).and_then(Option::as_mut) {
            source.hungry = None;
            self.table.source(ticket.slot, Some(held), source.rate(now));
        }
        self.stale = true;
    }

    /// The source is too busy for the ticket's request.
    pub fn busy(&mut self, ticket: Ticket, now: Instant) {
        self.not_brought(ticket);
        if let Some(source) = self.get_mut(ticket.slot) {
            source.rest_busy(now);
            self.table.release(ticket.slot);
            self.table.rate(ticket.slot, RESTING_RATE);
        }
        self.stale = true;
    }

    fn not_brought(&mut self, ticket: Ticket) {
        if let Some(source) = self.get_mut(ticket.slot)
            && source.remove(|other| other.serial == ticket.serial).is_some()
        {
            source.retries += 1;
            self.table.failed(ticket.chunk, ticket.slot);
            self.doubtful.remove(&ticket.chunk);
        }
    }

    fn cancel(&mut self, chunk: u64, slot: Slot) {
        if let Some(ticket) = self.get_mut(slot).and_then(|source| source.remove(|ticket| ticket.chunk == chunk)) {
            self.acts.push(Act::Cancel(ticket));
        }
    }

    // ---- Asking.

    fn ask(&mut self, slot: Slot, chunk: u64, now: Instant) {
        self.serial += 1;
        let ticket = Ticket { slot, chunk, serial: self.serial };
        if let Some(source) = self.get_mut(slot) {
            source.ask(ticket, now);
            self.acts.push(Act::Ask(ticket));
        }
    }

    /// Asks a source for as much as its pace allows.
    fn fill(&mut self, slot: Slot, now: Instant) {
        while self.fill_one(slot, now) {}
        if self.get(slot).is_some_and(|source| source.hungry.is_some()) {
            self.end_game(now);
        }
    }

    /// One more chunk of this source, if it has room for it and there is one for it.
    fn fill_one(&mut self, slot: Slot, now: Instant) -> bool {
        let generation = self.table.generation();
        let Some(source) = self.get(slot) else { return false };
        if source.room(now, 0) == 0 || source.hungry == Some(generation) {
            return false;
        }
        if self.is_asked_enough(slot, source) {
            return false;
        }
        let doubtful = if source.is_reliable(now) {
            self.doubtful.iter().copied().find(|chunk| self.table.holds(slot, *chunk))
        } else {
            None
        };
        if let Some(chunk) = doubtful {
            self.doubtful.remove(&chunk);
            if self.table.take(chunk, slot) {
                self.hedges += 1;
                self.get_mut(slot).into_iter().for_each(|source| source.hedges += 1);
                self.ask(slot, chunk, now);
                return true;
            }
        }
        let cuts = self.table.near_unassigned() > 0 && !self.table.has_near(slot);
        let place = if cuts { self.place(slot, now) } else { Some(Place::default()) };
        let free = self.table.in_flight() < self.credit;
        let chunk = self.table.next(slot, place, free);
        let generation = self.table.generation();
        match chunk {
            Some(chunk) => self.ask(slot, chunk, now),
            None => self.get_mut(slot).into_iter().for_each(|source| source.hungry = Some(generation)),
        }
        chunk.is_some()
    }

    /// What one source has been asked for can't be given to another that could bring it sooner: so near the end of the work
    /// and while sources hold different parts, less waits at a source than its pace would allow.
    fn is_asked_enough(&self, slot: Slot, source: &Source) -> bool {
        let (in_flight, depth) = (source.in_flight(), source.pace.depth() as u64);
        if in_flight < source.pace.last_depth() || self.table.near_unassigned() > 0 || self.reads_on() {
            return false;
        }
        let ends = || self.table.assigned(slot) < depth || self.table.waiting() < depth * self.sources.len() as u64;
        in_flight >= source.pace.lean_depth() && self.table.is_uneven() || ends()
    }

    /// Where in the readers' windows the source's next section should lie, so that it is there when it is read.
    fn place(&mut self, slot: Slot, now: Instant) -> Option<Place> {
        let outlook = self.outlook(now);
        let source = self.get(slot)?;
        let takes = source.until();
        let rank = (takes.saturating_sub(outlook.soonest).as_secs_f64() * outlook.rate / CHUNK as f64) as u64;
        let unassigned = self.table.near_unassigned();
        // Too slow for this window: whatever it brought, the reader would wait for it. But a source of which nothing is
        // known gets a try.
        let others = outlook.whole > usize::from(self.table.held(slot).is_none() && source.is_reliable(now));
        if others && rank > unassigned + unassigned / 4 && source.pace.measured().is_some() {
            return None;
        }
        let heads = self.heads();
        self.turn = self.turn.wrapping_add(1);
        let head = if heads.is_empty() { 0 } else { heads[self.turn % heads.len()] };
        Some(Place { head, rank })
    }

    /// What all sources together can do. With many sources it is looked at again only after some more requests: what one
    /// request changes is little then.
    fn outlook(&mut self, now: Instant) -> Outlook {
        let stale = self.serial >= self.outlook.serial + (self.sources.len() / 8) as u64;
        if stale || self.outlook.at != now {
            let mut outlook = Outlook { at: now, serial: self.serial, rate: 0.0, soonest: Duration::MAX, whole: 0 };
            for (slot, source) in self.each().filter(|(_, source)| source.is_reliable(now)) {
                outlook.rate += source.rate(now);
                outlook.soonest = outlook.soonest.min(source.until());
                outlook.whole += usize::from(self.table.held(slot).is_none());
            }
            self.outlook = outlook;
        }
        self.outlook
    }

    /// The chunks at which readers wait, one for each reader.
    fn heads(&self) -> Vec<u64> {
        let mut heads: Vec<u64> = Vec::new();
        let mut last = None;
        for &chunk in self.urgent.iter().take(URGENT_MAX) {
            if last.is_none_or(|last| chunk > last + HEAD_APART) {
                heads.push(chunk);
            }
            last = Some(chunk);
        }
        heads
    }

    /// Fills every source's pipeline, in the order in which they would bring something.
    fn fill_all(&mut self, now: Instant) {
        if std::mem::take(&mut self.newcomers) && self.credit > 0 {
            self.balance(now);
        }
        let generation = self.table.generation();
        let open = self.each().filter(|(_, source)| source.room(now, 0) > 0 && source.hungry != Some(generation));
        let key = |slot: Slot, source: &Source| Reverse((source.strikes, source.until(), slot));
        let mut order: BinaryHeap<_> = open.map(|(slot, source)| key(slot, source)).collect();
        while let Some(Reverse((_, _, slot))) = order.pop() {
            if self.fill_one(slot, now)
                && let Some(source) = self.get(slot).filter(|source| source.room(now, 0) > 0)
            {
                order.push(key(slot, source));
            }
        }
        self.end_game(now);
    }

    /// Gives newcomers their share, and evens out who has more to do than others could do for him.
    fn balance(&mut self, now: Instant) {
        self.balanced = now;
        let usable: Vec<Slot> =
            self.each().filter(|(_, source)| !source.is_resting(now)).map(|(slot, _)| slot).collect();
        self.table.balance(&usable);
    }

    /// Asks for a chunk that a reader waits for, beyond the depth of a source if need be, and of another if it is late.
    fn hurry(&mut self, chunk: u64, now: Instant) {
        if !self.urgent.contains(&chunk) {
            return;
        }
        let asked: Vec<Slot> = self.table.askers(chunk).collect();
        let left = asked.iter().filter_map(|slot| {
            let source = self.get(*slot)?;
            let (_, left) = source.remainings(now).find(|(ticket, _)| ticket.chunk == chunk)?;
            Some(if source.suspect { left.max(source.pace.deadline()) } else { left })
        });
        let left = left.min();
        if left.is_none() && !asked.is_empty() {
            // It is here, and only waits for what proves it.
            return;
        }
        if left.is_some_and(|left| left <= HEDGE_GAIN) {
            return;
        }
        let able = self.each().filter(|(slot, source)| {
            // A hedge behind something else, with a source of which nothing is known, helps nobody.
            let promising = left.is_none() || source.in_flight() == 0 || source.pace.measured().is_some();
            promising && !asked.contains(slot) && source.room(now, EXTRA) > 0 && self.table.holds(*slot, chunk)
        });
        let Some((slot, takes)) = able.map(|(slot, source)| (slot, source.until())).min_by_key(|(_, takes)| *takes)
        else {
            return;
        };
        let pays = left.is_none_or(|left| left > 2 * takes + HEDGE_GAIN);
        if pays && self.table.take(chunk, slot) {
            if left.is_some() {
                self.hedges += 1;
                self.get_mut(slot).into_iter().for_each(|source| source.hedges += 1);
            }
            self.doubtful.remove(&chunk);
            self.ask(slot, chunk, now);
        }
    }

    fn hurry_all(&mut self, now: Instant) {
        let urgent: Vec<u64> = self.urgent.iter().copied().take(URGENT_MAX).collect();
        urgent.into_iter().for_each(|chunk| self.hurry(chunk, now));
    }

    /// True if a reader's window is not at the file's end yet: it will move on, and those who are idle will have work then.
    fn reads_on(&self) -> bool {
        let soon = self.table.soon();
        !soon.is_empty() && !soon.contains(self.last) && !self.table.done().contains(self.last)
    }

    /// Sources with nothing to do bring what is still in flight from others, if they bring it sooner.
    fn end_game(&mut self, now: Instant) {
        if self.table.in_flight() == 0 || self.table.in_flight() >= self.credit || now < self.end_game_at {
            return;
        }
        if self.reads_on() {
            return;
        }
        let generation = self.table.generation();
        let idle =
            |source: &Source| source.hungry == Some(generation) && source.is_reliable(now) && source.room(now, 0) > 0;
        let mut takers: Vec<Slot> = self.each().filter(|(_, source)| idle(source)).map(|(slot, _)| slot).collect();
        self.idle = !takers.is_empty();
        if takers.is_empty() {
            return;
        }
        self.end_game_at = now + END_PAUSE;
        // How long each chunk in flight will take at best. Of a source of which nothing is known nothing is expected.
        let mut best: BTreeMap<u64, Duration> = BTreeMap::new();
        for (_, source) in self.each() {
            for (ticket, left) in source.remainings(now) {
                let left = if source.pace.is_known() { left } else { left.max(UNKNOWN) };
                let best = best.entry(ticket.chunk).or_insert(left);
                *best = left.min(*best);
            }
        }
        let mut late: Vec<(Duration, u64)> =
            best.into_iter().filter(|(_, left)| *left > END_GAIN).map(|(chunk, left)| (left, chunk)).collect();
        // A reader needs the first ones first, others the slowest.
        late.sort_unstable_by_key(|(left, chunk)| {
            let near = self.table.is_near(*chunk);
            (!near, if near { *chunk } else { 0 }, Reverse(*left))
        });
        for (left, chunk) in late {
            let asked: Vec<Slot> = self.table.askers(chunk).collect();
            let able = takers.iter().filter(|slot| !asked.contains(slot) && self.table.holds(**slot, chunk));
            // A third one only if it is known to be quick: otherwise it is no better than those who were asked.
            let able = able.filter_map(|slot| Some((self.get(*slot)?, *slot)));
            let able = able.filter(|(source, _)| asked.len() < 2 || source.pace.measured().is_some());
            let Some((takes, slot)) = able.map(|(source, slot)| (source.until(), slot)).min() else { continue };
            if left <= takes + takes / 4 + END_GAIN {
                continue;
            }
            if asked.len() == MAX_ASKERS && left > 2 * takes {
                self.displace(chunk, now);
            }
            if self.table.take(chunk, slot) {
                self.hedges += 1;
                self.get_mut(slot).into_iter().for_each(|source| source.hedges += 1);
                self.ask(slot, chunk, now);
                if self.get(slot).is_none_or(|source| source.room(now, 0) == 0) {
                    takers.retain(|taker| *taker != slot);
                    if takers.is_empty() {
                        break;
                    }
                }
            }
        }
    }

    /// Of those who were asked for `chunk`, the one that would bring it last need not any more.
    fn displace(&mut self, chunk: u64, now: Instant) {
        let left = |slot: &Slot| {
            let source = self.get(*slot)?;
            let (_, left) = source.remainings(now).find(|(ticket, _)| ticket.chunk == chunk)?;
            Some((source.pace.measured().is_none(), left))
        };
        if let Some(last) = self.table.askers(chunk).max_by_key(left) {
            self.cancel(chunk, last);
            self.table.failed(chunk, last);
        }
    }

    // ---- Time.

    /// When [`Planner::tick`] should be called next; `None` while nothing is wanted.
    pub fn wake(&self) -> Option<Instant> {
        let waits = !self.urgent.is_empty() || (self.idle && self.table.in_flight() > 0);
        let pause = if waits { TICK_SOON } else { TICK };
        self.table.is_busy().then(|| self.ticked + pause)
    }

    /// Looks for what is late. `received`: bytes that have come over a source's link so far, `None` if it has no counter.
    pub fn tick(&mut self, now: Instant, received: impl Fn(Slot) -> Option<u64>) {
        self.ticked = now;
        for at in 0..self.sources.len() {
            let slot = Slot(at as u32);
            let Some(source) = self.sources[at].as_mut() else { continue };
            // What it found nothing for may have changed with the rates.
            source.hungry = None;
            if source.is_resting(now) {
                self.table.rate(slot, RESTING_RATE);
                continue;
            }
            if source.in_flight() == 0 {
                self.table.rate(slot, source.rate(now));
                continue;
            }
            if let Some(received) = received(slot) {
                source.progress(received, now);
            }
            let silence = source.silence(now);
            self.table.rate(slot, source.rate(now));
            if silence > source.pace.deadline() {
                self.strike(slot, now);
            } else if silence > source.pace.suspicious() {
                source.suspect = true;
                self.doubt(slot);
            } else if let Some(ticket) = source.forgotten(now) {
                self.acts.push(Act::Cancel(ticket));
                self.not_brought(ticket);
            }
        }
        if now >= self.balanced + BALANCE && self.table.is_uneven() {
            self.balance(now);
        }
        self.stale = true;
    }

    /// What a reader wants soon of a suspect is asked of others too.
    fn doubt(&mut self, slot: Slot) {
        let Some(source) = self.get(slot) else { return };
        let alone = |chunk: &u64| self.table.is_near(*chunk) && self.table.askers(*chunk).count() == 1;
        let chunks: Vec<u64> = source.flying().map(|flying| flying.ticket.chunk).filter(alone).collect();
        self.doubtful.extend(chunks);
    }

    /// The source brought nothing for its deadline: it loses its section, and rests.
    fn strike(&mut self, slot: Slot, now: Instant) {
        let Some(source) = self.sources.get_mut(slot.0 as usize).and_then(Option::as_mut) else { return };
        source.strike(now);
        self.table.rate(slot, RESTING_RATE);
        self.table.release(slot);
        let tickets: Vec<Ticket> = source.flying().map(|flying| flying.ticket).collect();
        for ticket in tickets {
            self.acts.push(Act::Cancel(ticket));
            self.not_brought(ticket);
        }
    }

    // ---- Questions.

    /// Hedges so far: chunks asked of a second source while a first had still to bring them.
    pub fn hedges(&self) -> u64 {
        self.hedges
    }

    /// What is told of a source: `in_flight`, `rate`, `retries`, `hedges` and `limit`.
    pub fn account(&self, slot: Slot, now: Instant) -> Option<Account> {
        let source = self.get(slot)?;
        let limit = if source.is_resting(now) || source.strikes > 0 || source.suspect {
            if source.is_busy() { Limit::Busy } else { Limit::Stalled }
        } else if source.room(now, 0) == 0 {
            Limit::Link
        } else if source.pace.measured().is_none() {
            Limit::Starting
        } else if !self.table.is_busy() || self.table.in_flight() >= self.credit {
            Limit::Reader
        } else if self.table.held(slot).is_some() {
            Limit::Holdings
        } else if self.table.near_unassigned() > 0 {
            Limit::TooSlow
        } else {
            Limit::Reader
        };
        let rate = if source.in_flight() > 0 { source.pace.measured().map(|_| source.rate(now)) } else { None };
        let (in_flight, retries, hedges) = (source.in_flight(), source.retries, source.hedges);
        Some(Account { in_flight, measured: source.pace.measured(), rate: rate.unwrap_or(0.0), retries, hedges, limit })
    }
}

/// How a source stands.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    /// Requests in flight.
    pub in_flight: usize,
    /// Bytes per second that it can bring, if measured, and that it brings now.
    pub measured: Option<f64>,
    pub rate: f64,
    /// Chunks that had to be asked of another.
    pub retries: u64,
    /// Chunks that it was asked for although another had been.
    pub hedges: u64,
    /// What keeps it from bringing more.
    pub limit: Limit,
}
