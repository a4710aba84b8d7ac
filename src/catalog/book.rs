//! All catalogs of one network that this node knows: what it can tell others, what it lacks, and how it catches up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::copy::CatalogCopy;
use super::room::Worth;
use super::signed::{CatalogError, MAX_BODY, SnapshotHead};
use super::sums::SumTable;
use crate::base::clock::Timestamp;
use crate::base::ids::{NetworkId, NodeId};
use crate::base::limits::{CATALOG_PART, MAX_CATALOG_BYTES, MAX_CATALOGS};
use crate::wire::message::{CatalogAnswer, CatalogRequest, CatalogVersion};

/// Answers that one catch-up takes: four times those of the largest catalog in parts.
const MAX_ANSWERS: usize = 4 * (MAX_BODY / CATALOG_PART);
/// How often one catch-up begins a snapshot anew because its owner, or whoever passes it on, took another one meanwhile.
const MAX_RESTARTS: usize = 8;

/// Catalogs of one network.
#[derive(Clone, Debug)]
pub struct CatalogBook {
    network: NetworkId,
    own: NodeId,
    copies: BTreeMap<NodeId, Arc<CatalogCopy>>,
    sums: SumTable,
    /// Of all of them.
    bytes: usize,
    /// Those that may go where there is no room, by when their owners were seen: who was seen longest ago is the last.
    idle: Vec<(Timestamp, NodeId)>,
}

/// Fetching one node's catalog from one peer, step by step.
#[derive(Debug)]
pub struct CatchUp {
    node: NodeId,
    copy: Option<Arc<CatalogCopy>>,
    /// Epoch and version of what there was at the start.
    had: Option<(u64, u64)>,
    /// What there was is on another branch than the peer's, which is fetched from its beginning.
    anew: bool,
    partial: Option<Partial>,
    network: NetworkId,
    changed: bool,
    answers: usize,
    restarts: usize,
}

/// A snapshot that is being fetched in parts.
#[derive(Debug)]
struct Partial {
    header: Vec<u8>,
    /// Epoch and version that it stands at.
    place: (u64, u64),
    body: Vec<u8>,
    /// Bytes that there must be in the end.
    len: usize,
    /// The part to ask for next, and how many there are.
    next: u32,
    all: u32,
}

impl CatalogBook {
    /// Nothing known yet. `own`: this node, whose catalog only it may change.
    pub fn new(network: NetworkId, own: NodeId) -> Self {
        Self { network, own, copies: BTreeMap::new(), sums: SumTable::default(), bytes: 0, idle: Vec::new() }
    }

    /// Puts another node's catalog in, if it is newer than what is there. This node's own is refused: it comes from itself
    /// alone, through [`CatalogBook::put_own`].
    pub fn put(&mut self, copy: Arc<CatalogCopy>) -> bool {
        copy.node() != self.own && self.put_newer(copy)
    }

    /// Puts this node's own catalog in, as it made it; another's is refused.
    pub fn put_own(&mut self, copy: Arc<CatalogCopy>) -> bool {
        copy.node() == self.own && self.put_newer(copy)
    }

    fn put_newer(&mut self, copy: Arc<CatalogCopy>) -> bool {
        let new = copy.version();
        let newer = self.copies.get(&copy.node()).is_none_or(|old| {
            let old = old.version();
            (new.epoch, new.version) > (old.epoch, old.version)
        });
        if newer {
            self.bytes += copy.kept();
            if let Some(old) = self.copies.insert(copy.node(), copy) {
                self.sums.toggle_version(&old.version());
                self.bytes -= old.kept();
            }
            self.sums.toggle_version(&new);
        }
        newer
    }

    /// Says anew which catalogs may go, and when their owners were last seen.
    pub fn set_idle(&mut self, mut idle: Vec<(Timestamp, NodeId)>) {
        idle.sort_unstable_by(|a, b| b.cmp(a));
        self.idle = idle;
    }

    /// Whose catalogs must go so that there is room for one of `node` with so many bytes, beside those that stay: a member that
    /// makes up nodes without end can neither fill memory nor keep out who comes later. Nobody, most of the time; `None` if there
    /// is no room to be had: what is not worth less than the newcomer, as far as `worth_of` knows right now, stays.
    pub fn room_for(
        &self,
        node: NodeId,
        bytes: usize,
        worth: Worth,
        worth_of: impl Fn(&NodeId) -> Worth,
    ) -> Option<Vec<NodeId>> {
        let old = self.copies.get(&node);
        let mut left = (self.bytes - old.map_or(0, |old| old.kept())).saturating_add(bytes);
        let mut count = self.copies.len() + usize::from(old.is_none());
        let mut go = Vec::new();
        // One after the other, those that were seen longest ago first.
        let mut idle = self.idle.iter().rev();
        while count > MAX_CATALOGS || left > MAX_CATALOG_BYTES {
            let (seen, other) = idle.next()?;
            if Worth::Idle(*seen) >= worth {
                return None;
            }
            // It may have gone meanwhile, or be live again.
            let Some(copy) = self.copies.get(other) else { continue };
            if *other != node && *other != self.own && worth_of(other) < worth {
                (left, count) = (left - copy.kept(), count - 1);
                go.push(*other);
            }
        }
        Some(go)
    }

    /// Drops another node's catalog.
    pub fn drop_of(&mut self, node: NodeId) {
        if node != self.own
            && let Some(old) = self.copies.remove(&node)
        {
            self.sums.toggle_version(&old.version());
            self.bytes -= old.kept();
        }
    }

    /// Bytes that all of them take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where all of them stand, summed up.
    pub fn sums(&self) -> &SumTable {
        &self.sums
    }

    /// One catalog.
    pub fn get(&self, node: NodeId) -> Option<&Arc<CatalogCopy>> {
        self.copies.get(&node)
    }

    /// All catalogs.
    pub fn all(&self) -> impl Iterator<Item = &Arc<CatalogCopy>> {
        self.copies.values()
    }

    /// What to tell others.
    pub fn versions(&self) -> Vec<CatalogVersion> {
        self.copies.values().map(|copy| copy.version()).collect()
    }

    /// Whose catalogs somebody with `theirs` could bring forward here.
    pub fn lacks(&self, theirs: &[CatalogVersion]) -> BTreeSet<NodeId> {
        let newer = |theirs: &&CatalogVersion| {
            theirs.node != self.own
                && self.copies.get(&theirs.node).is_none_or(|ours| {
                    let ours = ours.version();
                    (theirs.epoch, theirs.version) > (ours.epoch, ours.version)
                })
        };
        theirs.iter().filter(newer).map(|theirs| theirs.node).collect()
    }

    /// True if others say that they know a newer catalog of this very node than it has itself: its state was lost, or
    /// restored from a backup, or its identity lives in two places. Or they lie: what counts is its own signature.
    pub fn own_elsewhere(&self, theirs: &[CatalogVersion]) -> bool {
        let ours = self.copies.get(&self.own).map(|copy| copy.place());
        theirs.iter().any(|theirs| theirs.node == self.own && Some((theirs.epoch, theirs.version)) > ours)
    }

    /// What brings an asker forward.
    pub fn answer(&self, request: &CatalogRequest) -> CatalogAnswer {
        self.copies.get(&request.node).map_or(CatalogAnswer::UpToDate, |copy| copy.answer(request))
    }

    /// Begins to fetch `node`'s catalog.
    pub fn catch_up(&self, node: NodeId) -> CatchUp {
        let copy = self.copies.get(&node).cloned();
        let had = copy.as_ref().map(|copy| copy.place());
        CatchUp {
            node,
            copy,
            had,
            anew: false,
            partial: None,
            network: self.network,
            changed: false,
            answers: 0,
            restarts: 0,
        }
    }
}

impl CatchUp {
    /// What to ask next.
    pub fn request(&self) -> CatalogRequest {
        let have = self.copy.as_ref().map(|copy| copy.place());
        let part = self.partial.as_ref().map(|partial| (partial.place.0, partial.place.1, partial.next));
        CatalogRequest { node: self.node, have, part }
    }

    /// Bytes of the snapshot that is coming in parts; 0 if none is.
    pub fn expects(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.len)
    }

    /// Answers so far.
    pub fn answers(&self) -> usize {
        self.answers
    }

    /// Takes the answer. True: ask again. False: this peer has nothing more. It comes to an end whatever the peer answers:
    /// each answer brings a delta or a whole part, and there are `MAX_ANSWERS` of them at most.
    pub fn take(&mut self, answer: CatalogAnswer) -> Result<bool, CatalogError> {
        self.answers += 1;
        if self.answers > MAX_ANSWERS {
            return Err(CatalogError::Endless);
        }
        match answer {
            CatalogAnswer::UpToDate => Ok(false),
            CatalogAnswer::Deltas(deltas, head) => {
                if deltas.is_empty() {
                    return Ok(false);
                }
                let copy = Arc::make_mut(self.copy.as_mut().ok_or(CatalogError::Place)?);
                match deltas.iter().try_for_each(|delta| copy.follow_foreign(delta)) {
                    Err(CatalogError::Chain | CatalogError::TooLarge) if !self.anew => {
                        // Once: what comes from its beginning fits itself, and stands on its owner's newest snapshot.
                        (self.anew, self.changed, self.copy) = (true, false, None);
                    }
                    followed => {
                        followed?;
                        self.changed = true;
                        if let Some(head) = head {
                            copy.move_up(&head)?;
                        }
                    }
                }
                Ok(true)
            }
            CatalogAnswer::Snapshot { header, part, parts, body } => self.take_part(&header, part, parts, &body),
        }
    }

    fn take_part(&mut self, header: &[u8], part: u32, parts: u32, bytes: &[u8]) -> Result<bool, CatalogError> {
        if part == 0 {
            let head = SnapshotHead::open(header)?;
            let have = self.copy.as_ref().map(|copy| copy.place());
            if head.node != self.node || head.network != self.network || have >= Some((head.epoch, head.version)) {
                return Err(CatalogError::Place);
            }
            if head.body_len > MAX_BODY as u64 || u64::from(parts) != head.body_len.div_ceil(CATALOG_PART as u64).max(1)
            {
                return Err(CatalogError::Malformed);
            }
            if self.partial.is_some() {
                self.restart()?;
            }
            let (place, len) = ((head.epoch, head.version), head.body_len as usize);
            self.partial = Some(Partial { header: header.to_vec(), place, body: Vec::new(), len, next: 0, all: parts });
        }
        let partial = self.partial.as_mut().ok_or(CatalogError::Malformed)?;
        if part != partial.next || parts != partial.all {
            return Err(CatalogError::Malformed);
        }
        if partial.header != header {
            // The peer took a newer snapshot meanwhile: begin again with that.
            self.restart()?;
            return Ok(true);
        }
        // Whole parts alone: crumbs would never come to an end.
        if bytes.len() != (partial.len - partial.body.len()).min(CATALOG_PART) {
            return Err(CatalogError::Malformed);
        }
        // Not twice as much as has come, as it would grow by itself: it may be half a gigabyte.
        partial.body.reserve_exact(bytes.len());
        partial.body.extend_from_slice(bytes);
        partial.next += 1;
        if partial.next == partial.all {
            let body = Bytes::from(std::mem::take(&mut partial.body));
            let copy = CatalogCopy::from_snapshot(self.network, &partial.header, body)?;
            self.copy = Some(Arc::new(copy));
            self.partial = None;
            self.changed = true;
        }
        Ok(true)
    }

    fn restart(&mut self) -> Result<(), CatalogError> {
        self.partial = None;
        self.restarts += 1;
        if self.restarts > MAX_RESTARTS { Err(CatalogError::Endless) } else { Ok(()) }
    }

    /// The catalog, if it has moved forward.
    pub fn finish(self) -> Option<Arc<CatalogCopy>> {
        self.copy.filter(|copy| self.changed && Some(copy.place()) > self.had)
    }
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
