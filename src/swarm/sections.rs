//! The section table of one file: which chunks are still wanted, which source brings which, and what is on its way.
//!
//! Invariant: **every wanted chunk is in exactly one of {unassigned, assigned to one section, in flight, verified}.**
//! [`SectionTable::check`] asserts it; the property tests call it after every step. No I/O, no clock: rates and held
//! ranges are told, and the table answers [`SectionTable::next`].

use std::collections::{BTreeMap, BTreeSet};

use crate::base::chunks::CHUNK;
use crate::base::ids::NodeId;
use crate::base::ranges::Ranges;

/// A section is cut to take its source about this long, so that sources finish their sections in about the order in
/// which a reader wants them, and a source that stalls holds little.
const SECTION_SECONDS: f64 = 0.05;
/// Chunks in the smallest and in the largest section that is cut from what nobody has been assigned.
const SECTION_MIN: u64 = 1;
const SECTION_MAX: u64 = 64;
/// A leftover is worth taking over when the new owner starts on it this much sooner (in seconds) than its owner would.
const TAKEOVER_GAIN: f64 = 0.01;

/// One source, as the table knows it.
#[derive(Debug, Clone)]
struct Source {
    /// Chunks that it can bring; `None` means all.
    held: Option<Ranges>,
    /// What is assigned to it and not asked for yet.
    section: Ranges,
    /// Chunks asked of it and not there yet.
    in_flight: BTreeSet<u64>,
    /// Bytes per second, as last told.
    rate: f64,
}

impl Source {
    fn holds(&self, chunk: u64) -> bool {
        self.held.as_ref().is_none_or(|held| held.contains(chunk))
    }

    fn can_bring(&self, chunks: &Ranges) -> Ranges {
        self.held.as_ref().map_or_else(|| chunks.clone(), |held| held.intersection(chunks))
    }

    /// Seconds until everything that it has to do is done.
    fn backlog(&self) -> f64 {
        (self.section.len() + self.in_flight.len() as u64) as f64 * CHUNK as f64 / self.rate
    }
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct SectionTable {
    unassigned: Ranges,
    urgent: BTreeSet<u64>,
    verified: Ranges,
    sources: BTreeMap<NodeId, Source>,
    /// Who was asked for each chunk in flight.
    in_flight: BTreeMap<u64, NodeId>,
}

impl SectionTable {
    /// An empty table: nothing wanted, no sources.
    pub fn new() -> Self {
        Self::default()
    }

    /// These chunks are wanted from now on. What is known already stays as it is.
    pub fn want(&mut self, chunks: &Ranges) {
        let mut new = chunks.clone();
        new.subtract(&self.verified);
        for source in self.sources.values() {
            new.subtract(&source.section);
        }
        for run in chunks.runs() {
            for (&chunk, _) in self.in_flight.range(run.clone()) {
                new.remove(chunk..chunk + 1);
            }
        }
        self.unassigned.union_with(&new);
    }

    /// A reader waits for this chunk: it goes before everything else.
    pub fn want_now(&mut self, chunk: u64) {
        self.want(&Ranges::of(chunk..chunk + 1));
        if !self.verified.contains(chunk) && !self.in_flight.contains_key(&chunk) {
            self.urgent.insert(chunk);
        }
    }

    /// These chunks are no longer wanted (the reader went elsewhere). What is in flight stays in flight.
    pub fn unwant(&mut self, chunks: &Ranges) {
        self.unassigned.subtract(chunks);
        for source in self.sources.values_mut() {
            source.section.subtract(chunks);
        }
        self.urgent.retain(|chunk| !chunks.contains(*chunk));
    }

    /// Forgets that these were verified: they have left the cache and may be wanted again.
    pub fn forget(&mut self, chunks: &Ranges) {
        self.verified.subtract(chunks);
    }

    /// A source is there, or what it holds has changed. `None`: it holds everything.
    pub fn source(&mut self, node: NodeId, held: Option<Ranges>, rate: f64) {
        let rate = rate.max(1.0);
        match self.sources.get_mut(&node) {
            None => {
                let source = Source { held, section: Ranges::new(), in_flight: BTreeSet::new(), rate };
                self.sources.insert(node, source);
            }
            Some(source) => {
                source.rate = rate;
                source.held = held;
                let keeps = source.can_bring(&source.section);
                let mut loses = std::mem::replace(&mut source.section, keeps);
                loses.subtract(&source.section);
                self.unassigned.union_with(&loses);
            }
        }
    }

    /// The source's measured rate, in bytes per second.
    pub fn rate(&mut self, node: NodeId, rate: f64) {
        if let Some(source) = self.sources.get_mut(&node) {
            source.rate = rate.max(1.0);
        }
    }

    /// The source is gone: what it had to bring is free again, in flight or not.
    pub fn source_gone(&mut self, node: NodeId) {
        let Some(source) = self.sources.remove(&node) else { return };
        self.unassigned.union_with(&source.section);
        for chunk in source.in_flight {
            self.in_flight.remove(&chunk);
            self.unassigned.insert(chunk..chunk + 1);
        }
    }

    /// The source stays, but its section goes back (it was late).
    pub fn release_section(&mut self, node: NodeId) {
        if let Some(source) = self.sources.get_mut(&node) {
            let section = std::mem::take(&mut source.section);
            self.unassigned.union_with(&section);
        }
    }

    /// The next chunk to ask of `node`; it is in flight from now on. `None`: nothing that this source could bring.
    pub fn next(&mut self, node: NodeId) -> Option<u64> {
        let chunk = self
            .take_urgent(node)
            .or_else(|| self.take_own(node))
            .or_else(|| if self.cut(node) || self.take_over(node) { self.take_own(node) } else { None })?;
        self.urgent.remove(&chunk);
        self.in_flight.insert(chunk, node);
        self.sources.get_mut(&node)?.in_flight.insert(chunk);
        Some(chunk)
    }

    /// An urgent chunk, wherever it is assigned: the reader waits for it and this source is free now.
    fn take_urgent(&mut self, node: NodeId) -> Option<u64> {
        let source = self.sources.get(&node)?;
        let chunk = *self.urgent.iter().find(|chunk| source.holds(**chunk))?;
        self.unassigned.remove(chunk..chunk + 1);
        for source in self.sources.values_mut() {
            source.section.remove(chunk..chunk + 1);
        }
        Some(chunk)
    }

    fn take_own(&mut self, node: NodeId) -> Option<u64> {
        let source = self.sources.get_mut(&node)?;
        let chunk = source.section.first()?;
        source.section.remove(chunk..chunk + 1);
        Some(chunk)
    }

    /// Cuts a section for `node` from the first run that nobody has been assigned and that it holds.
    fn cut(&mut self, node: NodeId) -> bool {
        let Some(source) = self.sources.get_mut(&node) else { return false };
        let available = source.can_bring(&self.unassigned);
        let Some(run) = available.runs().first() else { return false };
        let len = ((source.rate * SECTION_SECONDS / CHUNK as f64).round() as u64).clamp(SECTION_MIN, SECTION_MAX);
        let section = run.start..run.end.min(run.start + len);
        self.unassigned.remove(section.clone());
        source.section.insert(section);
        true
    }

    /// Takes over the far part of the leftover section that would take its owner longest, in proportion to the rates.
    fn take_over(&mut self, node: NodeId) -> bool {
        let Some(taker) = self.sources.get(&node) else { return false };
        let (mut best, mut best_time) = (None, taker.backlog() + TAKEOVER_GAIN);
        for (&owner, source) in self.sources.iter().filter(|(owner, _)| **owner != node) {
            let available = taker.can_bring(&source.section);
            if !available.is_empty() && source.backlog() > best_time {
                best_time = source.backlog();
                best = Some((owner, available, source.rate));
            }
        }
        let Some((owner, available, owner_rate)) = best else { return false };
        let share = taker.rate / (taker.rate + owner_rate);
        let mut take = ((available.len() as f64 * share).round() as u64).clamp(1, available.len());
        let mut taken = Ranges::new();
        for run in available.runs().iter().rev() {
            let from = run.end - take.min(run.end - run.start);
            taken.insert(from..run.end);
            take -= run.end - from;
            if take == 0 {
                break;
            }
        }
        if let Some(owner) = self.sources.get_mut(&owner) {
            owner.section.subtract(&taken);
        }
        if let Some(taker) = self.sources.get_mut(&node) {
            taker.section.union_with(&taken);
        }
        true
    }

    /// `node` brought `chunk` and it was verified. False if nobody waited for it any more.
    pub fn verified(&mut self, chunk: u64, node: NodeId) -> bool {
        if !self.land(chunk, node) && self.verified.contains(chunk) {
            return false;
        }
        // It may have been released and assigned anew meanwhile: wherever it is, it is here now.
        self.unassigned.remove(chunk..chunk + 1);
        self.urgent.remove(&chunk);
        for source in self.sources.values_mut() {
            source.section.remove(chunk..chunk + 1);
        }
        if let Some(other) = self.in_flight.remove(&chunk)
            && let Some(other) = self.sources.get_mut(&other)
        {
            other.in_flight.remove(&chunk);
        }
        self.verified.insert_one(chunk)
    }

    /// `node` did not bring `chunk`; it is free again. `urgent`: a reader waits for it.
    pub fn failed(&mut self, chunk: u64, node: NodeId, urgent: bool) {
        if self.land(chunk, node) {
            self.unassigned.insert(chunk..chunk + 1);
            if urgent {
                self.urgent.insert(chunk);
            }
        }
    }

    /// Takes `chunk` out of flight if it was in flight from `node`.
    fn land(&mut self, chunk: u64, node: NodeId) -> bool {
        let flew = self.in_flight.get(&chunk) == Some(&node);
        if flew {
            self.in_flight.remove(&chunk);
            if let Some(source) = self.sources.get_mut(&node) {
                source.in_flight.remove(&chunk);
            }
        }
        flew
    }

    /// How many chunks are in flight from `node`.
    pub fn in_flight_of(&self, node: NodeId) -> usize {
        self.sources.get(&node).map_or(0, |source| source.in_flight.len())
    }

    /// What `node` still has to bring: its section and what is in flight from it.
    pub fn section_of(&self, node: NodeId) -> Ranges {
        let Some(source) = self.sources.get(&node) else { return Ranges::new() };
        let mut all = source.section.clone();
        all.union_with(&source.in_flight.iter().copied().collect());
        all
    }

    /// Everything that has been verified.
    pub fn done(&self) -> &Ranges {
        &self.verified
    }

    /// True if something is wanted and not verified.
    pub fn is_busy(&self) -> bool {
        !self.unassigned.is_empty()
            || !self.in_flight.is_empty()
            || self.sources.values().any(|source| !source.section.is_empty())
    }

    /// True if `chunk` is wanted (or verified) in this table, in any state.
    pub fn knows(&self, chunk: u64) -> bool {
        self.verified.contains(chunk)
            || self.unassigned.contains(chunk)
            || self.in_flight.contains_key(&chunk)
            || self.sources.values().any(|source| source.section.contains(chunk))
    }

    /// True if some source could bring `chunk`.
    pub fn can_come(&self, chunk: u64) -> bool {
        self.sources.values().any(|source| source.holds(chunk))
    }

    /// The nodes that the table knows as sources.
    pub fn sources(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.sources.keys().copied()
    }

    /// Asserts the invariant.
    #[cfg(test)]
    pub fn check(&self) {
        let mut seen = self.unassigned.clone();
        let mut add = |part: &Ranges, what: &str| {
            assert!(seen.intersection(part).is_empty(), "{what} overlaps another state");
            seen.union_with(part);
        };
        add(&self.verified, "verified");
        for source in self.sources.values() {
            add(&source.section, "a section");
            assert_eq!(source.can_bring(&source.section), source.section, "a section that its source does not hold");
        }
        let flying: Ranges = self.in_flight.keys().copied().collect();
        add(&flying, "in flight");
        for (node, source) in &self.sources {
            for chunk in &source.in_flight {
                assert_eq!(self.in_flight.get(chunk), Some(node), "in flight from two");
            }
        }
        for (chunk, node) in &self.in_flight {
            assert!(self.sources[node].in_flight.contains(chunk), "in flight from nobody");
        }
        for chunk in &self.urgent {
            assert!(seen.contains(*chunk) && !self.verified.contains(*chunk), "urgent and not wanted");
        }
    }
}
