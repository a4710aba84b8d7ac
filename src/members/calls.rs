//! Having others called, for those whom nobody can dial: who was asked for whom, what is passed on, and whose calls are taken.
//! Pure.
//!
//! A node behind a router or a firewall can call, and not be called. Who can't dial it asks nodes that have a session with it to
//! tell it, and it calls back. A session that came up so belongs to whoever asked for it: that side closes it once nobody
//! needs it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::base::ids::NodeId;

/// Nodes that others are asked for at one time.
const MAX_ASKING: usize = 64;
/// A node that did not call although it was asked is asked again after this time.
const PAUSE: Duration = Duration::from_secs(20);
/// A session that comes up within this time after others were asked for it belongs to who asked: longer than the other side
/// tries to call.
const ASKED: Duration = Duration::from_secs(120);
/// What others want is counted in spans of this time.
const SPAN: Duration = Duration::from_secs(10);
/// In each span, so much is passed on for one peer, and for all: a peer needs no more neighbours in so short a time.
const PASSED: (u32, u32) = (16, 256);
/// In each span, so many calls are made for one who asks, for one who passes that on, and for all: a member can't make others
/// dial around by asking under many names.
const TAKEN: (u32, u32, u32) = (1, 16, 32);

/// How often each node did something in the present span.
#[derive(Debug, Default)]
struct Count {
    began: Option<Instant>,
    all: u32,
    of: HashMap<NodeId, u32>,
}

impl Count {
    fn turn(&mut self, now: Instant) {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= SPAN) {
            *self = Self { began: Some(now), ..Self::default() };
        }
    }

    fn has_room(&self, node: &NodeId, each: u32, all: u32) -> bool {
        self.all < all && self.of.get(node).is_none_or(|count| *count < each)
    }

    /// Not more often than there is room, so the map is bounded by that.
    fn add(&mut self, node: NodeId) {
        self.all += 1;
        *self.of.entry(node).or_default() += 1;
    }
}

#[derive(Debug)]
struct Asked {
    at: Instant,
    under_way: bool,
    /// It did not call.
    failed: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Calls {
    /// Of whom others were asked, not long ago.
    asked: HashMap<NodeId, Asked>,
    /// Who asked to be called, not long ago.
    called: HashMap<NodeId, Instant>,
    /// Sessions that the peer opened because this node asked for it.
    ours: HashSet<NodeId>,
    /// Sessions that this node opened because the peer asked for it.
    theirs: HashSet<NodeId>,
    passed: Count,
    taken: Count,
    relayed: Count,
}

impl Calls {
    /// Others are to be asked to have `node` call. False if that is under way, or was in vain a moment ago.
    pub fn begin(&mut self, node: NodeId, now: Instant) -> bool {
        self.asked.retain(|_, asked| asked.under_way || now.saturating_duration_since(asked.at) < ASKED);
        let rests = |asked: &Asked| asked.failed && now.saturating_duration_since(asked.at) < PAUSE;
        let under_way = self.asked.values().filter(|asked| asked.under_way).count();
        // Who wants to be called by this node can't be dialled by it, or need not be asked to call.
        let no = self.asked.get(&node).is_some_and(|asked| asked.under_way || rests(asked));
        if no || under_way >= MAX_ASKING || self.wants_a_call(&node, now) {
            return false;
        }
        self.asked.insert(node, Asked { at: now, under_way: true, failed: false });
        true
    }

    /// Nobody is asked for `node` any more: it called, or did not.
    pub fn end(&mut self, node: &NodeId, came: bool, now: Instant) {
        if let Some(asked) = self.asked.get_mut(node) {
            *asked = Asked { at: now, under_way: false, failed: !came };
        }
    }

    /// True while others are asked to have `node` call.
    pub fn is_asking(&self, node: &NodeId) -> bool {
        self.asked.get(node).is_some_and(|asked| asked.under_way)
    }

    /// A peer asks for something to be passed on.
    pub fn may_pass(&mut self, from: NodeId, now: Instant) -> bool {
        self.passed.turn(now);
        let may = self.passed.has_room(&from, PASSED.0, PASSED.1);
        if may {
            self.passed.add(from);
        }
        may
    }

    /// `relay` passes on that `node` asks to be called.
    pub fn may_take(&mut self, relay: NodeId, node: NodeId, now: Instant) -> bool {
        self.taken.turn(now);
        self.relayed.turn(now);
        let may = self.taken.has_room(&node, TAKEN.0, TAKEN.2) && self.relayed.has_room(&relay, TAKEN.1, TAKEN.2);
        if may {
            self.taken.add(node);
            self.relayed.add(relay);
            self.called.retain(|_, at| now.saturating_duration_since(*at) < ASKED);
            self.called.insert(node, now);
        }
        may
    }

    fn wants_a_call(&self, node: &NodeId, now: Instant) -> bool {
        self.called.get(node).is_some_and(|at| now.saturating_duration_since(*at) < SPAN)
    }

    /// A session with `node` is up.
    pub fn connected(&mut self, node: NodeId, we_called: bool, now: Instant) {
        self.disconnected(&node);
        let lately = |at: Instant| now.saturating_duration_since(at) < ASKED;
        if we_called {
            if self.called.get(&node).is_some_and(|at| lately(*at)) {
                self.theirs.insert(node);
            }
        } else if self.asked.get(&node).is_some_and(|asked| lately(asked.at)) {
            self.ours.insert(node);
        }
    }

    /// The session with `node` is over.
    pub fn disconnected(&mut self, node: &NodeId) {
        self.ours.remove(node);
        self.theirs.remove(node);
    }

    /// True if it is this side that closes the session with `node` when nobody needs it.
    pub fn closes(&self, node: &NodeId, we_called: bool) -> bool {
        if we_called { !self.theirs.contains(node) } else { self.ours.contains(node) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u32) -> NodeId {
        NodeId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    #[test]
    fn others_are_asked_for_a_node_once_at_a_time_and_not_again_at_once_in_vain() {
        let (start, mut calls) = (Instant::now(), Calls::default());
        assert!(calls.begin(node(1), start) && !calls.begin(node(1), start) && calls.is_asking(&node(1)));
        calls.end(&node(1), false, start);
        assert!(!calls.is_asking(&node(1)) && !calls.begin(node(1), start + PAUSE / 2));
        assert!(calls.begin(node(1), start + PAUSE));
        calls.end(&node(1), true, start + PAUSE);
        assert!(calls.begin(node(1), start + PAUSE), "it called, and can be asked for at any time");
        (2..200).for_each(|number| {
            calls.begin(node(number), start);
        });
        assert_eq!(calls.asked.len(), MAX_ASKING);
        // Two that can't dial each other don't ask for each other in turns.
        let mut calls = Calls::default();
        assert!(calls.may_take(node(1), node(2), start) && !calls.begin(node(2), start));
        assert!(calls.begin(node(2), start + SPAN));
    }

    #[test]
    fn who_asks_to_be_called_under_many_names_is_soon_not_heard() {
        let (start, mut calls) = (Instant::now(), Calls::default());
        assert!(calls.may_take(node(0), node(1), start) && !calls.may_take(node(9), node(1), start));
        let taken = (10..1000).filter(|number| calls.may_take(node(0), node(*number), start)).count();
        assert_eq!(taken as u32, TAKEN.1 - 1, "one who passes on");
        let taken = (10..1000).filter(|number| calls.may_take(node(*number), node(number + 5000), start)).count();
        assert_eq!(taken as u32, TAKEN.2 - TAKEN.1, "all of them");
        assert!(calls.taken.of.len() + calls.relayed.of.len() + calls.called.len() <= 3 * TAKEN.2 as usize);
        assert!(calls.may_take(node(0), node(1), start + SPAN));

        let passed = (0..1000).filter(|_| calls.may_pass(node(1), start)).count();
        assert_eq!(passed as u32, PASSED.0);
        let passed = (0..1000).filter(|number| calls.may_pass(node(*number), start)).count();
        assert_eq!(passed as u32, PASSED.1 - PASSED.0);
        assert!(calls.may_pass(node(1), start + SPAN) && calls.passed.of.len() == 1);
    }

    #[test]
    fn a_session_belongs_to_who_asked_for_it() {
        let (now, mut asker, mut target) = (Instant::now(), Calls::default(), Calls::default());
        let (of_asker, of_target) = (node(1), node(2));
        asker.begin(of_target, now);
        target.may_take(node(3), of_asker, now);
        asker.connected(of_target, false, now);
        target.connected(of_asker, true, now);
        assert!(asker.closes(&of_target, false) && !target.closes(&of_asker, true));
        // The next one is as any other.
        let later = now + ASKED;
        asker.connected(of_target, false, later);
        target.connected(of_asker, true, later);
        assert!(!asker.closes(&of_target, false) && target.closes(&of_asker, true));
    }
}
