//! What proves a transfer's chunks: the proof as far as it is known, which groups' hashes have been asked of whom, and
//! chunks that came before what proves them. Pure: times are arguments.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::source::Ticket;
use crate::base::chunks::{GROUP_CHUNKS, group_count, group_of};
use crate::base::ids::{ContentId, NodeId, SubtreeHash};
use crate::base::tree::{BadProof, Proof};
use crate::net::link::RawChunk;

/// Hashes that have not come by then are asked of another source too: they are small and go before all bulk.
const LATE: Duration = Duration::from_millis(400);
/// Sources that are asked for the same hashes at once.
const MAX_ASKED: usize = 3;

#[derive(Debug)]
struct Needed {
    /// Who has been asked and has not answered.
    asked: Vec<NodeId>,
    /// Who did not bring them: asked again only when all have been asked.
    tried: Vec<NodeId>,
    last: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Proving {
    content: ContentId,
    proof: Option<Proof>,
    needed: BTreeMap<u64, Needed>,
    /// Bounded by what is in flight.
    early: Vec<(Ticket, RawChunk)>,
}

impl Proving {
    pub fn new(content: ContentId) -> Self {
        Self { content, proof: None, needed: BTreeMap::new(), early: Vec::new() }
    }

    pub fn proof(&self) -> Option<&Proof> {
        self.proof.as_ref()
    }

    pub fn expected(&self, chunk: u64) -> Option<SubtreeHash> {
        self.proof.as_ref()?.chunk(chunk)
    }

    /// A chunk is being fetched: its group's hashes are needed, and soon the next group's.
    pub fn need(&mut self, chunk: u64, now: Instant) {
        let group = group_of(chunk);
        self.need_group(group, now);
        if chunk % GROUP_CHUNKS >= GROUP_CHUNKS / 2 && group + 1 < group_count(self.content.size) {
            self.need_group(group + 1, now);
        }
    }

    fn need_group(&mut self, group: u64, now: Instant) {
        let known = self.proof.as_ref().is_some_and(|proof| proof.has_group(group));
        if !known && !self.needed.contains_key(&group) {
            self.needed.insert(group, Needed { asked: Vec::new(), tried: Vec::new(), last: now });
        }
    }

    /// Which groups to ask of whom now. `sources`: who can be asked, the best first.
    pub fn plan(&mut self, now: Instant, sources: impl Fn() -> Vec<NodeId>) -> Vec<(u64, NodeId)> {
        // The first level must be there, or nothing can be checked; the handshake brings it.
        if self.proof.is_none() || self.needed.is_empty() {
            return Vec::new();
        }
        let due =
            |needed: &Needed| needed.asked.is_empty() || (needed.asked.len() < MAX_ASKED && now >= needed.last + LATE);
        if !self.needed.values().any(due) {
            return Vec::new();
        }
        let sources = sources();
        let mut asks = Vec::new();
        for (group, needed) in self.needed.iter_mut().filter(|(_, needed)| due(needed)) {
            let fresh = |node: &&NodeId| !needed.asked.contains(node) && !needed.tried.contains(node);
            if let Some(node) = sources.iter().find(fresh) {
                needed.asked.push(*node);
                needed.last = now;
                asks.push((*group, *node));
            } else if needed.asked.is_empty() && now >= needed.last + LATE {
                // One of them may have learnt them meanwhile.
                needed.tried.clear();
                needed.last = now;
            }
        }
        asks
    }

    /// `node` did not bring the hashes of `group`.
    pub fn failed(&mut self, group: u64, node: NodeId) {
        if let Some(needed) = self.needed.get_mut(&group) {
            needed.asked.retain(|asked| *asked != node);
            if !needed.tried.contains(&node) {
                needed.tried.push(node);
            }
        }
    }

    /// The first level, if it proves itself.
    pub fn first_level(&mut self, groups: Vec<SubtreeHash>) -> Result<(), BadProof> {
        if self.proof.is_none() {
            self.proof = Some(Proof::new(self.content, groups)?);
            self.needed.retain(|group, _| self.proof.as_ref().is_some_and(|proof| !proof.has_group(*group)));
        }
        Ok(())
    }

    /// The hashes of `group`, if they prove themselves.
    pub fn group(&mut self, group: u64, hashes: Vec<SubtreeHash>) -> Result<(), BadProof> {
        let proof = self.proof.as_mut().ok_or(BadProof::Hash)?;
        if !proof.has_group(group) {
            proof.add_group(group, hashes)?;
        }
        self.needed.remove(&group);
        Ok(())
    }

    /// A chunk came before what proves it.
    pub fn keep(&mut self, ticket: Ticket, raw: RawChunk) {
        self.early.push((ticket, raw));
    }

    /// Chunks that can be verified now, with their hashes.
    pub fn ready(&mut self) -> Vec<(Ticket, RawChunk, SubtreeHash)> {
        let mut ready = Vec::new();
        let proof = self.proof.as_ref();
        self.early.retain(|(ticket, raw)| match proof.and_then(|proof| proof.chunk(ticket.chunk)) {
            Some(expected) => {
                ready.push((*ticket, raw.clone(), expected));
                false
            }
            None => true,
        });
        ready
    }

    /// True if chunks wait for what proves them.
    pub fn is_waiting(&self) -> bool {
        !self.early.is_empty()
    }

    /// Nobody waits for this one any more.
    pub fn cancel(&mut self, ticket: Ticket) {
        self.early.retain(|(early, _)| early.serial != ticket.serial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::chunks::CHUNK;
    use crate::base::tree::manifest_of;

    #[test]
    fn who_lacks_hashes_is_not_asked_again_before_the_others() {
        let start = Instant::now();
        let manifest = manifest_of(&vec![7; (CHUNK * (GROUP_CHUNKS + 1)) as usize]);
        let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
        let mut proving = Proving::new(manifest.content());
        proving.first_level(manifest.groups()).unwrap();
        proving.need(GROUP_CHUNKS, start);
        let both = || vec![a, b];
        assert_eq!(proving.plan(start, both), [(1, a)]);
        proving.failed(1, a);
        assert_eq!(proving.plan(start, both), [(1, b)]);
        proving.failed(1, b);
        assert_eq!(proving.plan(start, both), []);
        assert_eq!(proving.plan(start + LATE, both), []);
        assert_eq!(proving.plan(start + LATE, both), [(1, a)]);
        proving.group(1, manifest.group(1).to_vec()).unwrap();
        assert!(proving.expected(GROUP_CHUNKS).is_some());
    }
}
