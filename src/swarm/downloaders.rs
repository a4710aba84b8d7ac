//! Who is downloading what from this node: so that it can tell the downloaders of a file about each other, and tell them
//! what it holds as that grows. Bounded, and forgets who has not been heard of. Pure: times are arguments.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::base::ids::{ContentId, NodeId};

/// A downloader that has not asked for anything for this long has what it wants, or has gone.
const EXPIRY: Duration = Duration::from_secs(60);
/// Files that are kept track of. Beyond that those that have been quiet longest are forgotten, so many at once: a peer
/// that copies many small files would otherwise have all of them looked at for each.
const MAX_CONTENTS: usize = 1024;
const FORGOTTEN: usize = MAX_CONTENTS / 8;
/// Downloaders of one file that are kept track of.
const MAX_PER_CONTENT: usize = 64;
/// Downloaders that one peer is told about: enough for a swarm to hang together, few enough that nobody dials hundreds.
pub const MAX_TOLD: usize = 16;
/// Addresses of each.
pub const MAX_ADDRS: usize = 4;

/// A downloader: who it is and where it can be reached.
pub type Companion = (NodeId, Vec<SocketAddr>);

#[derive(Debug, Clone)]
struct Downloader<L> {
    addrs: Vec<SocketAddr>,
    link: L,
    seen: Instant,
}

/// See the module. `L` is how a downloader can be talked to.
#[derive(Debug)]
pub struct Downloaders<L> {
    contents: HashMap<ContentId, BTreeMap<NodeId, Downloader<L>>>,
}

impl<L> Default for Downloaders<L> {
    fn default() -> Self {
        Self { contents: HashMap::new() }
    }
}

impl<L: Clone> Downloaders<L> {
    /// `node` opens or asks for chunks of `content`. True if it was not known as a downloader of it.
    pub fn seen(&mut self, content: ContentId, node: NodeId, addrs: &[SocketAddr], link: &L, now: Instant) -> bool {
        if let Some(known) = self.contents.get_mut(&content).and_then(|nodes| nodes.get_mut(&node)) {
            let fresh = now.saturating_duration_since(known.seen) > EXPIRY;
            known.seen = now;
            if fresh {
                known.link = link.clone();
            }
            return fresh;
        }
        if !self.contents.contains_key(&content) && self.contents.len() >= MAX_CONTENTS {
            self.make_room(now);
        }
        let nodes = self.contents.entry(content).or_default();
        nodes.retain(|_, downloader| now.saturating_duration_since(downloader.seen) <= EXPIRY);
        if nodes.len() >= MAX_PER_CONTENT {
            return false;
        }
        let addrs = addrs.iter().copied().take(MAX_ADDRS).collect();
        nodes.insert(node, Downloader { addrs, link: link.clone(), seen: now });
        true
    }

    fn make_room(&mut self, now: Instant) {
        self.contents.retain(|_, nodes| {
            nodes.retain(|_, downloader| now.saturating_duration_since(downloader.seen) <= EXPIRY);
            !nodes.is_empty()
        });
        if self.contents.len() >= MAX_CONTENTS {
            let seen = |nodes: &BTreeMap<NodeId, Downloader<L>>| nodes.values().map(|downloader| downloader.seen).max();
            let mut by_time: Vec<_> = self.contents.iter().map(|(content, nodes)| (seen(nodes), *content)).collect();
            by_time.sort();
            for (_, content) in by_time.into_iter().take(FORGOTTEN) {
                self.contents.remove(&content);
            }
        }
    }

    /// `node`'s session is over: it downloads nothing any more.
    pub fn gone(&mut self, node: NodeId) {
        self.contents.retain(|_, nodes| {
            nodes.remove(&node);
            !nodes.is_empty()
        });
    }

    fn active(&self, content: &ContentId, now: Instant) -> impl Iterator<Item = (&NodeId, &Downloader<L>)> {
        let nodes = self.contents.get(content).into_iter().flatten();
        nodes.filter(move |(_, downloader)| now.saturating_duration_since(downloader.seen) <= EXPIRY)
    }

    /// Whom to tell `except` about: the downloaders of `content` that were heard of last, at most [`MAX_TOLD`].
    pub fn companions(&self, content: &ContentId, except: NodeId, now: Instant) -> Vec<Companion> {
        let mut active: Vec<_> = self.active(content, now).filter(|(node, _)| **node != except).collect();
        active.sort_by_key(|(_, downloader)| std::cmp::Reverse(downloader.seen));
        active.into_iter().take(MAX_TOLD).map(|(node, downloader)| (*node, downloader.addrs.clone())).collect()
    }

    /// How to talk to the downloaders of `content`.
    pub fn links(&self, content: &ContentId, now: Instant) -> Vec<(NodeId, L)> {
        self.active(content, now).map(|(node, downloader)| (*node, downloader.link.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Root;

    fn content(tag: u64) -> ContentId {
        ContentId { root: Root([1; 32]), size: tag }
    }

    fn node(tag: u8) -> NodeId {
        NodeId([tag; 32])
    }

    #[test]
    fn downloaders_of_one_file_are_known_until_they_fall_silent() {
        let (mut known, start) = (Downloaders::default(), Instant::now());
        let addrs = [([10, 0, 0, 1], 7450).into()];
        assert!(known.seen(content(1), node(1), &addrs, &'a', start));
        assert!(!known.seen(content(1), node(1), &addrs, &'a', start));
        assert!(known.seen(content(1), node(2), &addrs, &'b', start + EXPIRY / 2));
        assert!(known.seen(content(2), node(3), &addrs, &'c', start));
        assert_eq!(known.companions(&content(1), node(1), start), vec![(node(2), addrs.to_vec())]);
        assert_eq!(known.links(&content(1), start).len(), 2);
        let later = start + EXPIRY + Duration::from_secs(1);
        assert_eq!(known.links(&content(1), later), vec![(node(2), 'b')]);
        assert!(known.seen(content(1), node(1), &addrs, &'d', later), "it is back");
        known.gone(node(2));
        assert_eq!(known.links(&content(1), later), vec![(node(1), 'd')]);
    }

    #[test]
    fn nobody_can_fill_the_memory() {
        let (mut known, start) = (Downloaders::default(), Instant::now());
        for tag in 0..MAX_CONTENTS as u64 + 100 {
            known.seen(content(tag), node(1), &[], &(), start + Duration::from_millis(tag));
        }
        assert!((MAX_CONTENTS - FORGOTTEN..=MAX_CONTENTS).contains(&known.contents.len()), "{}", known.contents.len());
        let first_that_is_known = known.contents.keys().map(|content| content.size).min();
        assert!(first_that_is_known.is_some_and(|tag| tag >= FORGOTTEN as u64), "the quietest are forgotten");
        for tag in 0..=255 {
            known.seen(content(MAX_CONTENTS as u64), node(tag), &[], &(), start);
        }
        assert!(known.contents.values().all(|nodes| nodes.len() <= MAX_PER_CONTENT));
        assert!(known.companions(&content(MAX_CONTENTS as u64), node(1), start).len() <= MAX_TOLD);
    }
}
