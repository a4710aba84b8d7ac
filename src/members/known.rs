//! Peers that this node has heard of: where to try them, and when. Pure.

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
    seen: Option<Timestamp>,
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
            if peer.seen.is_some_and(|seen| seen.secs + FORGET > wall.secs) {
                known.hear(peer.node, &peer.addrs, now);
                if let Some(entry) = known.peers.get_mut(&peer.node) {
                    entry.seen = peer.seen;
                }
            }
        }
        Some(known)
    }

    /// To bytes, for the disk (to be sealed).
    pub fn store(&self) -> Vec<u8> {
        let all: Vec<Remembered> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.seen.is_some())
            .map(|(node, peer)| Remembered { node: *node, addrs: peer.addrs.clone(), seen: peer.seen })
            .collect();
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
            seen: None,
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

    /// `node` is, or was a moment ago, alive.
    pub fn seen(&mut self, node: NodeId, wall: Timestamp) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.seen = Some(wall);
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
        self.peers.get(node)?.seen
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
        assert!(late.peers.is_empty());
    }
}
