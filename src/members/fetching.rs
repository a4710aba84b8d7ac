//! Which catalogs are being fetched, of whom, and who can be asked next. Each is fetched of one peer at a time; a peer that
//! tells of it meanwhile is remembered, so that a silent one keeps nothing from anybody.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::ids::NodeId;
use crate::net::link::PeerLink;
use crate::wire::message::CatalogVersion;

/// Peers that are remembered for one catalog; the owner itself beyond that.
const MAX_NEXT: usize = 16;
/// Catalogs that are fetched of one peer at once: each is a task. What it has beyond that is heard of the next time that
/// versions are exchanged.
const MAX_OF_ONE: usize = 4096;

/// For so long a catalog is left alone for which there is no room; of so many it is remembered.
const NO_ROOM: Duration = Duration::from_secs(10 * 60);
const MAX_NO_ROOM: usize = 4096;

struct Fetch {
    from: NodeId,
    next: VecDeque<(Arc<dyn PeerLink>, CatalogVersion)>,
}

/// See the module.
#[derive(Default)]
pub struct Fetching {
    /// By whose catalog it is.
    of: HashMap<NodeId, Fetch>,
    /// Catalogs for which there was no room, and until when they are left alone.
    no_room: HashMap<NodeId, Instant>,
    /// By peer: how many catalogs are being fetched of it.
    busy: HashMap<NodeId, usize>,
}

impl Fetching {
    /// `link` says that it has `told`. True: fetch it of that peer now, and ask [`Fetching::next`] after that.
    pub fn begin(&mut self, link: &Arc<dyn PeerLink>, told: CatalogVersion, now: Instant) -> bool {
        let peer = link.node();
        if self.no_room.get(&told.node).is_some_and(|until| *until > now) {
            return false;
        }
        if let Some(fetch) = self.of.get_mut(&told.node) {
            // One place for each peer: its newest word, where it stood.
            if let Some(known) = fetch.next.iter_mut().find(|(known, _)| known.node() == peer) {
                *known = (Arc::clone(link), told);
            } else if peer == told.node {
                // Nobody knows it better.
                fetch.next.push_front((Arc::clone(link), told));
            } else if fetch.next.len() < MAX_NEXT {
                fetch.next.push_back((Arc::clone(link), told));
            }
            return false;
        }
        let busy = self.busy.entry(peer).or_default();
        if *busy >= MAX_OF_ONE {
            return false;
        }
        *busy += 1;
        self.of.insert(told.node, Fetch { from: peer, next: VecDeque::new() });
        true
    }

    /// There is no room for `node`'s catalog beside the others: nobody is asked for it for a while.
    pub fn has_no_room(&mut self, node: NodeId, now: Instant) {
        self.no_room.retain(|_, until| *until > now);
        if self.no_room.len() < MAX_NO_ROOM {
            self.no_room.insert(node, now + NO_ROOM);
        }
    }

    /// `node` is there itself: its catalog may be worth more than it was.
    pub fn may_have_room(&mut self, node: &NodeId) {
        self.no_room.remove(node);
    }

    /// A fetch of `node`'s catalog is over, whatever came of it. Returns whom to ask next: a peer that is still there and
    /// told of what is `lacking`.
    pub fn next(&mut self, node: NodeId, lacking: impl Fn(&CatalogVersion) -> bool) -> Option<Arc<dyn PeerLink>> {
        let fetch = self.of.get_mut(&node)?;
        if let Some(busy) = self.busy.get_mut(&fetch.from) {
            *busy -= 1;
            if *busy == 0 {
                self.busy.remove(&fetch.from);
            }
        }
        while let Some((link, told)) = fetch.next.pop_front() {
            if !link.is_closed() && lacking(&told) {
                fetch.from = link.node();
                *self.busy.entry(fetch.from).or_default() += 1;
                return Some(link);
            }
        }
        self.of.remove(&node);
        None
    }

    /// True if somebody else could be asked for `node`'s catalog.
    pub fn has_next(&self, node: NodeId) -> bool {
        self.of.get(&node).is_some_and(|fetch| fetch.next.iter().any(|(link, _)| link.node() != fetch.from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Instant {
        Instant::now()
    }
    use crate::net::fake::{Behaviour, FakePeer};

    fn link(tag: u8) -> Arc<dyn PeerLink> {
        FakePeer::new(tag, &bytes::Bytes::new(), Behaviour::Honest)
    }

    fn told(node: NodeId, version: u64) -> CatalogVersion {
        CatalogVersion { node, epoch: 1, version }
    }

    #[test]
    fn who_tells_of_it_meanwhile_is_asked_next() {
        let mut fetching = Fetching::default();
        let (owner, a, b) = (link(1), link(2), link(3));
        let of = owner.node();
        assert!(fetching.begin(&a, told(of, 1), now()) && !fetching.has_next(of));
        // The one that is being asked has news: it is asked again, and is no way around itself.
        assert!(!fetching.begin(&a, told(of, 2), now()) && !fetching.has_next(of));
        assert!(!fetching.begin(&b, told(of, 3), now()) && fetching.has_next(of));
        assert!(!fetching.begin(&owner, told(of, 3), now()));
        let next =
            |fetching: &mut Fetching, have| fetching.next(of, |told| told.version > have).map(|link| link.node());
        assert_eq!(next(&mut fetching, 0), Some(of));
        // What the other two know has come from the owner.
        assert_eq!(next(&mut fetching, 3), None);
        assert!(fetching.begin(&a, told(of, 4), now()), "it begins anew");
        assert!(!fetching.begin(&b, told(of, 4), now()) && !fetching.begin(&owner, told(of, 5), now()));
        owner.close();
        assert_eq!(next(&mut fetching, 3), Some(b.node()));
        assert_eq!(next(&mut fetching, 3), None);
        assert!(fetching.of.is_empty() && fetching.busy.is_empty());
    }

    #[test]
    fn a_catalog_without_room_is_left_alone_until_its_owner_comes() {
        let mut fetching = Fetching::default();
        let (owner, start) = (link(1), now());
        let of = owner.node();
        fetching.has_no_room(of, start);
        assert!(!fetching.begin(&link(2), told(of, 1), start));
        assert!(!fetching.begin(&link(2), told(of, 1), start + NO_ROOM / 2));
        fetching.may_have_room(&of);
        assert!(fetching.begin(&owner, told(of, 1), start + NO_ROOM / 2));
    }

    #[test]
    fn a_peer_that_tells_of_a_million_catalogs_is_not_asked_for_all_at_once() {
        let mut fetching = Fetching::default();
        let (liar, other) = (link(1), link(2));
        let node = |number: usize| {
            let mut id = [7; 32];
            id[..8].copy_from_slice(&number.to_le_bytes());
            NodeId(id)
        };
        let begun = (0..20_000).filter(|number| fetching.begin(&liar, told(node(*number), 1), now())).count();
        assert_eq!(begun, MAX_OF_ONE);
        assert!(fetching.begin(&other, told(node(20_000), 1), now()), "others are heard all the same");
        assert!(fetching.next(node(0), |_| true).is_none());
        assert!(fetching.begin(&liar, told(node(30_000), 1), now()), "there is room again");
        // So are those that tell of one catalog, but for its owner.
        (10..200).for_each(|tag| assert!(!fetching.begin(&link(tag), told(node(1), 1), now())));
        assert_eq!(fetching.of[&node(1)].next.len(), MAX_NEXT);
    }
}
