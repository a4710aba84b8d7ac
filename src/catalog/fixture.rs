//! Catalogs for tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use ed25519_dalek::{Signer, SigningKey};

use super::claims::Party;
use super::copy::CatalogCopy;
use super::entry::Entry;
use super::merge::{Standing, merge};
use super::own::begin_beyond;
use super::tree::ViewTree;
use crate::base::clock::Timestamp;
use crate::base::ids::{ContentId, NetworkId, NodeId, Root};
use crate::base::names::ValidPath;

/// The network of all of them.
pub const NETWORK: NetworkId = NetworkId([3; 32]);

/// A node, and what signs for it.
pub fn key(tag: u8) -> (NodeId, impl Fn(&[u8]) -> [u8; 64]) {
    let key = SigningKey::from_bytes(&[tag; 32]);
    (NodeId(key.verifying_key().to_bytes()), move |message: &[u8]| key.sign(message).to_bytes())
}

/// An entry whose root is made of `tag`.
pub fn entry(path: &str, tag: u8, secs: i64, size: u64) -> Entry {
    Entry {
        path: ValidPath::new(path.as_bytes()).unwrap(),
        content: ContentId { root: Root([tag; 32]), size },
        mtime: Timestamp { secs, nanos: 0 },
        executable: false,
    }
}

/// The catalog of the node made of `tag`, with these entries in whatever order.
pub fn copy(tag: u8, entries: &[Entry]) -> Arc<CatalogCopy> {
    let (node, sign) = key(tag);
    let sorted: BTreeMap<&ValidPath, &Entry> = entries.iter().map(|entry| (&entry.path, entry)).collect();
    let sorted: Vec<Entry> = sorted.into_values().cloned().collect();
    Arc::new(begin_beyond(NETWORK, node, 0, &sorted, Timestamp::default(), &sign).unwrap())
}

/// What a view shows of files of one live node: path, what the root is made of, seconds.
pub fn tree(files: &[(&str, u8, i64)], size: u64) -> ViewTree {
    let entries: Vec<Entry> = files.iter().map(|(path, tag, secs)| entry(path, *tag, *secs, size)).collect();
    let party = Party { copy: copy(1, &entries), standing: Standing::Live };
    merge(&ViewTree::default(), vec![party], &|_| false)
}
