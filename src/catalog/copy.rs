//! One node's catalog as it is held here, by its owner or by anybody else: a signed snapshot, the signed deltas since, and
//! some of those before, for nodes that were away. Entries stay where they came, in these bytes, and are read there.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::body::{Body, join_body};
use super::changes::Changes;
use super::entry::EntryRef;
use super::pack::Pack;
use super::signed::{CatalogError, Delta, Located, SnapshotHead, chain_of};
use crate::base::clock::Timestamp;
use crate::base::ids::{NetworkId, NodeId};
use crate::base::limits::CATALOG_PART;
use crate::wire::message::{CatalogAnswer, CatalogRequest, CatalogVersion};

/// Deltas may grow to this much before a new snapshot replaces them, whatever the catalog's size.
const MIN_DELTAS: usize = 32 * 1024;

/// Bytes of deltas beside a snapshot of `body` bytes, beyond which the owner takes a new snapshot: following deltas must
/// stay cheaper than fetching the catalog anew. Deltas from before the snapshot are kept while there is room for them.
pub fn delta_room(body: usize) -> usize {
    (body / 2).max(MIN_DELTAS)
}

/// A verified catalog.
#[derive(Clone, Debug)]
pub struct CatalogCopy {
    network: NetworkId,
    node: NodeId,
    epoch: u64,
    version: u64,
    at: Timestamp,
    chain: [u8; 32],
    header: Arc<[u8]>,
    base_version: u64,
    body: Body,
    changes: Changes,
    /// The deltas that led to the snapshot; the last one to its version.
    past: VecDeque<Arc<[u8]>>,
    past_bytes: usize,
}

#[derive(Deserialize)]
struct Stored {
    header: ByteBuf,
    body: ByteBuf,
    deltas: Vec<ByteBuf>,
    past: Vec<ByteBuf>,
}

#[derive(Serialize)]
struct ToStore<'a> {
    header: &'a serde_bytes::Bytes,
    body: &'a serde_bytes::Bytes,
    deltas: Vec<&'a serde_bytes::Bytes>,
    past: Vec<&'a serde_bytes::Bytes>,
}

impl CatalogCopy {
    /// From a snapshot, verified.
    pub fn from_snapshot(network: NetworkId, header: &[u8], body: Bytes) -> Result<Self, CatalogError> {
        let head = SnapshotHead::open(header)?;
        if head.network != network {
            return Err(CatalogError::Place);
        }
        if head.body_len != body.len() as u64 || head.body_hash != *blake3::hash(&body).as_bytes() {
            return Err(CatalogError::Malformed);
        }
        let body = Body::new(body)?;
        Ok(Self {
            network,
            node: head.node,
            epoch: head.epoch,
            version: head.version,
            at: head.at.sane(),
            chain: head.chain,
            header: header.into(),
            base_version: head.version,
            changes: Changes::none(&body),
            body,
            past: VecDeque::new(),
            past_bytes: 0,
        })
    }

    /// Follows a delta that came from outside, which its owner need not have kept small: twice what an honest one keeps,
    /// and one more, is the end.
    pub fn follow_foreign(&mut self, signed: &[u8]) -> Result<(), CatalogError> {
        let room = delta_room(self.body.bytes().len()).saturating_mul(2).saturating_add(CATALOG_PART);
        if self.changes.bytes().saturating_add(signed.len()) > room {
            return Err(CatalogError::TooLarge);
        }
        self.follow(signed)
    }

    /// Follows a delta. All of it or nothing: one that is refused must not have changed anything.
    pub fn follow(&mut self, signed: &[u8]) -> Result<(), CatalogError> {
        let delta = Delta::open(signed)?;
        if delta.network != self.network || delta.node != self.node {
            return Err(CatalogError::Place);
        }
        let follows = delta.epoch == self.epoch
            && self.version.checked_add(1) == Some(delta.version)
            && delta.follows == self.chain;
        if !follows {
            return Err(CatalogError::Chain);
        }
        let located = Located::within(signed).ok_or(CatalogError::Malformed)?;
        self.changes.take(&self.body, &signed.into(), &located)?;
        self.version = delta.version;
        self.at = delta.at.sane();
        self.chain = chain_of(signed);
        self.forget_past();
        Ok(())
    }

    /// The oldest go, where the new ones need their room.
    fn forget_past(&mut self) {
        let room = delta_room(self.body.bytes().len());
        while self.past_bytes + self.changes.bytes() > room {
            let Some(oldest) = self.past.pop_front() else { break };
            self.past_bytes -= oldest.len();
        }
        self.past.shrink_to_fit();
    }

    /// All that it offers as a body of its own.
    pub fn whole(&self) -> Result<Bytes, CatalogError> {
        join_body(self.len(), self.entries())
    }

    /// Puts it on a newer snapshot, of the version and the entries that it has now. The deltas become past ones.
    pub fn stand_on(&mut self, header: &[u8], body: Bytes) -> Result<(), CatalogError> {
        let mut new = Self::from_snapshot(self.network, header, body)?;
        if (new.node, new.place(), new.chain) != (self.node, self.place(), self.chain) {
            return Err(CatalogError::Place);
        }
        new.at = self.at;
        new.past = self.past.iter().chain(self.changes.deltas()).cloned().collect();
        new.past_bytes = new.past.iter().map(|delta| delta.len()).sum();
        new.forget_past();
        *self = new;
        Ok(())
    }

    /// Its owner took a snapshot of a version that this has reached by deltas: makes the body of what is here, so that it
    /// need not be fetched, and what it was made of need not be kept. False where there is nothing to be had by that. An
    /// error: not what its owner signed.
    pub fn move_up(&mut self, header: &[u8]) -> Result<bool, CatalogError> {
        let head = SnapshotHead::open(header)?;
        if head.network != self.network || head.node != self.node {
            return Err(CatalogError::Place);
        }
        if head.epoch != self.epoch || head.version <= self.base_version || head.version > self.version {
            return Ok(false);
        }
        let steps = (head.version - self.base_version) as usize;
        let bytes: usize = self.changes.deltas().take(steps).map(|delta| delta.len()).sum();
        // It costs as much as the catalog is large: not for an owner who takes snapshots all the time.
        if bytes < delta_room(self.body.bytes().len()) / 2 {
            return Ok(false);
        }
        let mut then = Self { changes: Changes::none(&self.body), ..self.clone() };
        for delta in self.changes.deltas().take(steps) {
            let located = Located::within(delta).ok_or(CatalogError::Malformed)?;
            then.changes.take(&then.body, delta, &located)?;
            then.chain = chain_of(delta);
        }
        then.version = head.version;
        let body = then.whole()?;
        // Where its owner says something else, or writes it differently, things stay as they are.
        if head.chain != then.chain || then.stand_on(header, body).is_err() {
            return Ok(false);
        }
        for delta in self.changes.deltas().skip(steps) {
            let located = Located::within(delta).ok_or(CatalogError::Malformed)?;
            then.changes.take(&then.body, delta, &located)?;
        }
        (then.version, then.chain, then.at) = (self.version, self.chain, self.at);
        then.forget_past();
        *self = then;
        Ok(true)
    }

    /// Where it stands.
    pub fn version(&self) -> CatalogVersion {
        CatalogVersion { node: self.node, epoch: self.epoch, version: self.version }
    }

    /// Its owner.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Its network.
    pub fn network(&self) -> NetworkId {
        self.network
    }

    /// When its owner last changed it, by the owner's clock.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// When its owner was certainly alive: when it made this, by its own clock; not in the future by ours.
    pub fn alive_at(&self, wall: Timestamp) -> Timestamp {
        self.at.min(wall)
    }

    /// The chain value that it stands at.
    pub fn chain(&self) -> [u8; 32] {
        self.chain
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.changes.count()
    }

    /// True if it offers nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it offers, in the order of paths.
    pub fn entries(&self) -> impl Iterator<Item = EntryRef<'_>> + Clone {
        self.changes.entries(&self.body).map(|(_, entry)| entry)
    }

    /// Where each entry is, in the order of paths. A place has 31 bits, and means something to this copy alone.
    pub fn places(&self) -> impl Iterator<Item = u32> {
        self.changes.entries(&self.body).map(|(place, _)| place)
    }

    /// The entry at a place.
    pub fn entry(&self, place: u32) -> Option<EntryRef<'_>> {
        EntryRef::take(&mut Pack::new(self.bytes_at(place)))
    }

    /// The bytes that the entry at a place begins with.
    pub fn bytes_at(&self, place: u32) -> &[u8] {
        self.changes.at(&self.body, place)
    }

    /// Up to which place an entry of this copy is an entry of `other` too, which it was made from perhaps, or the other way
    /// round.
    pub fn common_places(&self, other: &Self) -> u32 {
        self.changes.common_places(&self.body, &other.changes, &other.body)
    }

    /// Epoch and version: what is newer comes later.
    pub fn place(&self) -> (u64, u64) {
        (self.epoch, self.version)
    }

    /// Bytes of the deltas since the snapshot, and of the snapshot: the owner takes a new snapshot in time.
    pub fn weight(&self) -> (usize, usize) {
        (self.changes.bytes(), self.body.bytes().len())
    }

    /// Bytes of all that is kept of it.
    pub fn kept(&self) -> usize {
        self.body.bytes().len() + self.changes.bytes() + self.past_bytes
    }

    /// What brings the asker forward.
    pub fn answer(&self, request: &CatalogRequest) -> CatalogAnswer {
        if let Some((epoch, version, part)) = request.part
            && (epoch, version) == (self.epoch, self.base_version)
        {
            return self.part(part);
        }
        let oldest = self.base_version.saturating_sub(self.past.len() as u64);
        match request.have {
            Some((epoch, version)) if epoch == self.epoch && version >= self.version => CatalogAnswer::UpToDate,
            Some((epoch, version)) if epoch == self.epoch && version >= oldest => {
                self.deltas_from(version, (version - oldest) as usize)
            }
            Some((epoch, _)) if epoch > self.epoch => CatalogAnswer::UpToDate,
            _ => self.part(0),
        }
    }

    fn deltas_from(&self, version: u64, skip: usize) -> CatalogAnswer {
        let mut room = CATALOG_PART;
        let all = self.past.iter().chain(self.changes.deltas());
        let deltas = all.skip(skip).take_while(|delta| {
            // At least one, however large.
            let first = room == CATALOG_PART;
            let fits = first || delta.len() <= room;
            room = room.saturating_sub(delta.len());
            fits
        });
        let deltas: Vec<ByteBuf> = deltas.map(|delta| ByteBuf::from(delta.to_vec())).collect();
        let leads_over = version < self.base_version && version + deltas.len() as u64 >= self.base_version;
        CatalogAnswer::Deltas(deltas, leads_over.then(|| ByteBuf::from(self.header.to_vec())))
    }

    fn part(&self, part: u32) -> CatalogAnswer {
        let body = self.body.bytes();
        let parts = body.len().div_ceil(CATALOG_PART).max(1) as u32;
        let from = (part as usize).saturating_mul(CATALOG_PART).min(body.len());
        let to = from.saturating_add(CATALOG_PART).min(body.len());
        CatalogAnswer::Snapshot {
            header: ByteBuf::from(self.header.to_vec()),
            part,
            parts,
            body: ByteBuf::from(body[from..to].to_vec()),
        }
    }

    /// To bytes, for the disk (to be sealed).
    pub fn store(&self) -> Result<Vec<u8>, CatalogError> {
        let stored = ToStore {
            header: serde_bytes::Bytes::new(&self.header),
            body: serde_bytes::Bytes::new(self.body.bytes()),
            deltas: self.changes.deltas().map(|delta| serde_bytes::Bytes::new(delta)).collect(),
            past: self.past.iter().map(|delta| serde_bytes::Bytes::new(delta)).collect(),
        };
        let mut bytes = Vec::with_capacity(self.kept() + self.header.len() + 64);
        rmp_serde::encode::write(&mut bytes, &stored).map_err(|_| CatalogError::Malformed)?;
        Ok(bytes)
    }

    /// From [`CatalogCopy::store`]'s bytes; everything is verified again.
    pub fn load(network: NetworkId, bytes: &[u8]) -> Result<Self, CatalogError> {
        let stored: Stored = rmp_serde::from_slice(bytes).map_err(|_| CatalogError::Malformed)?;
        let mut copy = Self::from_snapshot(network, &stored.header, stored.body.into_vec().into())?;
        copy.past_bytes = stored.past.iter().map(|delta| delta.len()).sum();
        copy.past = stored.past.into_iter().map(|delta| delta.into_vec().into()).collect();
        copy.verify_past()?;
        for delta in stored.deltas {
            copy.follow(&delta)?;
        }
        Ok(copy)
    }

    /// Backwards from the snapshot's chain value, each delta names the one before it.
    fn verify_past(&self) -> Result<(), CatalogError> {
        let mut chain = self.chain;
        for (delta, version) in self.past.iter().rev().zip((0..=self.base_version).rev()) {
            if chain_of(delta) != chain {
                return Err(CatalogError::Chain);
            }
            let delta = Delta::read(delta)?;
            if (delta.epoch, delta.version) != (self.epoch, version) {
                return Err(CatalogError::Chain);
            }
            chain = delta.follows;
        }
        if self.past.len() as u64 > self.base_version { Err(CatalogError::Chain) } else { Ok(()) }
    }
}
