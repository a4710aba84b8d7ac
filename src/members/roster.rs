//! Who of a network is live, as far as this node can tell, and how every node stands. Pure, but for the sessions that it
//! holds.
//!
//! Evidence of a node's life: a session with it; what gossip says; that a tracker lists it. A session outweighs all;
//! gossip outweighs trackers, which notice a death later; and a node that can't be reached though somebody says that it is
//! alive is of no use, and does not count as live until there is other news of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::clock::Timestamp;
use crate::base::ids::NodeId;
use crate::catalog::merge::Standing;
use crate::net::link::PeerLink;

/// A node's claims on names lapse this long after it was last seen.
const LAPSE: i64 = 24 * 3600;
/// Without a session and without any word from anybody for this long, this node itself is cut off, whatever it was told of
/// others before.
const SILENCE: Duration = Duration::from_secs(15);
/// Trackers that are told apart; more than anybody names.
const MAX_TRACKERS: usize = 64;

/// What speaks for one node's life.
#[derive(Default)]
struct Evidence {
    link: Option<Arc<dyn PeerLink>>,
    /// What gossip says, if it knows the node.
    gossip: Option<bool>,
    /// Trackers that list it, by their numbers.
    trackers: u64,
    /// It could not be reached since.
    doubt: bool,
}

impl Evidence {
    fn live(&self) -> bool {
        self.link.is_some() || (!self.doubt && self.gossip.unwrap_or(self.trackers != 0))
    }

    fn says_nothing(&self) -> bool {
        self.link.is_none() && self.trackers == 0 && self.gossip != Some(true)
    }
}

/// See the module.
pub struct Roster {
    own: NodeId,
    linger: Duration,
    nodes: BTreeMap<NodeId, Evidence>,
    /// How many of them are live.
    live: usize,
    /// Who is not live any more, and since when.
    left: BTreeMap<NodeId, Instant>,
    /// Who was there when the last peer left: shown as offline until a peer is back.
    company: BTreeSet<NodeId>,
    sessions: usize,
    /// When somebody was last heard, other than in a session that is open.
    heard: Instant,
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

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The peer said goodbye: it leaves the network.
    Goodbye,
    /// Nobody needed it.
    Idle,
    /// Without a word.
    Broken,
}

impl Roster {
    /// Nobody is live. `remembered` were there when this node last ran.
    pub fn new(own: NodeId, linger: Duration, remembered: BTreeSet<NodeId>, now: Instant) -> Self {
        let (nodes, left) = (BTreeMap::new(), BTreeMap::new());
        Self { own, linger, nodes, live: 0, left, company: remembered, sessions: 0, heard: now }
    }

    /// Changes the evidence of one node; true if it lives or is dead because of that.
    fn change(&mut self, node: NodeId, now: Instant, change: impl FnOnce(&mut Evidence)) -> bool {
        if node == self.own {
            return false;
        }
        let evidence = self.nodes.entry(node).or_default();
        let before = evidence.live();
        change(evidence);
        let after = evidence.live();
        if evidence.says_nothing() {
            self.nodes.remove(&node);
        }
        match (before, after) {
            (false, true) => {
                if self.live == 0 {
                    // Those who have not come back yet linger rather than vanish.
                    for node in std::mem::take(&mut self.company) {
                        self.left.entry(node).or_insert(now);
                    }
                }
                self.left.remove(&node);
                self.live += 1;
            }
            (true, false) => {
                self.live -= 1;
                self.left.insert(node, now);
                if self.live == 0 {
                    let linger = self.linger;
                    let there = |left: &Instant| now.saturating_duration_since(*left) <= linger;
                    self.company = self.left.iter().filter(|(_, left)| there(left)).map(|(node, _)| *node).collect();
                }
            }
            _ => {}
        }
        before != after
    }

    /// A session is up. Both sides may have dialled at once: the session that the smaller NodeId opened stays, on both
    /// sides alike. Of two that the same side opened the newer stays: the older one's other end is gone. Also says whether
    /// the node was not live before.
    pub fn join(&mut self, link: &Arc<dyn PeerLink>, now: Instant) -> (Joined, bool) {
        let node = link.node();
        let old = self.nodes.get(&node).and_then(|evidence| evidence.link.clone());
        let mut joined = Joined::New;
        if let Some(open) = old.as_ref().filter(|old| !old.is_closed()) {
            let preferred = |link: &Arc<dyn PeerLink>| link.we_called() == (self.own < node);
            if preferred(open) && !preferred(link) {
                link.close();
                return (Joined::Closed, false);
            }
            open.close();
            joined = Joined::Replaced;
        }
        self.sessions += usize::from(old.is_none());
        let changed = self.change(node, now, |evidence| {
            evidence.link = Some(Arc::clone(link));
            evidence.doubt = false;
            // Whoever said that it is dead was wrong.
            evidence.gossip = evidence.gossip.filter(|alive| *alive);
        });
        (joined, changed)
    }

    /// A session is over. `None` if it had been replaced; else whether the node is not live any more.
    pub fn leave(&mut self, link: &Arc<dyn PeerLink>, ending: Ending, now: Instant) -> Option<bool> {
        let node = link.node();
        let current = self.nodes.get(&node).and_then(|evidence| evidence.link.as_ref());
        if !current.is_some_and(|current| Arc::ptr_eq(current, link)) {
            return None;
        }
        self.sessions -= 1;
        if ending != Ending::Broken {
            self.heard = now;
        }
        Some(self.change(node, now, |evidence| {
            evidence.link = None;
            if ending == Ending::Goodbye {
                (evidence.gossip, evidence.trackers) = (Some(false), 0);
            }
        }))
    }

    /// Gossip says that `node` is alive or dead. True if that changes how it stands.
    pub fn gossiped(&mut self, node: NodeId, alive: bool, now: Instant) -> bool {
        self.change(node, now, |evidence| {
            evidence.gossip = Some(alive);
            evidence.doubt &= !alive;
        })
    }

    /// There is news of `node`: it is worth another try.
    pub fn trust(&mut self, node: NodeId, now: Instant) -> bool {
        self.change(node, now, |evidence| evidence.doubt = false)
    }

    /// A tracker lists `node`, or does so no more. True if that changes how it stands.
    pub fn tracked(&mut self, node: NodeId, tracker: usize, listed: bool, now: Instant) -> bool {
        let bit = 1 << (tracker % MAX_TRACKERS);
        self.change(node, now, |evidence| {
            if !listed {
                evidence.trackers &= !bit;
            } else if evidence.trackers & bit == 0 {
                // It has begun to ping: newer than whatever else was said.
                evidence.trackers |= bit;
                evidence.doubt = false;
                evidence.gossip = evidence.gossip.filter(|alive| *alive);
            }
        })
    }

    /// Nobody could be reached at any of the node's addresses. True if that changes how it stands.
    pub fn unreachable(&mut self, node: NodeId, now: Instant) -> bool {
        self.change(node, now, |evidence| evidence.doubt = true)
    }

    /// Somebody said something outside of a session. True if this node was cut off until then.
    pub fn heard(&mut self, now: Instant) -> bool {
        let cut_off = self.cut_off(now);
        self.heard = now;
        cut_off
    }

    /// True if this node has heard of nobody for so long that it can't know who is live.
    pub fn cut_off(&self, now: Instant) -> bool {
        self.sessions == 0 && now.saturating_duration_since(self.heard) >= SILENCE
    }

    /// The live session with `node`.
    pub fn link(&self, node: &NodeId) -> Option<&Arc<dyn PeerLink>> {
        self.nodes.get(node)?.link.as_ref().filter(|link| !link.is_closed())
    }

    /// True if there is a live session with `node`.
    pub fn has(&self, node: &NodeId) -> bool {
        self.link(node).is_some()
    }

    /// All live sessions.
    pub fn links(&self) -> impl Iterator<Item = &Arc<dyn PeerLink>> {
        self.nodes.values().filter_map(|evidence| evidence.link.as_ref()).filter(|link| !link.is_closed())
    }

    /// True if `node` is live.
    pub fn is_live(&self, node: &NodeId) -> bool {
        self.nodes.get(node).is_some_and(Evidence::live)
    }

    /// True if `node` would count as live without its session.
    pub fn lives_without_session(&self, node: &NodeId) -> bool {
        self.nodes.get(node).is_some_and(|evidence| Evidence { link: None, ..*evidence }.live())
    }

    /// All live nodes, this one not counted.
    pub fn live(&self) -> impl Iterator<Item = &NodeId> {
        self.nodes.iter().filter(|(_, evidence)| evidence.live()).map(|(node, _)| node)
    }

    /// How many there are.
    pub fn live_count(&self) -> usize {
        self.live
    }

    /// How `node` stands.
    pub fn standing(&self, node: &NodeId, seen: Option<Timestamp>, wall: Timestamp, now: Instant) -> Standing {
        if *node == self.own {
            return Standing::Live;
        }
        if self.is_live(node) {
            return if self.cut_off(now) { Standing::Offline } else { Standing::Live };
        }
        if self.live == 0 && self.company.contains(node) {
            return Standing::Offline;
        }
        if self.left.get(node).is_some_and(|left| now.saturating_duration_since(*left) <= self.linger) {
            return Standing::Lingering;
        }
        let lapsed = seen.is_none_or(|seen| seen.secs + LAPSE < wall.secs);
        if lapsed { Standing::Lapsed } else { Standing::Away }
    }

    /// When somebody next stands otherwise, if nothing happens until then.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        let lingering = self.left.values().map(|left| *left + self.linger).filter(|until| *until >= now).min();
        let cut_off = Some(self.heard + SILENCE).filter(|at| self.sessions == 0 && self.live > 0 && *at >= now);
        lingering.into_iter().chain(cut_off).min()
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
        let mut roster = Roster::new(NodeId([9; 32]), linger, BTreeSet::from([a, c]), start);
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
        assert_eq!(roster.leave(&link_a, Ending::Broken, start + Duration::from_secs(100)), Some(true));
        assert_eq!(stands(&roster, &a, 160), Standing::Lingering);
        assert_eq!(stands(&roster, &a, 161), Standing::Away);
        assert_eq!(roster.leave(&link_b, Ending::Broken, start + Duration::from_secs(130)), Some(true));
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
        let mut roster = Roster::new(NodeId([9; 32]), Duration::ZERO, BTreeSet::new(), now);
        let (first, second) = (link(1), link(1));
        assert_eq!(roster.join(&first, now), (Joined::New, true));
        assert_eq!(roster.join(&second, now), (Joined::Replaced, false));
        assert!(first.is_closed() && !second.is_closed());
        assert_eq!(roster.leave(&first, Ending::Broken, now), None);
        assert_eq!(roster.links().count(), 1);
    }

    #[test]
    fn what_speaks_for_a_nodes_life_is_weighed() {
        let now = Instant::now();
        let peer = link(1);
        let node = peer.node();
        let mut roster = Roster::new(NodeId([9; 32]), Duration::ZERO, BTreeSet::new(), now);
        assert!(roster.tracked(node, 0, true, now) && roster.is_live(&node));
        // Gossip notices a death sooner than a tracker does.
        assert!(roster.gossiped(node, false, now) && !roster.tracked(node, 0, true, now));
        assert!(!roster.is_live(&node));
        // A session is proof.
        assert_eq!(roster.join(&peer, now), (Joined::New, true));
        assert_eq!(roster.leave(&peer, Ending::Idle, now), Some(false), "the tracker still lists it");
        assert!(roster.lives_without_session(&node));
        // It can't be reached, until it is heard of again.
        assert!(roster.unreachable(node, now) && !roster.is_live(&node));
        assert!(roster.gossiped(node, true, now) && !roster.tracked(node, 0, false, now));
        assert!(roster.unreachable(node, now) && roster.trust(node, now));
        // It says goodbye.
        roster.join(&peer, now);
        assert_eq!(roster.leave(&peer, Ending::Goodbye, now), Some(true));
        assert!(roster.tracked(node, 1, true, now), "it is back");
        assert!(roster.tracked(node, 1, false, now) && roster.live_count() == 0 && roster.nodes.is_empty());
        assert!(!roster.gossiped(NodeId([9; 32]), true, now), "nobody is a peer of its own");
    }

    #[test]
    fn a_node_that_is_cut_off_keeps_its_view() {
        let start = Instant::now();
        let (wall, at) = (Timestamp { secs: 1_000_000, nanos: 0 }, |secs| start + Duration::from_secs(secs));
        let nodes: Vec<NodeId> = (1..200).map(|tag| NodeId([tag; 32])).collect();
        let mut roster = Roster::new(NodeId([255; 32]), Duration::from_secs(60), BTreeSet::new(), start);
        nodes.iter().for_each(|node| assert!(roster.gossiped(*node, true, start)));
        let stands = |roster: &Roster, secs| roster.standing(&nodes[5], Some(wall), wall, at(secs));
        assert_eq!(stands(&roster, 14), Standing::Live);
        assert_eq!((stands(&roster, 15), roster.next_change(at(1))), (Standing::Offline, Some(at(15))));
        assert!(roster.heard(at(20)) && !roster.heard(at(21)));
        assert_eq!(stands(&roster, 30), Standing::Live);
    }
}
