//! The catalog that this node publishes.

use bytes::Bytes;

use super::body::write_body;
use super::copy::{CatalogCopy, delta_room};
use super::entry::Entry;
use super::signed::{CHAIN_START, CatalogError, Delta, SignWith, SnapshotHead, chain_of};
use crate::base::clock::Timestamp;
use crate::base::ids::{NetworkId, NodeId};
use crate::base::limits::CATALOG_PART;
use crate::base::names::{ValidPath, by_names};

/// Makes the first version of a catalog: empty. The epoch is the time, so that a node that lost its state is ahead of
/// what others remember of it.
pub fn begin(
    network: NetworkId,
    node: NodeId,
    now: Timestamp,
    sign: SignWith<'_>,
) -> Result<CatalogCopy, CatalogError> {
    begin_beyond(network, node, 0, &[], now, sign)
}

/// Makes the first version of a catalog with `entries` (sorted by path, none twice), in an epoch that is the time, and in
/// any case after `epoch`.
pub fn begin_beyond(
    network: NetworkId,
    node: NodeId,
    epoch: u64,
    entries: &[Entry],
    now: Timestamp,
    sign: SignWith<'_>,
) -> Result<CatalogCopy, CatalogError> {
    let epoch = (now.secs.max(1) as u64).max(epoch.saturating_add(1));
    snapshot(network, node, epoch, 1, CHAIN_START, entries, now, sign)
}

#[allow(clippy::too_many_arguments)]
fn snapshot(
    network: NetworkId,
    node: NodeId,
    epoch: u64,
    version: u64,
    chain: [u8; 32],
    entries: &[Entry],
    at: Timestamp,
    sign: SignWith<'_>,
) -> Result<CatalogCopy, CatalogError> {
    let body = Bytes::from(write_body(entries.iter())?);
    let body_hash = *blake3::hash(&body).as_bytes();
    let head = SnapshotHead { network, node, epoch, version, at, chain, body_hash, body_len: body.len() as u64 };
    CatalogCopy::from_snapshot(network, &head.seal(sign)?, body)
}

/// Brings `catalog` to `entries` (sorted by path, none twice). Returns false if nothing changed.
pub fn publish(
    catalog: &mut CatalogCopy,
    entries: &[Entry],
    now: Timestamp,
    sign: SignWith<'_>,
) -> Result<bool, CatalogError> {
    let (removed, put) = differences(catalog, entries);
    if removed.is_empty() && put.is_empty() {
        return Ok(false);
    }
    let (network, from, chain) = (catalog.network(), catalog.version(), catalog.chain());
    let (node, epoch, version) = (from.node, from.epoch, from.version + 1);
    let delta = Delta { network, node, epoch, version, at: now, follows: chain, removed, put };
    let signed = delta.seal(sign)?;
    // A delta must fit one answer.
    if signed.len() > CATALOG_PART {
        *catalog = snapshot(network, node, epoch, version, chain_of(&signed), entries, now, sign)?;
        return Ok(true);
    }
    catalog.follow(&signed)?;
    let (deltas, body) = catalog.weight();
    if deltas > delta_room(body) {
        let body = catalog.whole()?;
        let body_hash = *blake3::hash(&body).as_bytes();
        let (chain, body_len) = (catalog.chain(), body.len() as u64);
        let head = SnapshotHead { network, node, epoch, version, at: now, chain, body_hash, body_len };
        catalog.stand_on(&head.seal(sign)?, body)?;
    }
    Ok(true)
}

/// What leads from `catalog` to `entries`; both are sorted by path.
fn differences(catalog: &CatalogCopy, entries: &[Entry]) -> (Vec<ValidPath>, Vec<Entry>) {
    let (mut removed, mut put) = (Vec::new(), Vec::new());
    let mut wanted = entries.iter().peekable();
    for old in catalog.entries() {
        while let Some(new) = wanted.next_if(|new| by_names(new.path.as_bytes(), old.path).is_lt()) {
            put.push(new.clone());
        }
        match wanted.next_if(|new| new.path.as_bytes() == old.path) {
            Some(new) if old.is(new) => {}
            Some(new) => put.push(new.clone()),
            None => removed.extend(ValidPath::new(old.path).ok()),
        }
    }
    put.extend(wanted.cloned());
    (removed, put)
}
