//! Peers that this node has heard of: where to try them, and when; and when each was last seen. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::base::clock::Timestamp;
use crate::base::ids::NodeId;
use crate::base::limits::MAX_NODE_NAME;
use crate::catalog::room::is_forgotten;
use crate::net::link::PeerAddr;

/// The first retry; the pause between retries for as long as the peer may come back any moment, as after a partition; and
/// in the end.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(4);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// So many rounds of retries are made before the pauses grow beyond [`RETRY`].
const PERSISTENCE: u32 = 40;
/// Peers that are remembered, and addresses of one: a hostile tracker can't fill memory.
const MAX_PEERS: usize = 100_000;
/// Nodes of which it is remembered when they were last seen: as many as peers and catalogs that are kept.
const MAX_SEEN: usize = 100_000;
const MAX_ADDRS: usize = 16;
/// So often whoever announces itself on the local network is tried.
const STRANGER: u32 = 3;
/// Of peers that are wanted soon: so many are dialled at once.
const SOON: usize = 24;
/// Who was there the last time at an address of the settings is there for so long without another look.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// Placeholders for addresses on the local network that are kept.
const MAX_NEARBY: usize = 64;
/// Of peers that are wanted slowly: so many are tried in each such time.
const SLOWLY: (usize, Duration) = (4, Duration::from_secs(1));

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Remembered {
    node: NodeId,
    addrs: Vec<SocketAddr>,
    seen: Option<Timestamp>,
    /// These two are not in what older versions wrote.
    #[serde(default)]
    lived: bool,
    #[serde(default)]
    name: String,
}

/// What is remembered of a node, also of one without an address: those whose catalogs others pass on count for the names in the
/// view.
#[derive(Debug, Default)]
struct Seen {
    /// When it was last seen.
    at: Timestamp,
    /// It was live once, rather than only told of.
    lived: bool,
    /// What it called itself the last time.
    name: String,
}

/// How much a peer is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// Not now.
    No,
    /// Now and then, to find out whether it is back: few of those at once, however many there are.
    Slowly,
    /// As soon as it is due, with few others at once: who is alone tries all that it remembers, and should not wait for those who
    /// do not answer before it hears of one who is there.
    Soon,
    /// As soon as it is due.
    Now,
}

/// How a peer became known; several may be true.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Found {
    /// A tracker named it.
    Tracker = 1,
    /// Gossip told of it.
    Gossip = 2,
    /// It announced itself on the local network.
    Lan = 4,
    /// The settings name its address.
    Settings = 8,
    /// It was known when this node last ran.
    Memory = 16,
    /// A peer told of it, or it came by itself.
    Peer = 32,
}

impl Found {
    /// All of them, with the words for people and metrics.
    const ALL: [(Self, &'static str); 6] = [
        (Self::Tracker, "tracker"),
        (Self::Gossip, "gossip"),
        (Self::Lan, "lan"),
        (Self::Settings, "settings"),
        (Self::Memory, "memory"),
        (Self::Peer, "peer"),
    ];
}

#[derive(Debug)]
struct Peer {
    /// [`Found`], combined.
    found: u8,
    /// Of a placeholder for an address: who was there the last time.
    stands_for: Option<NodeId>,
    /// When that was last looked at.
    looked: Option<Instant>,
    /// It called, and could not be called before.
    calls_only: bool,
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
    /// When peers that are wanted slowly may be tried again.
    slowly: Option<Instant>,
    seen: BTreeMap<NodeId, Seen>,
}

fn pause(failures: u32) -> Duration {
    let doubled = |times: u32| 1u32 << times.min(10);
    let persistent = FIRST_RETRY.saturating_mul(doubled(failures.saturating_sub(1))).min(RETRY);
    persistent.saturating_mul(doubled(failures.saturating_sub(PERSISTENCE))).min(LAST_RETRY)
}

/// A placeholder for an address of which nobody knows yet who is there.
fn nobody_at(addr: SocketAddr) -> NodeId {
    let mut nobody = [0; 32];
    let hash = blake3::hash(addr.to_string().as_bytes());
    nobody[24..].copy_from_slice(&hash.as_bytes()[..8]);
    NodeId(nobody)
}

/// True of a placeholder.
pub fn is_nobody(node: &NodeId) -> bool {
    node.0[..24] == [0; 24]
}

impl Known {
    /// From what [`Known::store`] gave; all are tried at once.
    pub fn load(bytes: &[u8], wall: Timestamp, now: Instant) -> Option<Self> {
        let remembered: Vec<Remembered> = rmp_serde::from_slice(bytes).ok()?;
        let mut known = Self::default();
        for peer in remembered {
            if let Some(seen) = peer.seen.filter(|seen| !is_forgotten(Some(*seen), wall)) {
                known.hear(peer.node, &peer.addrs, Found::Memory, now);
                known.seen(peer.node, seen);
                if peer.lived {
                    known.lives(peer.node, seen);
                }
                known.named(&peer.node, &peer.name);
            }
        }
        Some(known)
    }

    /// Forgets where everybody is, but not when they were seen: names in the view depend on that.
    pub fn forget_addresses(&mut self) {
        self.peers.clear();
    }

    /// To bytes, for the disk (to be sealed).
    pub fn store(&self) -> Vec<u8> {
        let remembered = |(node, seen): (&NodeId, &Seen)| {
            let addrs = self.peers.get(node).map(|peer| peer.addrs.clone()).unwrap_or_default();
            Remembered { node: *node, addrs, seen: Some(seen.at), lived: seen.lived, name: seen.name.clone() }
        };
        let all: Vec<Remembered> = self.seen.iter().map(remembered).collect();
        // Plain values always pack.
        rmp_serde::to_vec(&all).unwrap_or_default()
    }

    /// Somebody says that `node` is active at `addrs`: due at once.
    pub fn hear(&mut self, node: NodeId, addrs: &[SocketAddr], found: Found, now: Instant) {
        // Nobody may call itself what stands for nobody here.
        if !is_nobody(&node) {
            self.hear_as(node, addrs, found as u8, now);
        }
    }

    fn hear_as(&mut self, node: NodeId, addrs: &[SocketAddr], found: u8, now: Instant) {
        if addrs.is_empty() || (self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&node)) {
            return;
        }
        let peer = self.peers.entry(node).or_insert_with(|| Peer {
            found: 0,
            stands_for: None,
            looked: None,
            calls_only: false,
            addrs: Vec::new(),
            turn: 0,
            failures: 0,
            next: now,
            dialling: false,
        });
        peer.found |= found;
        // The newest first; old ones stay as a fallback.
        let mut all = addrs.to_vec();
        all.extend(peer.addrs.iter().filter(|old| !addrs.contains(old)).copied());
        all.truncate(MAX_ADDRS);
        peer.addrs = all;
        peer.turn = 0;
        peer.failures = 0;
        peer.next = peer.next.min(now);
    }

    /// `node` is worth another try at once. Where it is said to be found comes after where it is known to be.
    pub fn hear_again(&mut self, node: NodeId, claimed: &[SocketAddr], found: Found, now: Instant) {
        let mut addrs = self.peers.get(&node).map(|peer| peer.addrs.clone()).unwrap_or_default();
        let new: Vec<SocketAddr> = claimed.iter().filter(|addr| !addrs.contains(addr)).copied().collect();
        addrs.extend(new);
        addrs.truncate(MAX_ADDRS);
        self.hear(node, &addrs, found, now);
    }

    /// Whom to dial now, by how much each is `wanted`. They count as being dialled from here on.
    pub fn due(&mut self, now: Instant, wanted: impl Fn(&NodeId) -> Wanted) -> Vec<(NodeId, PeerAddr)> {
        let mut due = Vec::new();
        let mut slow = Vec::new();
        let mut soon = SOON.saturating_sub(self.peers.values().filter(|peer| peer.dialling).count());
        for (node, peer) in &mut self.peers {
            if peer.dialling || peer.next > now {
                continue;
            }
            match wanted(peer.stands_for.as_ref().unwrap_or(node)) {
                Wanted::No => {}
                Wanted::Slowly => slow.push((peer.next, *node)),
                Wanted::Soon if soon > 0 => {
                    soon -= 1;
                    due.push(*node);
                }
                Wanted::Soon => {}
                Wanted::Now => due.push(*node),
            }
        }
        if !slow.is_empty() && self.slowly.is_none_or(|again| again <= now) {
            // Who has waited longest comes first.
            slow.sort_unstable();
            due.extend(slow.into_iter().take(SLOWLY.0).map(|(_, node)| node));
            self.slowly = Some(now + SLOWLY.1);
        }
        let dial = |node: NodeId| {
            let peer = self.peers.get_mut(&node)?;
            peer.dialling = true;
            Some((node, PeerAddr::Tcp(*peer.addrs.get(peer.turn % peer.addrs.len().max(1))?)))
        };
        due.into_iter().filter_map(dial).collect()
    }

    /// When somebody is due next.
    pub fn next(&self, wanted: impl Fn(&NodeId) -> Wanted) -> Option<Instant> {
        let busy = self.peers.values().filter(|peer| peer.dialling).count() >= SOON;
        let at = |(node, peer): (&NodeId, &Peer)| match wanted(peer.stands_for.as_ref().unwrap_or(node)) {
            Wanted::No => None,
            Wanted::Slowly => Some(peer.next.max(self.slowly.unwrap_or(peer.next))),
            // The end of a dial is a reason to look again.
            Wanted::Soon if busy => None,
            Wanted::Soon | Wanted::Now => Some(peer.next),
        };
        self.peers.iter().filter(|(_, peer)| !peer.dialling).filter_map(at).min()
    }

    /// Somebody may be at this address, nobody knows who.
    pub fn hear_of_nobody(&mut self, addr: SocketAddr, found: Found, now: Instant) {
        let nearby = |(node, peer): (&NodeId, &Peer)| is_nobody(node) && peer.found == Found::Lan as u8;
        if found != Found::Lan || self.peers.iter().filter(|peer| nearby(*peer)).count() < MAX_NEARBY {
            self.hear_as(nobody_at(addr), &[addr], found as u8, now);
        }
    }

    /// `dialled` was dialled at this address, and `node` is there: the same one, unless that was a placeholder, which has a name
    /// now. What is known of how it was found holds for `node`.
    pub fn answered(&mut self, dialled: &NodeId, node: NodeId, addr: SocketAddr, now: Instant) {
        let Some(peer) = self.peers.get_mut(dialled) else { return };
        let found = peer.found;
        if is_nobody(dialled) {
            (peer.stands_for, peer.looked) = (Some(node), Some(now));
        }
        self.hear_as(node, &[addr], found, now);
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.calls_only = false;
        }
    }

    /// An address of the settings where somebody was found long ago, to see who is there now. It counts as looked at.
    pub fn to_look_at(&mut self, now: Instant) -> Option<(NodeId, SocketAddr)> {
        let old = |looked: Option<Instant>| looked.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_AGAIN);
        let named = |peer: &Peer| peer.found & Found::Settings as u8 != 0 && peer.stands_for.is_some();
        let due =
            |(node, peer): &(&NodeId, &mut Peer)| is_nobody(node) && named(peer) && !peer.dialling && old(peer.looked);
        let (node, peer) = self.peers.iter_mut().find(due)?;
        peer.looked = Some(now);
        Some((*node, *peer.addrs.first()?))
    }

    /// True if `node` could not be dialled the last time, and called.
    pub fn calls_only(&self, node: &NodeId) -> bool {
        self.peers.get(node).is_some_and(|peer| peer.calls_only)
    }

    /// At the address of this placeholder is this very node.
    pub fn is_myself(&mut self, nobody: &NodeId) {
        self.peers.remove(nobody);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.peers.len()
    }

    /// True if every address of `node` was tried in vain since it was last heard of.
    pub fn in_vain(&self, node: &NodeId) -> bool {
        self.peers.get(node).is_some_and(|peer| peer.failures as usize >= peer.addrs.len())
    }

    /// How `node` became known, in words for people and metrics.
    pub fn found(&self, node: &NodeId) -> impl Iterator<Item = &'static str> + use<> {
        let found = self.peers.get(node).map_or(0, |peer| peer.found);
        Found::ALL.into_iter().filter(move |(how, _)| found & *how as u8 != 0).map(|(_, word)| word)
    }

    /// Where `node` is tried first.
    pub fn addr(&self, node: &NodeId) -> Option<SocketAddr> {
        self.peers.get(node)?.addrs.first().copied()
    }

    /// Somebody at random among those that `pick` takes, with an address, where to try a datagram.
    pub fn some(&self, draw: u64, most: usize, pick: impl Fn(&NodeId) -> bool) -> Vec<(NodeId, SocketAddr)> {
        let start = (draw % self.peers.len().max(1) as u64) as usize;
        let rotated = self.peers.iter().skip(start).chain(self.peers.iter().take(start));
        let picked = rotated.filter(|(node, _)| pick(node)).take(most);
        picked.filter_map(|(node, peer)| Some((*node, *peer.addrs.first()?))).collect()
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
            // Somebody of another network, most likely. It announces itself again.
            if is_nobody(&node) && peer.found == Found::Lan as u8 && peer.failures >= STRANGER {
                self.peers.remove(&node);
            }
        }
    }

    /// A session with `node` is up, at `addrs` by its own word.
    pub fn met(&mut self, node: NodeId, addrs: &[PeerAddr], we_called: bool, wall: Timestamp, now: Instant) {
        let addrs: Vec<SocketAddr> = addrs.iter().map(|PeerAddr::Tcp(addr)| *addr).collect();
        // Who was called was found before.
        let found = if we_called && self.peers.contains_key(&node) { 0 } else { Found::Peer as u8 };
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.calls_only |= !we_called && peer.failures > 0;
        }
        self.hear_as(node, &addrs, found, now + FIRST_RETRY);
        self.lives(node, wall);
    }

    /// `node` was alive at this time. What is known already stays if it is later.
    pub fn seen(&mut self, node: NodeId, wall: Timestamp) {
        let before = self.seen.entry(node).or_insert_with(|| Seen { at: wall, ..Seen::default() });
        before.at = wall.max(before.at);
        if self.seen.len() > MAX_SEEN
            && let Some((&oldest, _)) = self.seen.iter().min_by_key(|(_, seen)| seen.at)
        {
            self.seen.remove(&oldest);
        }
    }

    /// `node` is live: more than that it was told of.
    pub fn lives(&mut self, node: NodeId, wall: Timestamp) {
        self.seen(node, wall);
        if let Some(seen) = self.seen.get_mut(&node) {
            seen.lived = true;
        }
    }

    /// True if `node` was live once.
    pub fn has_lived(&self, node: &NodeId) -> bool {
        self.seen.get(node).is_some_and(|seen| seen.lived)
    }

    /// What `node`, which was seen, calls itself; what is too long to be a name is none.
    pub fn named(&mut self, node: &NodeId, name: &str) {
        if let Some(seen) = self.seen.get_mut(node).filter(|_| name.len() <= MAX_NODE_NAME) {
            name.clone_into(&mut seen.name);
        }
    }

    /// What `node` called itself the last time; empty if it never did.
    pub fn name(&self, node: &NodeId) -> &str {
        self.seen.get(node).map_or("", |seen| &seen.name)
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
        self.seen.get(node).map(|seen| seen.at)
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
        known.hear(node, &[([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 2).into()], Found::Tracker, start);
        let mut now = start;
        let mut tried = Vec::new();
        for _ in 0..2 * (PERSISTENCE + 5) {
            now = known.next(|_| Wanted::Now).unwrap().max(now);
            let due = known.due(now, |_| Wanted::Now);
            assert_eq!(due.len(), 1);
            assert!(known.due(now, |_| Wanted::Now).is_empty());
            tried.push(due[0].1);
            known.dialled(node, false, now);
        }
        assert_ne!(tried[0], tried[1]);
        assert!(now > start + Duration::from_secs(60) && known.next(|_| Wanted::Now).unwrap() <= now + LAST_RETRY);
        known.hear(node, &[([10, 0, 0, 3], 3).into()], Found::Tracker, now);
        assert_eq!(known.due(now, |_| Wanted::Now)[0].1, PeerAddr::Tcp(([10, 0, 0, 3], 3).into()));
        known.seen(node, Timestamp { secs: 1000, nanos: 0 });
        let again = Known::load(&known.store(), Timestamp { secs: 2000, nanos: 0 }, now).unwrap();
        assert_eq!(again.last_seen(&node), Some(Timestamp { secs: 1000, nanos: 0 }));
        let late = Known::load(&known.store(), Timestamp { secs: 2000 + 30 * 24 * 3600, nanos: 0 }, now).unwrap();
        assert!(late.peers.is_empty() && late.seen.is_empty());
    }

    #[test]
    fn who_was_once_at_an_address_of_the_settings_hid_who_is_there_now() {
        let (start, addr) = (Instant::now(), ([10, 0, 0, 1], 1).into());
        let (old, new) = (NodeId([1; 32]), NodeId([2; 32]));
        let mut known = Known::default();
        known.hear_of_nobody(addr, Found::Settings, start);
        let nobody = known.due(start, |_| Wanted::Now)[0].0;
        known.answered(&nobody, old, addr, start);
        known.dialled(nobody, true, start);
        // It moved, and is live elsewhere: nobody would dial the address again.
        let live = |node: &NodeId| if *node == old { Wanted::No } else { Wanted::Now };
        let later = start + LOOK_AGAIN;
        assert!(known.due(later, live).is_empty());
        assert_eq!(known.to_look_at(later - Duration::from_secs(1)), None);
        assert_eq!(known.to_look_at(later), Some((nobody, addr)));
        assert_eq!(known.to_look_at(later), None, "not twice at once");
        known.answered(&nobody, new, addr, later);
        let due: Vec<NodeId> = known.due(later, live).iter().map(|(node, _)| *node).collect();
        assert!(due.contains(&new) && known.found(&new).any(|how| how == "settings"), "{due:?}");
    }

    #[test]
    fn who_had_to_be_asked_to_call_is_asked_at_once_the_next_time() {
        let (start, node) = (Instant::now(), NodeId([1; 32]));
        let (addr, claimed): (SocketAddr, SocketAddr) = (([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 1).into());
        let mut known = Known::default();
        known.hear(node, &[addr], Found::Gossip, start);
        known.due(start, |_| Wanted::Now);
        known.dialled(node, false, start);
        known.met(node, &[PeerAddr::Tcp(addr)], false, Timestamp::default(), start);
        assert!(known.calls_only(&node));
        known.answered(&node, node, addr, start);
        assert!(!known.calls_only(&node));
        // What somebody says of where it is comes after what is known.
        known.hear_again(node, &[claimed], Found::Peer, start);
        assert_eq!((known.addr(&node), known.peers[&node].addrs.len()), (Some(addr), 2));
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
        assert!(again.due(start, |_| Wanted::Now).is_empty() && again.next(|_| Wanted::Now).is_none());
        for number in 0..MAX_SEEN as u64 {
            let mut other = [9; 32];
            other[..8].copy_from_slice(&number.to_le_bytes());
            again.seen(NodeId(other), at(1001));
        }
        assert_eq!((again.seen.len(), again.last_seen(&node)), (MAX_SEEN, None));
    }

    #[test]
    fn who_was_live_and_what_it_called_itself_is_remembered_and_older_files_open() {
        let (start, wall) = (Instant::now(), Timestamp { secs: 1000, nanos: 0 });
        let (met, told) = (NodeId([1; 32]), NodeId([2; 32]));
        let mut known = Known::default();
        known.met(met, &[], false, wall, start);
        known.named(&met, "lab-3");
        known.named(&met, &"x".repeat(MAX_NODE_NAME + 1));
        known.seen(told, wall);
        known.named(&NodeId([3; 32]), "nobody met it");
        let again = Known::load(&known.store(), wall, start).unwrap();
        assert_eq!((again.has_lived(&met), again.name(&met)), (true, "lab-3"));
        assert_eq!((again.has_lived(&told), again.name(&told)), (false, ""));
        assert_eq!(again.seen.len(), 2);
        let older = rmp_serde::to_vec(&vec![(met, Vec::<SocketAddr>::new(), Some(wall))]).unwrap();
        let again = Known::load(&older, wall, start).unwrap();
        assert_eq!((again.last_seen(&met), again.has_lived(&met), again.name(&met)), (Some(wall), false, ""));
    }
}
