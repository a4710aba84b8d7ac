//! Peers that this node has heard of: where to try them, and when; and when each was last seen. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::base::clock::Timestamp;
use crate::base::ids::NodeId;
use crate::net::link::PeerAddr;

/// The first retry, and the longest pause between retries.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Peers that are remembered, and addresses of one: a hostile tracker can't fill memory.
const MAX_PEERS: usize = 100_000;
/// Nodes of which it is remembered when they were last seen: as many as peers and catalogs that are kept.
const MAX_SEEN: usize = 100_000;
const MAX_ADDRS: usize = 16;
/// A peer that was not seen for this long is forgotten.
const FORGET: i64 = 30 * 24 * 3600;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Remembered {
    node: NodeId,
    addrs: Vec<SocketAddr>,
    seen: Option<Timestamp>,
}

#[derive(Debug)]
struct Peer {
    addrs: Vec<SocketAddr>,
    /// Which address comes next.
    turn: usize,
    failures: u32,
    next: Instant,
    dialling: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Known {
    peers: BTreeMap<NodeId, Peer>,
    /// Also of nodes without an address: those whose catalogs others pass on count for the names in the view.
    seen: BTreeMap<NodeId, Timestamp>,
}

fn pause(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.min(10).saturating_sub(1)).min(LAST_RETRY)
}

impl Known {
    /// From what [`Known::store`] gave; all are tried at once.
    pub fn load(bytes: &[u8], wall: Timestamp, now: Instant) -> Option<Self> {
        let remembered: Vec<Remembered> = rmp_serde::from_slice(bytes).ok()?;
        let mut known = Self::default();
        for peer in remembered {
            if let Some(seen) = peer.seen.filter(|seen| seen.secs.saturating_add(FORGET) > wall.secs) {
                known.hear(peer.node, &peer.addrs, now);
                known.seen(peer.node, seen);
            }
        }
        Some(known)
    }

    /// To bytes, for the disk (to be sealed).
    pub fn store(&self) -> Vec<u8> {
        let remembered = |(node, seen): (&NodeId, &Timestamp)| {
            let addrs = self.peers.get(node).map(|peer| peer.addrs.clone()).unwrap_or_default();
            Remembered { node: *node, addrs, seen: Some(*seen) }
        };
        let all: Vec<Remembered> = self.seen.iter().map(remembered).collect();
        // Plain values always pack.
        rmp_serde::to_vec(&all).unwrap_or_default()
    }

    /// Somebody says that `node` is active at `addrs`: tried at once.
    pub fn hear(&mut self, node: NodeId, addrs: &[SocketAddr], now: Instant) {
        if addrs.is_empty() || (self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&node)) {
            return;
        }
        let peer = self.peers.entry(node).or_insert_with(|| Peer {
            addrs: Vec::new(),
            turn: 0,
            failures: 0,
            next: now,
            dialling: false,
        });
        // The newest first; old ones stay as a fallback.
        let mut all = addrs.to_vec();
        all.extend(peer.addrs.iter().filter(|old| !addrs.contains(old)).copied());
        all.truncate(MAX_ADDRS);
        peer.addrs = all;
        peer.turn = 0;
        peer.failures = 0;
        peer.next = peer.next.min(now);
    }

    /// Whom to dial now, of those whom `wanted` (not connected yet) accepts. They count as being dialled from here on.
    pub fn due(&mut self, now: Instant, wanted: impl Fn(&NodeId) -> bool) -> Vec<(NodeId, PeerAddr)> {
        let mut due = Vec::new();
        for (node, peer) in &mut self.peers {
            if !peer.dialling && peer.next <= now && wanted(node) {
                peer.dialling = true;
                let addr = peer.addrs[peer.turn % peer.addrs.len()];
                due.push((*node, PeerAddr::Tcp(addr)));
            }
        }
        due
    }

    /// When somebody is due next.
    pub fn next(&self, wanted: impl Fn(&NodeId) -> bool) -> Option<Instant> {
        self.peers.iter().filter(|(node, peer)| !peer.dialling && wanted(node)).map(|(_, peer)| peer.next).min()
    }

    /// How dialling went.
    pub fn dialled(&mut self, node: NodeId, connected: bool, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.dialling = false;
            peer.turn += 1;
            peer.failures = if connected { 0 } else { peer.failures + 1 };
            // Every address gets its turn before the pause grows.
            let rounds = peer.failures.div_ceil(peer.addrs.len() as u32);
            peer.next = now + if connected { FIRST_RETRY } else { pause(rounds) };
        }
    }

    /// A session with `node` is up, at `addrs` by its own word.
    pub fn met(&mut self, node: NodeId, addrs: &[PeerAddr], wall: Timestamp, now: Instant) {
        let addrs: Vec<SocketAddr> = addrs.iter().map(|PeerAddr::Tcp(addr)| *addr).collect();
        self.hear(node, &addrs, now + FIRST_RETRY);
        self.seen(node, wall);
    }

    /// `node` was alive at this time. What is known already stays if it is later.
    pub fn seen(&mut self, node: NodeId, wall: Timestamp) {
        let before = self.seen.entry(node).or_insert(wall);
        *before = wall.max(*before);
        if self.seen.len() > MAX_SEEN
            && let Some((&oldest, _)) = self.seen.iter().min_by_key(|(_, seen)| **seen)
        {
            self.seen.remove(&oldest);
        }
    }

    /// A session ended: worth a try soon.
    pub fn lost(&mut self, node: NodeId, wall: Timestamp, now: Instant) {
        self.seen(node, wall);
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.next = now + FIRST_RETRY;
        }
    }

    /// When `node` was last seen.
    pub fn last_seen(&self, node: &NodeId) -> Option<Timestamp> {
        self.seen.get(node).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_slow_down_and_news_speed_them_up() {
        let start = Instant::now();
        let node = NodeId([1; 32]);
        let mut known = Known::default();
        known.hear(node, &[([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 2).into()], start);
        let mut now = start;
        let mut tried = Vec::new();
        for _ in 0..12 {
            now = known.next(|_| true).unwrap().max(now);
            let due = known.due(now, |_| true);
            assert_eq!(due.len(), 1);
            assert!(known.due(now, |_| true).is_empty());
            tried.push(due[0].1);
            known.dialled(node, false, now);
        }
        assert_ne!(tried[0], tried[1]);
        assert!(now > start + Duration::from_secs(60) && known.next(|_| true).unwrap() <= now + LAST_RETRY);
        known.hear(node, &[([10, 0, 0, 3], 3).into()], now);
        assert_eq!(known.due(now, |_| true)[0].1, PeerAddr::Tcp(([10, 0, 0, 3], 3).into()));
        known.seen(node, Timestamp { secs: 1000, nanos: 0 });
        let again = Known::load(&known.store(), Timestamp { secs: 2000, nanos: 0 }, now).unwrap();
        assert_eq!(again.last_seen(&node), Some(Timestamp { secs: 1000, nanos: 0 }));
        let late = Known::load(&known.store(), Timestamp { secs: 2000 + FORGET, nanos: 0 }, now).unwrap();
        assert!(late.peers.is_empty() && late.seen.is_empty());
    }

    #[test]
    fn when_a_node_without_an_address_was_seen_is_remembered() {
        let (start, node) = (Instant::now(), NodeId([1; 32]));
        let at = |secs| Timestamp { secs, nanos: 0 };
        let mut known = Known::default();
        known.seen(node, at(1000));
        known.seen(node, at(900));
        assert_eq!(known.last_seen(&node), Some(at(1000)));
        let mut again = Known::load(&known.store(), at(2000), start).unwrap();
        assert_eq!(again.last_seen(&node), Some(at(1000)));
        assert!(again.due(start, |_| true).is_empty() && again.next(|_| true).is_none());
        for number in 0..MAX_SEEN as u64 {
            let mut other = [9; 32];
            other[..8].copy_from_slice(&number.to_le_bytes());
            again.seen(NodeId(other), at(1001));
        }
        assert_eq!((again.seen.len(), again.last_seen(&node)), (MAX_SEEN, None));
    }
}
