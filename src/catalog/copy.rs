//! One node's catalog as it is held here, by its owner or by anybody else: a signed snapshot, the signed deltas since,
//! and the entries that both lead to.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::entry::Entry;
use super::signed::{CatalogError, Delta, SnapshotHead, chain_of, read_body};
use crate::base::clock::Timestamp;
use crate::base::ids::{NetworkId, NodeId};
use crate::base::limits::{CATALOG_PART, MAX_CATALOG_ENTRIES};
use crate::base::names::ValidPath;
use crate::wire::message::{CatalogAnswer, CatalogRequest, CatalogVersion};

/// Deltas may grow to this much before a new snapshot replaces them, whatever the catalog's size.
const MIN_DELTAS: usize = 64 * 1024;

/// Bytes of deltas beside a snapshot of `body` bytes, beyond which the owner takes a new snapshot: following deltas must
/// stay cheaper than fetching the catalog anew.
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
    entries: BTreeMap<ValidPath, Entry>,
    header: Arc<[u8]>,
    body: Arc<[u8]>,
    base_version: u64,
    deltas: Vec<Arc<[u8]>>,
    /// Bytes of all deltas.
    delta_bytes: usize,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    header: ByteBuf,
    body: ByteBuf,
    deltas: Vec<ByteBuf>,
}

impl CatalogCopy {
    /// From a snapshot, verified.
    pub fn from_snapshot(network: NetworkId, header: &[u8], body: &[u8]) -> Result<Self, CatalogError> {
        let head = SnapshotHead::open(header)?;
        if head.network != network {
            return Err(CatalogError::Place);
        }
        if head.body_len != body.len() as u64 || head.body_hash != *blake3::hash(body).as_bytes() {
            return Err(CatalogError::Malformed);
        }
        let entries = read_body(body)?.into_iter().map(|entry| (entry.path.clone(), entry)).collect();
        Ok(Self {
            network,
            node: head.node,
            epoch: head.epoch,
            version: head.version,
            at: head.at.sane(),
            chain: head.chain,
            entries,
            header: header.into(),
            body: body.into(),
            base_version: head.version,
            deltas: Vec::new(),
            delta_bytes: 0,
        })
    }

    /// Follows a delta that came from outside, which its owner need not have kept small: twice what an honest one keeps,
    /// and one more, is the end.
    pub fn follow_foreign(&mut self, signed: &[u8]) -> Result<(), CatalogError> {
        let room = delta_room(self.body.len()).saturating_mul(2).saturating_add(CATALOG_PART);
        if self.delta_bytes.saturating_add(signed.len()) > room {
            return Err(CatalogError::TooLarge);
        }
        self.follow(signed)
    }

    /// Follows a delta.
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
        if self.entries.len() + delta.put.len() > MAX_CATALOG_ENTRIES {
            return Err(CatalogError::TooLarge);
        }
        // All of it or nothing: a delta that is refused must not have changed anything.
        let put: Option<Vec<Entry>> = delta.put.into_iter().map(Entry::checked).collect();
        let put = put.ok_or(CatalogError::Malformed)?;
        for path in &delta.removed {
            self.entries.remove(path);
        }
        for entry in put {
            self.entries.insert(entry.path.clone(), entry);
        }
        self.version = delta.version;
        self.at = delta.at.sane();
        self.chain = chain_of(signed);
        self.delta_bytes += signed.len();
        self.deltas.push(signed.into());
        Ok(())
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

    /// The chain value that it stands at.
    pub fn chain(&self) -> [u8; 32] {
        self.chain
    }

    /// What it offers.
    pub fn entries(&self) -> &BTreeMap<ValidPath, Entry> {
        &self.entries
    }

    /// Epoch and version: what is newer comes later.
    pub fn place(&self) -> (u64, u64) {
        (self.epoch, self.version)
    }

    /// Bytes of the deltas since the snapshot, and of the snapshot: the owner takes a new snapshot in time.
    pub fn weight(&self) -> (usize, usize) {
        (self.delta_bytes, self.body.len())
    }

    /// What brings the asker forward.
    pub fn answer(&self, request: &CatalogRequest) -> CatalogAnswer {
        if let Some((epoch, version, part)) = request.part
            && (epoch, version) == (self.epoch, self.base_version)
        {
            return self.part(part);
        }
        match request.have {
            Some((epoch, version)) if epoch == self.epoch && version >= self.version => CatalogAnswer::UpToDate,
            Some((epoch, version)) if epoch == self.epoch && version >= self.base_version => {
                let from = (version - self.base_version) as usize;
                let mut room = CATALOG_PART;
                let deltas = self.deltas.iter().skip(from).take_while(|delta| {
                    // At least one, however large.
                    let first = room == CATALOG_PART;
                    let fits = first || delta.len() <= room;
                    room = room.saturating_sub(delta.len());
                    fits
                });
                CatalogAnswer::Deltas(deltas.map(|delta| ByteBuf::from(delta.to_vec())).collect())
            }
            Some((epoch, _)) if epoch > self.epoch => CatalogAnswer::UpToDate,
            _ => self.part(0),
        }
    }

    fn part(&self, part: u32) -> CatalogAnswer {
        let parts = self.body.len().div_ceil(CATALOG_PART).max(1) as u32;
        let from = (part as usize).saturating_mul(CATALOG_PART).min(self.body.len());
        let to = from.saturating_add(CATALOG_PART).min(self.body.len());
        CatalogAnswer::Snapshot {
            header: ByteBuf::from(self.header.to_vec()),
            part,
            parts,
            body: ByteBuf::from(self.body[from..to].to_vec()),
        }
    }

    /// To bytes, for the disk (to be sealed).
    pub fn store(&self) -> Result<Vec<u8>, CatalogError> {
        let stored = Stored {
            header: ByteBuf::from(self.header.to_vec()),
            body: ByteBuf::from(self.body.to_vec()),
            deltas: self.deltas.iter().map(|delta| ByteBuf::from(delta.to_vec())).collect(),
        };
        rmp_serde::to_vec(&stored).map_err(|_| CatalogError::Malformed)
    }

    /// From [`CatalogCopy::store`]'s bytes; everything is verified again.
    pub fn load(network: NetworkId, bytes: &[u8]) -> Result<Self, CatalogError> {
        let stored: Stored = rmp_serde::from_slice(bytes).map_err(|_| CatalogError::Malformed)?;
        let mut copy = Self::from_snapshot(network, &stored.header, &stored.body)?;
        for delta in stored.deltas {
            copy.follow(&delta)?;
        }
        Ok(copy)
    }
}
