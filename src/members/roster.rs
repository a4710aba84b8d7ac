//! Who of a network is live, as far as this node can tell, and how every node stands. Pure, but for the sessions that it
//! holds.
//!
//! Evidence of a node's life: a session with it; what gossip says; that a tracker lists it. A session outweighs all;
//! gossip outweighs trackers, which notice a death later; what a session has just proved outweighs what gossip said
//! before. A node that can't be reached though somebody says that it is alive is of no use, and does not count as live
//! until there is other news of it, or until some time has passed: each time that it is found so, twice as much.

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
/// For how long a node that could not be reached does not count as live, the first time and at most: the link there may
/// have been down for a moment, and a node that nobody ever reaches should not come and go in the view all day.
const DOUBTED: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3600));
/// A sign of life that came after gossip had called a node dead holds for so long. By then gossip has heard of the node
/// itself, which begins a new life when it is told that it is dead; or it is dead, and nobody else will say so again.
const PROOF: Duration = Duration::from_secs(120);

/// What speaks for one node's life.
#[derive(Default)]
struct Evidence {
    link: Option<Arc<dyn PeerLink>>,
    /// What gossip says, if it knows the node.
    gossip: Option<bool>,
    /// Trackers that list it, by their numbers.
    trackers: u64,
    /// A session gave a sign of life that is newer than what gossip says; it holds until then.
    proof: Option<Instant>,
    /// It could not be reached; it is doubted until then.
    doubt: Option<Instant>,
    /// How often it was doubted since there was news of it.
    doubts: u32,
}

impl Evidence {
    fn live(&self) -> bool {
        self.link.is_some() || (self.doubt.is_none() && self.is_said_to_live())
    }

    fn is_said_to_live(&self) -> bool {
        self.proof.is_some() || self.gossip.unwrap_or(self.trackers != 0)
    }

    fn says_nothing(&self) -> bool {
        self.link.is_none() && self.trackers == 0 && self.gossip != Some(true) && self.proof.is_none()
    }

    fn trust(&mut self) {
        (self.doubt, self.doubts) = (None, 0);
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
            evidence.trust();
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
            evidence.proof = match ending {
                // Its last word was that it is still there: newer than any word of its death, which gossip won't repeat.
                Ending::Idle if evidence.gossip != Some(true) => Some(now + PROOF),
                _ => None,
            };
            if ending == Ending::Goodbye {
                (evidence.gossip, evidence.trackers) = (Some(false), 0);
            }
        }))
    }

    /// A session with `node` gave a sign of life though gossip says that it is dead. True if that changes how it stands.
    pub fn disproved(&mut self, node: NodeId, now: Instant) -> bool {
        self.change(node, now, |evidence| {
            if evidence.link.is_some() && evidence.gossip == Some(false) {
                evidence.proof = Some(now + PROOF);
            }
        })
    }

    /// Sessions with those whom gossip calls dead, which have not given a sign of life for a while.
    pub fn doubtful(&self) -> impl Iterator<Item = &Arc<dyn PeerLink>> {
        let doubtful = |evidence: &&Evidence| evidence.gossip == Some(false) && evidence.proof.is_none();
        self.nodes.values().filter(doubtful).filter_map(|evidence| evidence.link.as_ref())
    }

    /// Lets go of doubts and of proofs whose time is over; true if somebody lives or is dead because of that. To be called
    /// now and then, as nothing else changes with time alone. `each` is told of whom it concerns.
    pub fn pass_time(&mut self, now: Instant, mut each: impl FnMut(NodeId)) -> bool {
        let over = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        let due = self.nodes.iter().filter(|(_, evidence)| over(evidence.doubt) || over(evidence.proof));
        let due: Vec<NodeId> = due.map(|(node, _)| *node).collect();
        let mut changed = false;
        for node in due {
            changed |= self.change(node, now, |evidence| {
                evidence.doubt = evidence.doubt.filter(|until| *until > now);
                evidence.proof = evidence.proof.filter(|until| *until > now);
            });
            each(node);
        }
        changed
    }

    /// Gossip says that `node` is alive or dead. True if that changes how it stands.
    pub fn gossiped(&mut self, node: NodeId, alive: bool, now: Instant) -> bool {
        self.change(node, now, |evidence| {
            evidence.gossip = Some(alive);
            // Newer than what a session proved.
            evidence.proof = None;
            if alive {
                evidence.trust();
            }
        })
    }

    /// There is news of `node`: it is worth another try.
    pub fn trust(&mut self, node: NodeId, now: Instant) -> bool {
        self.change(node, now, Evidence::trust)
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
                evidence.trust();
                evidence.gossip = evidence.gossip.filter(|alive| *alive);
            }
        })
    }

    /// Nobody could be reached at any of the node's addresses. True if that changes how it stands.
    pub fn unreachable(&mut self, node: NodeId, now: Instant) -> bool {
        self.change(node, now, |evidence| {
            // Who is doubted already is tried now and then: that says nothing new.
            if evidence.doubt.is_none() && evidence.link.is_none() {
                let (first, most) = DOUBTED;
                let time = first.saturating_mul(1 << evidence.doubts.min(16)).min(most);
                (evidence.doubt, evidence.doubts) = (Some(now + time), evidence.doubts.saturating_add(1));
            }
        })
    }

    /// True if somebody says that `node` is alive though it could not be reached.
    pub fn is_doubted(&self, node: &NodeId) -> bool {
        self.nodes.get(node).is_some_and(|evidence| evidence.doubt.is_some() && evidence.is_said_to_live())
    }

    /// True if `node` is said to be alive and there is no session with it.
    pub fn is_missed(&self, node: &NodeId) -> bool {
        !self.has(node) && (self.is_live(node) || self.is_doubted(node))
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
    fn a_short_outage_of_one_link_hid_a_node_for_ever() {
        let start = Instant::now();
        let node = NodeId([1; 32]);
        let mut roster = Roster::new(NodeId([9; 32]), Duration::ZERO, BTreeSet::new(), start);
        roster.gossiped(node, true, start);
        let mut now = start;
        // Each time for twice as long, and never for ever.
        for time in [30, 60, 120, 240, 480, 960, 1920, 3600, 3600] {
            assert!(roster.unreachable(node, now) && roster.is_doubted(&node));
            assert!(!roster.unreachable(node, now + Duration::from_secs(time / 2)), "it was doubted already");
            let over = now + Duration::from_secs(time);
            assert!(!roster.pass_time(over - Duration::from_millis(1), |_| panic!("nothing is over yet")));
            let mut told = Vec::new();
            assert!(roster.pass_time(over, |node| told.push(node)) && roster.is_live(&node));
            assert_eq!(told, [node]);
            now = over;
        }
        // It was reached, and so the next time is the first again.
        let peer = link(1);
        roster.change(peer.node(), now, |evidence| evidence.gossip = Some(true));
        roster.unreachable(peer.node(), now);
        roster.join(&peer, now);
        assert_eq!(roster.nodes[&peer.node()].doubts, 0);
    }

    #[test]
    fn a_peer_that_gossip_wrongly_called_dead_was_dead_again_when_its_session_ended_idle() {
        let (start, peer) = (Instant::now(), link(1));
        let node = peer.node();
        let at = |secs| start + Duration::from_secs(secs);
        let mut roster = Roster::new(NodeId([9; 32]), Duration::ZERO, BTreeSet::new(), start);
        roster.gossiped(node, true, start);
        roster.join(&peer, start);
        roster.gossiped(node, false, at(1));
        assert_eq!(roster.doubtful().count(), 1);
        assert!(!roster.lives_without_session(&node), "nobody should close the session as one that is not needed");
        assert!(!roster.disproved(node, at(2)) && roster.doubtful().count() == 0);
        assert!(roster.lives_without_session(&node));
        assert_eq!(roster.leave(&peer, Ending::Idle, at(3)), Some(false), "it said that it is still there");
        // Gossip has news, and they count from then on.
        assert!(roster.gossiped(node, false, at(4)) && !roster.is_live(&node));

        // Without any news of gossip the proof holds for a while, and not for ever: nobody would say again that it died.
        roster.gossiped(node, false, at(5));
        roster.join(&peer, at(5));
        roster.gossiped(node, false, at(6));
        assert_eq!(roster.leave(&peer, Ending::Idle, at(6)), Some(false));
        assert!(!roster.pass_time(at(6) + PROOF - Duration::from_secs(1), |_| ()) && roster.is_live(&node));
        assert!(roster.pass_time(at(6) + PROOF, |_| ()) && !roster.is_live(&node));

        // Who goes without a word proves nothing.
        roster.join(&peer, at(200));
        roster.gossiped(node, false, at(201));
        roster.disproved(node, at(202));
        assert_eq!(roster.leave(&peer, Ending::Broken, at(203)), Some(true));
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
