//! By which networks the contents in the cache came. The cache itself is one for all networks, and a hash opens a content
//! to whoever names it; so members of a network are served from the cache only what this node fetched in that network.
//!
//! What is lost of this is served no more, and nothing worse: it may be saved late.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::base::ids::{ContentId, NetworkId};
use crate::base::tree::{Proof, VerifiedChunk};
use crate::cache::Cache;
use crate::swarm::swarm::Keep;
use crate::vault::sealer::Sealer;
use crate::vault::store::write_in_place;

const PURPOSE: &str = "cache origins";
/// Between two saves of what is new, at least: what a crash loses...
const SAVE_PAUSE: Duration = Duration::from_secs(5);
/// ...and so many times as long as the last one took, where there is much to save.
const SAVE_PART: u32 = 20;
/// Contents that are remembered, of all networks; what is more is not served. About as many as fill a cache of 20 GiB with
/// files of 20 KiB; 60 MiB of memory.
const MAX_CONTENTS: usize = 1_000_000;

#[derive(Default)]
struct Known {
    networks: BTreeMap<NetworkId, HashSet<ContentId>>,
    /// Something has not been saved.
    changed: bool,
}

impl Known {
    fn len(&self) -> usize {
        self.networks.values().map(HashSet::len).sum()
    }
}

/// See the module.
pub(super) struct Origins {
    file: PathBuf,
    sealer: Arc<Sealer>,
    known: Mutex<Known>,
}

impl Origins {
    /// Loads what is known of contents that are still cached. Blocks on the disk.
    pub fn load(file: PathBuf, sealer: Arc<Sealer>, is_cached: impl Fn(&ContentId) -> bool) -> Arc<Self> {
        let read = || {
            let plain = sealer.open(PURPOSE, &[], &std::fs::read(&file).ok()?).ok()?;
            rmp_serde::from_slice::<Vec<(NetworkId, Vec<ContentId>)>>(&plain).ok()
        };
        let networks = read().unwrap_or_default().into_iter();
        let networks = networks.map(|(network, contents)| (network, contents.into_iter().filter(&is_cached).collect()));
        let known = Known { networks: networks.collect(), changed: false };
        Arc::new(Self { file, sealer, known: Mutex::new(known) })
    }

    /// A chunk of `content` came by `network`. Called for each chunk.
    fn note(&self, network: NetworkId, content: ContentId) {
        let mut known = self.known.lock();
        if known.networks.get(&network).is_some_and(|contents| contents.contains(&content))
            || known.len() >= MAX_CONTENTS
        {
            return;
        }
        known.networks.entry(network).or_default().insert(content);
        known.changed = true;
    }

    /// True if some of `content` came by `network`.
    pub fn has(&self, network: &NetworkId, content: &ContentId) -> bool {
        self.known.lock().networks.get(network).is_some_and(|contents| contents.contains(content))
    }

    /// Brings to disk what has changed. Blocks on it.
    pub fn save(&self) {
        let all: Vec<(NetworkId, Vec<ContentId>)> = {
            let mut known = self.known.lock();
            if !std::mem::take(&mut known.changed) {
                return;
            }
            let networks = known.networks.iter();
            networks.map(|(network, contents)| (*network, contents.iter().copied().collect())).collect()
        };
        let saved = rmp_serde::to_vec(&all).map_err(std::io::Error::other).and_then(|plain| {
            let sealed = self.sealer.seal(PURPOSE, &[], &plain).map_err(std::io::Error::other)?;
            write_in_place(&self.file, &[&sealed])
        });
        if let Err(error) = saved {
            self.known.lock().changed = true;
            tracing::warn!(%error, "by which networks cached files came can't be saved");
        }
    }
}

/// Saves what is new, for as long as somebody keeps account of it.
pub(super) async fn keep_saved(origins: Weak<Origins>) {
    let mut pause = SAVE_PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        let Some(origins) = origins.upgrade() else { return };
        let began = Instant::now();
        // A panic in there has been logged; the next try is as good.
        let _ = tokio::task::spawn_blocking(move || origins.save()).await;
        pause = SAVE_PAUSE.max(began.elapsed() * SAVE_PART);
    }
}

/// Where one network's swarm keeps what it fetches.
pub(super) struct KeptFor {
    pub network: NetworkId,
    pub cache: Arc<Cache>,
    pub origins: Arc<Origins>,
}

impl Keep for KeptFor {
    fn keep(&self, chunk: &VerifiedChunk) {
        self.origins.note(self.network, chunk.content());
        self.cache.put(chunk);
    }

    fn recall(&self, content: ContentId, index: u64) -> Option<VerifiedChunk> {
        self.cache.ram_get(content, index)
    }

    fn keep_proof(&self, proof: &Proof) {
        self.cache.put_proof(proof);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Root;
    use crate::vault::keys::NameKey;

    #[test]
    fn a_content_is_known_by_the_networks_that_it_came_by_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("origins");
        let sealer = Arc::new(Sealer::new(&NameKey::from_bytes([3; 32])));
        let content = |tag| ContentId { root: Root([tag; 32]), size: 5 };
        let (here, there) = (NetworkId([1; 32]), NetworkId([2; 32]));
        let load = |cached: bool| Origins::load(file.clone(), Arc::clone(&sealer), move |_| cached);
        let origins = load(true);
        origins.save();
        assert!(!file.exists(), "nothing to say");
        origins.note(here, content(7));
        origins.note(there, content(8));
        origins.note(here, content(8));
        let check = |origins: &Origins| {
            assert!(origins.has(&here, &content(7)) && !origins.has(&there, &content(7)));
            assert!(origins.has(&here, &content(8)) && origins.has(&there, &content(8)));
            assert!(!origins.has(&here, &content(9)));
        };
        check(&origins);
        origins.save();
        check(&load(true));
        assert!(!load(false).has(&here, &content(7)), "it has left the cache");
        std::fs::write(&file, b"rubbish").unwrap();
        assert!(!load(true).has(&here, &content(7)));
    }
}
