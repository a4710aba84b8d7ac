//! The section table of one file: which chunks are still wanted, which source brings which, and what is on its way.
//!
//! Invariant: **every wanted chunk is in exactly one of {unassigned, assigned to one section, in flight, verified}.**
//! A chunk in flight may have been asked of several sources (a hedge); it is in flight once all the same.
//! `SectionTable::check` asserts it, and the property tests and the simulator call that after every step. No I/O, no
//! clock: rates and held ranges are told, and the table answers [`SectionTable::next`].
//!
//! Two kinds of work lie in one table. *Near*: the window ahead of a streaming reader, given out in short sections so that
//! they complete in about the order in which they will be read. The rest has no order: it is divided among the sources at
//! once, in proportion to their rates, and who has finished takes over the far part of the biggest leftover.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::rarity::{Rarity, ring_first, ring_take};
use crate::base::chunks::CHUNK;
use crate::base::ranges::Ranges;

/// A section near the reader takes its source about this many seconds: short, so that sources finish in about the
/// reader's order and one that stalls holds little; long enough that disks and caches read ahead.
const NEAR_SECONDS: f64 = 0.05;
/// Chunks in the largest section near the reader.
const NEAR_MAX: u64 = 32;
/// Chunks that are taken in a row from a section before it is looked at again for rarer ones.
const ROW: u64 = 16;
/// A source whose next chunk takes this many times as long as the others need for everything is left out.
const TOO_SLOW: f64 = 1.25;
/// Rounds of evening out at once; the next time goes on from there.
const BALANCE_ROUNDS: usize = 8;
/// How far (in chunks) a source looks beyond its place in the reader's window for a chunk that is rarer.
const RARE_REACH: u64 = 64;
/// Requests for one chunk at once: the first, its hedge, and one more when both turn out to be with sources that stall.
pub const MAX_ASKERS: usize = 3;

/// A source's place in the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(pub u32);

/// Who has been asked for a chunk that is in flight.
#[derive(Clone, Copy, Debug, Default)]
struct Askers([Option<Slot>; MAX_ASKERS]);

impl Askers {
    fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        self.0.iter().flatten().copied()
    }

    fn add(&mut self, slot: Slot) -> bool {
        let free = self.0.iter_mut().find(|place| place.is_none());
        free.map(|place| *place = Some(slot)).is_some()
    }

    fn remove(&mut self, slot: Slot) -> bool {
        let place = self.0.iter_mut().find(|place| **place == Some(slot));
        place.map(|place| *place = None).is_some()
    }
}

/// One source, as the table knows it.
#[derive(Debug, Clone)]
struct Source {
    /// Chunks that it can bring; `None` means all.
    held: Option<Ranges>,
    /// Bytes per second, as last told.
    rate: f64,
    /// Its section near the reader, and its section of the rest: assigned and not asked for yet.
    near: Ranges,
    section: Ranges,
    /// Chunks in both.
    assigned: u64,
    /// The part of `section` that it is working through, and where it goes on after that.
    row: Range<u64>,
    cursor: u64,
    /// Chunks asked of it and not there yet.
    in_flight: BTreeSet<u64>,
}

impl Source {
    fn holds(&self, chunk: u64) -> bool {
        self.held.as_ref().is_none_or(|held| held.contains(chunk))
    }

    fn can_bring(&self, chunks: &Ranges) -> Ranges {
        self.held.as_ref().map_or_else(|| chunks.clone(), |held| held.intersection(chunks))
    }

    /// Chunks that it has still to bring.
    fn load(&self) -> f64 {
        (self.assigned + self.in_flight.len() as u64) as f64
    }

    fn gets(&mut self, near: bool, chunks: &Ranges) {
        if near { &mut self.near } else { &mut self.section }.union_with(chunks);
        self.assigned += chunks.len();
    }

    fn loses(&mut self, chunks: &Ranges) {
        if self.assigned > 0 {
            self.near.subtract(chunks);
            self.section.subtract(chunks);
            self.assigned = self.near.len() + self.section.len();
        }
    }
}

/// Where in a reader's window a source's next section should lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// The reader's head.
    pub head: u64,
    /// How many of the unassigned chunks from there on others will have brought by the time this source could bring one.
    pub rank: u64,
}

/// What came of a chunk that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landed {
    /// True if it was not there before.
    pub first: bool,
    /// Others who were asked for it, in vain.
    pub losers: Vec<Slot>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct SectionTable {
    /// Unassigned, near a reader and elsewhere.
    near: Ranges,
    loose: Ranges,
    /// Everything not verified that a streaming reader wants soon, in whatever state.
    soon: Ranges,
    /// In flight, and not wanted any more.
    dropped: Ranges,
    verified: Ranges,
    flying: BTreeMap<u64, Askers>,
    sources: Vec<Option<Source>>,
    rarity: Rarity,
    /// Where work without an order begins: other downloaders begin elsewhere.
    offset: u64,
    /// A random state, if this node shares what it gets with other downloaders: then it fetches from where they don't.
    scatter: Option<u64>,
    generation: u64,
}

impl SectionTable {
    /// An empty table for a file of `chunks` chunks. Work without an order begins at chunk `offset`.
    pub fn new(chunks: u64, offset: u64) -> Self {
        Self {
            near: Ranges::new(),
            loose: Ranges::new(),
            soon: Ranges::new(),
            dropped: Ranges::new(),
            verified: Ranges::new(),
            flying: BTreeMap::new(),
            sources: Vec::new(),
            rarity: Rarity::new(chunks),
            offset: offset % chunks.max(1),
            scatter: None,
            generation: 0,
        }
    }

    /// Other downloaders of the file are known: from now on, jump to parts that none of them has.
    pub fn scatter(&mut self, seed: u64) {
        self.scatter.get_or_insert(seed | 1);
    }

    /// Changes whenever a source that found nothing to do may find something.
    pub fn generation(&self) -> u64 {
        self.generation
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

    /// What of `chunks` is in no state at all yet.
    fn unknown(&self, chunks: &Ranges) -> Ranges {
        let mut new = chunks.clone();
        for known in [&self.verified, &self.near, &self.loose] {
            new.subtract(known);
        }
        for source in self.sources.iter().flatten().filter(|source| source.assigned > 0) {
            new.subtract(&source.near);
            new.subtract(&source.section);
        }
        let flying = self.flying_in(&new);
        new.subtract(&flying);
        new
    }

    fn flying_in(&self, chunks: &Ranges) -> Ranges {
        chunks.runs().iter().flat_map(|run| self.flying.range(run.clone()).map(|(chunk, _)| *chunk)).collect()
    }

    /// These chunks are wanted, in no particular order. What is known already stays as it is.
    pub fn want(&mut self, chunks: &Ranges) {
        self.dropped.subtract(chunks);
        let new = self.unknown(chunks);
        self.loose.union_with(&new);
        self.generation += 1;
    }

    /// These chunks will be read soon, the first ones first.
    pub fn want_near(&mut self, chunks: &Ranges) {
        self.dropped.subtract(chunks);
        let mut soon = chunks.clone();
        soon.subtract(&self.verified);
        self.soon.union_with(&soon);
        // What had no order so far leaves its section; what is in flight is on its way already.
        soon.subtract(&self.flying_in(&soon));
        for source in self.sources.iter_mut().flatten().filter(|source| source.assigned > 0) {
            soon.subtract(&source.near);
            source.section.subtract(&soon);
            source.assigned = source.near.len() + source.section.len();
        }
        self.loose.subtract(&soon);
        self.near.union_with(&soon);
        self.generation += 1;
    }

    /// These chunks are no longer wanted. What is in flight stays in flight, and is not asked for again.
    pub fn unwant(&mut self, chunks: &Ranges) {
        self.near.subtract(chunks);
        self.loose.subtract(chunks);
        self.soon.subtract(chunks);
        for source in self.sources.iter_mut().flatten() {
            source.loses(chunks);
        }
        let flying = self.flying_in(chunks);
        self.dropped.union_with(&flying);
    }

    /// Forgets that these were verified: they have left the cache and may be wanted again.
    pub fn forget(&mut self, chunks: &Ranges) {
        self.verified.subtract(chunks);
    }

    // ---- Sources.

    /// A source is there, or what it holds has changed. `None`: it holds everything. `rate`: bytes per second.
    pub fn source(&mut self, slot: Slot, held: Option<Ranges>, rate: f64) {
        let at = slot.0 as usize;
        if self.sources.len() <= at {
            self.sources.resize_with(at + 1, || None);
        }
        self.rarity_changed();
        let cursor = self.offset;
        let Some(source) = &mut self.sources[at] else {
            if let Some(held) = &held {
                self.rarity.add(held);
            }
            let (near, section, row, in_flight) = (Ranges::new(), Ranges::new(), 0..0, BTreeSet::new());
            let rate = rate.max(1.0);
            self.sources[at] = Some(Source { held, rate, near, section, assigned: 0, row, cursor, in_flight });
            return;
        };
        source.rate = rate.max(1.0);
        if let Some(before) = &source.held {
            self.rarity.remove(before);
        }
        if let Some(held) = &held {
            self.rarity.add(held);
            let (mut near, mut section) = (source.near.clone(), source.section.clone());
            near.subtract(held);
            section.subtract(held);
            source.loses(&near);
            source.loses(&section);
            self.near.union_with(&near);
            self.loose.union_with(&section);
        }
        source.held = held;
    }

    /// The source holds these too.
    pub fn holds_more(&mut self, slot: Slot, more: &Ranges) {
        let Some(source) = self.sources.get_mut(slot.0 as usize).and_then(Option::as_mut) else { return };
        let Some(held) = &mut source.held else { return };
        let mut new = more.clone();
        new.subtract(held);
        if !new.is_empty() {
            held.union_with(&new);
            self.rarity.add(&new);
            self.rarity_changed();
        }
    }

    /// The source's rate, in bytes per second.
    pub fn rate(&mut self, slot: Slot, rate: f64) {
        if let Some(source) = self.get_mut(slot) {
            source.rate = rate.max(1.0);
        }
    }

    /// The source is gone: what it had to bring is free again, in flight or not. Returns what was in flight from it.
    pub fn gone(&mut self, slot: Slot) -> Vec<u64> {
        self.release(slot);
        let in_flight: Vec<u64> =
            self.get(slot).map(|source| source.in_flight.iter().copied().collect()).unwrap_or_default();
        for &chunk in &in_flight {
            self.failed(chunk, slot);
        }
        if let Some(held) = self.sources.get_mut(slot.0 as usize).and_then(Option::take).and_then(|source| source.held)
        {
            self.rarity.remove(&held);
            self.rarity_changed();
        }
        in_flight
    }

    /// What each source should bring first is another chunk now.
    fn rarity_changed(&mut self) {
        self.sources.iter_mut().flatten().for_each(|source| source.row = 0..0);
        self.generation += 1;
    }

    /// The source stays, but its section goes back (it was late).
    pub fn release(&mut self, slot: Slot) {
        let Some(source) = self.sources.get_mut(slot.0 as usize).and_then(Option::as_mut) else { return };
        self.near.union_with(&std::mem::take(&mut source.near));
        self.loose.union_with(&std::mem::take(&mut source.section));
        source.assigned = 0;
        self.generation += 1;
    }

    // ---- Giving out.

    /// The next chunk to ask of `slot`; it is in flight from now on. `place`: where near a reader its next section
    /// should lie (`None`: it should bring nothing near a reader). Of the work that has no order it gets something
    /// only if `free`. `None`: nothing that this source could bring.
    pub fn next(&mut self, slot: Slot, place: Option<Place>, free: bool) -> Option<u64> {
        let chunk = self.take_near(slot, place).or_else(|| if free { self.take_free(slot) } else { None })?;
        self.fly(chunk, slot);
        Some(chunk)
    }

    fn take_near(&mut self, slot: Slot, place: Option<Place>) -> Option<u64> {
        if self.get(slot)?.near.is_empty() {
            let place = place?;
            if !(self.cut_near(slot, place) || self.take_over(slot, true)) {
                return None;
            }
        }
        let source = self.get_mut(slot)?;
        let chunk = source.near.first()?;
        source.near.remove(chunk..chunk + 1);
        source.assigned -= 1;
        Some(chunk)
    }

    fn take_free(&mut self, slot: Slot) -> Option<u64> {
        if self.get(slot)?.section.is_empty() && !(self.cut(slot) || self.take_over(slot, false)) {
            return None;
        }
        self.find_row(slot);
        let source = self.get_mut(slot)?;
        let chunk = source.row.next()?;
        source.cursor = chunk + 1;
        source.section.remove(chunk..chunk + 1);
        source.assigned -= 1;
        Some(chunk)
    }

    /// Makes sure that the source's row begins with a chunk of its section (which is not empty): the rarest that it
    /// has, going on where it was.
    fn find_row(&mut self, slot: Slot) {
        let Some(source) = self.sources[slot.0 as usize].as_mut() else { return };
        if !source.row.is_empty() && source.section.contains(source.row.start) {
            return;
        }
        let rarest = self.rarity.rarest(&source.section);
        let mut row = ring_first(&rarest, source.cursor).unwrap_or(0..0);
        if let Some(state) = &mut self.scatter
            && row.start != source.cursor
            && let Some(widest) = rarest.runs().iter().max_by_key(|run| run.end - run.start)
        {
            // The chunks beside what a downloader holds are those that it is about to fetch. So go somewhere into the
            // widest gap, not to its edge, and not where yet another downloader would go.
            let width = widest.end - widest.start;
            row = widest.start + width / 4 + random(state) % (width / 2 + 1)..widest.end;
            row.start = row.start.min(widest.end - 1);
        }
        source.row = row.start..row.end.min(row.start + ROW);
    }

    /// Cuts a short section for `slot` from what is unassigned near the reader.
    fn cut_near(&mut self, slot: Slot, place: Place) -> bool {
        let Some(source) = self.sources[slot.0 as usize].as_mut() else { return false };
        let available = source.can_bring(&self.near);
        let count = available.len();
        if count == 0 {
            return false;
        }
        let mut at = nth_from(&available, place.head, place.rank);
        let len = ((source.rate * NEAR_SECONDS / CHUNK as f64).round() as u64).clamp(1, NEAR_MAX);
        if let Some(state) = &mut self.scatter
            && count > 2 * len
        {
            at = nth_from(&available, 0, random(state) % count);
        }
        let mut run = ring_first(&available, at).unwrap_or(0..0);
        if !self.rarity.is_flat() {
            for level in self.rarity.levels() {
                let rare = available.intersection(level);
                let reachable = ring_first(&rare, at).filter(|rare| rare.start >= at && rare.start < at + RARE_REACH);
                if let Some(rare) = reachable {
                    run = rare;
                    break;
                }
            }
        }
        let section = Ranges::of(run.start..run.end.min(run.start + len));
        self.near.subtract(&section);
        source.gets(true, &section);
        true
    }

    /// Cuts a section for `slot` from what nobody has been assigned: its share among the sources that have none.
    fn cut(&mut self, slot: Slot) -> bool {
        if self.loose.is_empty() {
            return false;
        }
        let Some(source) = self.get(slot) else { return false };
        let available = source.can_bring(&self.loose);
        if available.is_empty() {
            return false;
        }
        // Who would still be at its first chunk when the others have done all the rest is left out. Where sources hold
        // different parts that would be more than can be said here: evening out takes from the slow what others hold.
        if self.rarity.is_flat() {
            let first = |source: &Source| (source.load() + 1.0) / source.rate;
            let sources = || self.sources.iter().flatten();
            let (load, rate) =
                sources().fold((0.0, 0.0), |(load, rate), other| (load + other.load(), rate + other.rate));
            let all = (load + self.loose.len() as f64) / rate;
            let soonest = sources().map(first).fold(f64::MAX, f64::min);
            if first(source) > all.max(soonest) * TOO_SLOW {
                return false;
            }
        }
        let rates: f64 =
            self.sources.iter().flatten().filter(|other| other.section.is_empty()).map(|other| other.rate).sum();
        let share = (available.len() as f64 * source.rate / rates).ceil() as u64;
        let mut left = share.clamp(1, available.len());
        let mut section = Ranges::new();
        // Its cursor leads to where the one before it was cut off.
        let from = self.offset;
        for level in self.rarity.levels() {
            let part = if self.rarity.is_flat() { available.clone() } else { available.intersection(level) };
            let part = ring_take(&part, from, left, false);
            left -= part.len();
            section.union_with(&part);
            if left == 0 {
                break;
            }
        }
        self.loose.subtract(&section);
        let start = ring_first(&section, from).map_or(from, |run| run.start);
        if let Some(source) = self.get_mut(slot) {
            source.cursor = start;
            source.gets(false, &section);
        }
        true
    }

    /// Takes over the far part of the leftover that would take its owner longest, so that both end at the same time.
    fn take_over(&mut self, slot: Slot, near: bool) -> bool {
        let Some(taker) = self.get(slot) else { return false };
        let (load, rate) = (taker.load(), taker.rate);
        let time = (load + 1.0) / rate;
        let leftover = |source: &Source| !(if near { &source.near } else { &source.section }).is_empty();
        let mut owners: Vec<(f64, Slot)> = self
            .each()
            .filter(|(owner, source)| *owner != slot && leftover(source))
            .map(|(owner, source)| (source.load() / source.rate, owner))
            .filter(|(ends, _)| *ends > time)
            .collect();
        owners.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (_, owner_slot) in owners {
            let (Some(owner), Some(taker)) = (self.get(owner_slot), self.get(slot)) else { continue };
            let available = taker.can_bring(if near { &owner.near } else { &owner.section });
            if available.is_empty() {
                continue;
            }
            let even = (owner.load() * rate - load * owner.rate) / (rate + owner.rate);
            let mut left = (even.floor().max(1.0) as u64).min(available.len());
            let mut taken = Ranges::new();
            // First what most others hold too: the rest is what its owner is needed for.
            for level in self.rarity.levels().iter().rev() {
                let part = if self.rarity.is_flat() { available.clone() } else { available.intersection(level) };
                let part = ring_take(&part, if near { 0 } else { owner.cursor }, left, true);
                left -= part.len();
                taken.union_with(&part);
                if left == 0 {
                    break;
                }
            }
            if let Some(owner) = self.get_mut(owner_slot) {
                owner.loses(&taken);
            }
            if let Some(taker) = self.get_mut(slot) {
                taker.gets(near, &taken);
            }
            return true;
        }
        false
    }

    /// A newcomer gets its share of everything at once, cut out of what the others have left.
    pub fn welcome(&mut self, slot: Slot) {
        let mut rounds = self.sources.len();
        while rounds > 0 && (self.cut(slot) || self.take_over(slot, false)) {
            rounds -= 1;
        }
    }

    /// Gives each of `slots` its share, then evens out: who ends soonest takes from who ends last what both can bring.
    /// When no such step helps any more, no other division would end sooner.
    pub fn balance(&mut self, slots: &[Slot]) {
        let mut order = slots.to_vec();
        for _ in 0..BALANCE_ROUNDS {
            let ends = |slot: &Slot| self.get(*slot).map_or(0.0, |source| source.load() / source.rate);
            order.sort_by(|a, b| ends(a).total_cmp(&ends(b)));
            let mut moved = false;
            for slot in &order {
                moved |= self.cut(*slot) || self.take_over(*slot, false);
            }
            if !moved {
                break;
            }
        }
    }

    /// True if sources hold different parts, so that who has what to do matters.
    pub fn is_uneven(&self) -> bool {
        !self.rarity.is_flat()
    }

    /// Asks `chunk` of `slot` whatever its state: before its turn, or as a hedge. False if that is not possible: verified
    /// or asked of it already, asked of too many, not held.
    pub fn take(&mut self, chunk: u64, slot: Slot) -> bool {
        if self.verified.contains(chunk) || !self.get(slot).is_some_and(|source| source.holds(chunk)) {
            return false;
        }
        if let Some(askers) = self.flying.get(&chunk) {
            if askers.0.contains(&Some(slot)) || !askers.0.contains(&None) {
                return false;
            }
        } else {
            self.pull(chunk);
        }
        self.fly(chunk, slot);
        true
    }

    /// Takes `chunk` out of whatever state it waits in.
    fn pull(&mut self, chunk: u64) {
        let one = chunk..chunk + 1;
        self.near.remove(one.clone());
        self.loose.remove(one.clone());
        for source in self.sources.iter_mut().flatten().filter(|source| source.assigned > 0) {
            if source.near.contains(chunk) || source.section.contains(chunk) {
                source.loses(&Ranges::of(one));
                break;
            }
        }
    }

    fn fly(&mut self, chunk: u64, slot: Slot) {
        if self.flying.entry(chunk).or_default().add(slot)
            && let Some(source) = self.get_mut(slot)
        {
            source.in_flight.insert(chunk);
        }
    }

    // ---- What comes of it.

    /// `chunk` was verified.
    pub fn landed(&mut self, chunk: u64, from: Slot) -> Landed {
        let askers = self.flying.remove(&chunk);
        let losers = askers.iter().flat_map(Askers::iter).filter(|slot| *slot != from).collect();
        for slot in askers.iter().flat_map(Askers::iter) {
            if let Some(source) = self.get_mut(slot) {
                source.in_flight.remove(&chunk);
            }
        }
        if askers.is_none() {
            // It may have been released, and assigned anew, before it came after all.
            self.pull(chunk);
        }
        self.soon.remove(chunk..chunk + 1);
        self.dropped.remove(chunk..chunk + 1);
        Landed { first: self.verified.insert_one(chunk), losers }
    }

    /// `slot` did not bring `chunk`. If it was asked of nobody else, it is free again.
    pub fn failed(&mut self, chunk: u64, slot: Slot) {
        let Some(askers) = self.flying.get_mut(&chunk) else { return };
        if !askers.remove(slot) {
            return;
        }
        let last = askers.iter().next().is_none();
        if let Some(source) = self.get_mut(slot) {
            source.in_flight.remove(&chunk);
        }
        if last {
            self.flying.remove(&chunk);
            if self.soon.contains(chunk) {
                self.near.insert(chunk..chunk + 1);
            } else if self.dropped.contains(chunk) {
                self.dropped.remove(chunk..chunk + 1);
            } else {
                self.loose.insert(chunk..chunk + 1);
            }
            self.generation += 1;
        }
    }

    // ---- Questions.

    /// Who was asked for `chunk`.
    pub fn askers(&self, chunk: u64) -> impl Iterator<Item = Slot> + '_ {
        self.flying.get(&chunk).into_iter().flat_map(Askers::iter)
    }

    /// Chunks in flight that nobody wants any more.
    pub fn dropped(&self) -> &Ranges {
        &self.dropped
    }

    /// How many chunks are in flight.
    pub fn in_flight(&self) -> usize {
        self.flying.len()
    }

    /// How many chunks near the reader are unassigned.
    pub fn near_unassigned(&self) -> u64 {
        self.near.len()
    }

    /// Chunks that `slot` has been assigned and not asked for yet.
    pub fn assigned(&self, slot: Slot) -> u64 {
        self.get(slot).map_or(0, |source| source.assigned)
    }

    /// Chunks that are wanted and that nobody has been asked for yet.
    pub fn waiting(&self) -> u64 {
        let assigned: u64 = self.sources.iter().flatten().map(|source| source.assigned).sum();
        self.near.len() + self.loose.len() + assigned
    }

    /// True if `slot` has a section near a reader.
    pub fn has_near(&self, slot: Slot) -> bool {
        self.get(slot).is_some_and(|source| !source.near.is_empty())
    }

    /// True if a reader wants `chunk` soon and it is not verified.
    pub fn is_near(&self, chunk: u64) -> bool {
        self.soon.contains(chunk)
    }

    /// Everything not verified that readers want soon.
    pub fn soon(&self) -> &Ranges {
        &self.soon
    }

    /// What `slot` still has to bring: its section and what is in flight from it.
    pub fn section_of(&self, slot: Slot) -> Ranges {
        let Some(source) = self.get(slot) else { return Ranges::new() };
        let mut all = source.section.clone();
        all.union_with(&source.near);
        all.union_with(&source.in_flight.iter().copied().collect());
        all
    }

    /// What is known to be held by `slot`; `None` means all.
    pub fn held(&self, slot: Slot) -> Option<&Ranges> {
        self.get(slot)?.held.as_ref()
    }

    /// True if `slot` is a source that holds `chunk`.
    pub fn holds(&self, slot: Slot, chunk: u64) -> bool {
        self.get(slot).is_some_and(|source| source.holds(chunk))
    }

    /// True if some source holds `chunk`.
    pub fn can_come(&self, chunk: u64) -> bool {
        self.sources.iter().flatten().any(|source| source.holds(chunk))
    }

    /// True if some source holds any of `chunks`.
    pub fn any_can_come(&self, chunks: &Ranges) -> bool {
        self.sources.iter().flatten().any(|source| match &source.held {
            None => !chunks.is_empty(),
            Some(held) => !held.intersection(chunks).is_empty(),
        })
    }

    /// Everything that has been verified.
    pub fn done(&self) -> &Ranges {
        &self.verified
    }

    /// True if something is wanted and not verified.
    pub fn is_busy(&self) -> bool {
        !self.near.is_empty()
            || !self.loose.is_empty()
            || !self.flying.is_empty()
            || self.sources.iter().flatten().any(|source| source.assigned > 0)
    }

    /// Asserts the invariant, and that what is wanted or verified is exactly `known` (if given).
    #[cfg(test)]
    pub fn check(&self, known: Option<&Ranges>) {
        let mut seen: Vec<Range<u64>> = Vec::new();
        for part in [&self.near, &self.loose, &self.verified] {
            seen.extend_from_slice(part.runs());
        }
        let mut asked = 0;
        for source in self.sources.iter().flatten() {
            asked += source.in_flight.len();
            assert_eq!(source.assigned, source.near.len() + source.section.len(), "a section is counted wrong");
            for run in source.near.runs().iter().chain(source.section.runs()) {
                assert!(source.held.as_ref().is_none_or(|held| held.contains_all(run)), "assigned, and not held");
                seen.push(run.clone());
            }
        }
        for (chunk, askers) in &self.flying {
            assert!(!self.soon.contains(*chunk) || !self.verified.contains(*chunk));
            assert!(askers.iter().next().is_some(), "in flight from nobody");
            for slot in askers.iter() {
                assert!(self.get(slot).is_some_and(|source| source.in_flight.contains(chunk)), "asked of a stranger");
                asked -= 1;
            }
            if !self.dropped.contains(*chunk) {
                seen.push(*chunk..chunk + 1);
            }
        }
        assert_eq!(asked, 0, "a source that was asked for what is not in flight");
        seen.sort_unstable_by_key(|run| run.start);
        assert!(seen.windows(2).all(|pair| pair[0].end <= pair[1].start), "a chunk is in two states");
        assert!(self.dropped.iter().all(|chunk| self.flying.contains_key(&chunk)), "dropped and not in flight");
        assert!(self.soon.intersection(&self.verified).is_empty(), "wanted soon and verified");
        if let Some(known) = known {
            let total: u64 = seen.iter().map(|run| run.end - run.start).sum();
            assert_eq!(total, known.len(), "a wanted chunk was lost, or one that nobody wants is there");
            assert!(seen.iter().all(|run| known.contains_all(run)), "one that nobody wants is there");
        }
    }
}

/// Member number `n` of those of `set` that are at or after `from`; the last one if there are no so many, the first one
/// of all if there are none there.
fn nth_from(set: &Ranges, from: u64, mut n: u64) -> u64 {
    let runs = set.runs();
    let mut last = None;
    for run in &runs[runs.partition_point(|run| run.end <= from)..] {
        let start = run.start.max(from);
        if n < run.end - start {
            return start + n;
        }
        n -= run.end - start;
        last = Some(run.end - 1);
    }
    last.or(set.first()).unwrap_or(0)
}

/// Xorshift: any spread will do, and the same seed must give the same plan.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
