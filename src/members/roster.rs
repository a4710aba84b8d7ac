//! Live sessions of one network, and how every node stands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::clock::Timestamp;
use crate::base::ids::NodeId;
use crate::catalog::merge::Standing;
use crate::net::link::PeerLink;

/// A node's claims on names lapse this long after it was last seen.
const LAPSE: i64 = 24 * 3600;

/// See the module.
pub struct Roster {
    own: NodeId,
    linger: Duration,
    links: BTreeMap<NodeId, Arc<dyn PeerLink>>,
    left: BTreeMap<NodeId, Instant>,
    /// Who was there when the last peer left: shown as offline until a peer is back.
    company: BTreeSet<NodeId>,
}

/// What became of a new session.
#[derive(Debug, PartialEq, Eq)]
pub enum Joined {
    /// The node was not connected before.
    New,
    /// It takes the place of another session with the same node.
    Replaced,
    /// There is a better one: this one was closed.
    Closed,
}

impl Roster {
    /// Nobody is connected. `remembered` were there when this node last ran.
    pub fn new(own: NodeId, linger: Duration, remembered: BTreeSet<NodeId>) -> Self {
        Self { own, linger, links: BTreeMap::new(), left: BTreeMap::new(), company: remembered }
    }

    /// A session is up. Both sides may have dialled at once: the session that the smaller NodeId opened stays, on both
    /// sides alike. Of two that the same side opened the newer stays: the older one's other end is gone.
    pub fn join(&mut self, link: &Arc<dyn PeerLink>, now: Instant) -> Joined {
        let node = link.node();
        let mut joined = Joined::New;
        if let Some(old) = self.links.get(&node).filter(|old| !old.is_closed()) {
            let preferred = |link: &Arc<dyn PeerLink>| link.we_called() == (self.own < node);
            if preferred(old) && !preferred(link) {
                link.close();
                return Joined::Closed;
            }
            old.close();
            joined = Joined::Replaced;
        }
        if self.links.is_empty() {
            // Those who have not come back yet linger rather than vanish.
            for node in std::mem::take(&mut self.company) {
                self.left.entry(node).or_insert(now);
            }
        }
        self.left.remove(&node);
        self.links.insert(node, Arc::clone(link));
        joined
    }

    /// A session is over. False if it had been replaced.
    pub fn leave(&mut self, link: &Arc<dyn PeerLink>, now: Instant) -> bool {
        let node = link.node();
        if !self.links.get(&node).is_some_and(|current| Arc::ptr_eq(current, link)) {
            return false;
        }
        self.links.remove(&node);
        self.left.insert(node, now);
        if self.links.is_empty() {
            let linger = self.linger;
            let there = |left: &Instant| now.saturating_duration_since(*left) <= linger;
            self.company = self.left.iter().filter(|(_, left)| there(left)).map(|(node, _)| *node).collect();
        }
        true
    }

    /// The live session with `node`.
    pub fn link(&self, node: &NodeId) -> Option<&Arc<dyn PeerLink>> {
        self.links.get(node).filter(|link| !link.is_closed())
    }

    /// True if there is a live session with `node`.
    pub fn has(&self, node: &NodeId) -> bool {
        self.link(node).is_some()
    }

    /// All live sessions.
    pub fn links(&self) -> impl Iterator<Item = &Arc<dyn PeerLink>> {
        self.links.values().filter(|link| !link.is_closed())
    }

    /// How `node` stands.
    pub fn standing(&self, node: &NodeId, seen: Option<Timestamp>, wall: Timestamp, now: Instant) -> Standing {
        if *node == self.own || self.has(node) {
            return Standing::Live;
        }
        if self.links.is_empty() && self.company.contains(node) {
            return Standing::Offline;
        }
        if self.left.get(node).is_some_and(|left| now.saturating_duration_since(*left) <= self.linger) {
            return Standing::Lingering;
        }
        let lapsed = seen.is_none_or(|seen| seen.secs + LAPSE < wall.secs);
        if lapsed { Standing::Lapsed } else { Standing::Away }
    }

    /// When somebody next stops lingering.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        self.left.values().map(|left| *left + self.linger).filter(|until| *until >= now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::fake::{Behaviour, FakePeer};

    fn link(tag: u8) -> Arc<dyn PeerLink> {
        FakePeer::new(tag, &bytes::Bytes::new(), Behaviour::Honest)
    }

    #[test]
    fn nodes_linger_and_the_last_view_stays_when_all_are_gone() {
        let (start, linger) = (Instant::now(), Duration::from_secs(60));
        let wall = Timestamp { secs: 1_000_000, nanos: 0 };
        let (a, b, c) = (NodeId([1; 32]), NodeId([2; 32]), NodeId([3; 32]));
        let mut roster = Roster::new(NodeId([9; 32]), linger, BTreeSet::from([a, c]));
        let stands = |roster: &Roster, node: &NodeId, after: u64| {
            roster.standing(node, Some(wall), wall, start + Duration::from_secs(after))
        };
        assert_eq!(stands(&roster, &a, 0), Standing::Offline);
        assert_eq!(stands(&roster, &b, 0), Standing::Away);
        let (link_a, link_b) = (link(1), link(2));
        roster.join(&link_a, start);
        roster.join(&link_b, start);
        assert_eq!(stands(&roster, &a, 0), Standing::Live);
        assert_eq!(stands(&roster, &c, 0), Standing::Lingering);
        assert_eq!(stands(&roster, &c, 61), Standing::Away);
        assert!(roster.leave(&link_a, start + Duration::from_secs(100)));
        assert_eq!(stands(&roster, &a, 160), Standing::Lingering);
        assert_eq!(stands(&roster, &a, 161), Standing::Away);
        assert!(roster.leave(&link_b, start + Duration::from_secs(130)));
        // Both were there, more or less: both stay, for as long as nobody is back.
        assert_eq!(stands(&roster, &a, 10_000), Standing::Offline);
        assert_eq!(stands(&roster, &b, 10_000), Standing::Offline);
        let late = Timestamp { secs: wall.secs + LAPSE + 1, nanos: 0 };
        assert_eq!(roster.standing(&c, Some(wall), late, start + Duration::from_secs(10_000)), Standing::Lapsed);
    }

    #[test]
    fn of_two_sessions_both_sides_keep_the_same() {
        let now = Instant::now();
        // Fakes say that this side called; here the smaller id is the peer's, so a session that the peer opened is better.
        let mut roster = Roster::new(NodeId([9; 32]), Duration::ZERO, BTreeSet::new());
        let (first, second) = (link(1), link(1));
        assert_eq!(roster.join(&first, now), Joined::New);
        assert_eq!(roster.join(&second, now), Joined::Replaced);
        assert!(first.is_closed() && !second.is_closed());
        assert!(!roster.leave(&first, now));
    }
}
