//! The catalog that this node publishes.

use super::copy::{CatalogCopy, delta_room};
use super::entry::Entry;
use super::signed::{CHAIN_START, CatalogError, Delta, SignWith, SnapshotHead, write_body};
use crate::base::clock::Timestamp;
use crate::base::ids::{NetworkId, NodeId};
use crate::base::limits::CATALOG_PART;
use crate::base::names::ValidPath;

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
    let body = write_body(entries.iter())?;
    let head = SnapshotHead {
        network,
        node,
        epoch,
        version,
        at,
        chain,
        body_hash: *blake3::hash(&body).as_bytes(),
        body_len: body.len() as u64,
    };
    CatalogCopy::from_snapshot(network, &head.seal(sign)?, &body)
}

/// Brings `catalog` to `entries` (sorted by path, none twice). Returns false if nothing changed.
pub fn publish(
    catalog: &mut CatalogCopy,
    entries: &[Entry],
    now: Timestamp,
    sign: SignWith<'_>,
) -> Result<bool, CatalogError> {
    let old = catalog.entries();
    let is_new = |path: &ValidPath| entries.binary_search_by(|entry| entry.path.cmp(path)).is_err();
    let removed: Vec<ValidPath> = old.keys().filter(|path| is_new(path)).cloned().collect();
    let put: Vec<Entry> = entries.iter().filter(|entry| old.get(&entry.path) != Some(entry)).cloned().collect();
    if removed.is_empty() && put.is_empty() {
        return Ok(false);
    }
    let at = catalog.version();
    let delta = Delta {
        network: catalog.network(),
        node: at.node,
        epoch: at.epoch,
        version: at.version + 1,
        at: now,
        follows: catalog.chain(),
        removed,
        put,
    };
    let signed = delta.seal(sign)?;
    catalog.follow(&signed)?;
    let (deltas, body) = catalog.weight();
    // A delta must fit one answer.
    if signed.len() > CATALOG_PART || deltas > delta_room(body) {
        let at = catalog.version();
        *catalog = snapshot(catalog.network(), at.node, at.epoch, at.version, catalog.chain(), entries, now, sign)?;
    }
    Ok(true)
}
