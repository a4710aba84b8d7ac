//! The active nodes of one network. Pure: the time is passed in, and nothing here takes longer for more nodes, but for a
//! logarithm.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::changes::{Changes, Head};
use crate::base::ids::NodeId;
use crate::wire::message::Announce;

/// How often nodes ping: often enough that a new node is known to all within seconds, seldom enough that one tracker
/// serves tens of thousands.
pub const PING_EVERY: Duration = Duration::from_secs(5);
/// A node whose pings stop is dropped after three of them.
pub const DROP_AFTER: Duration = Duration::from_secs(16);
/// Nodes of one network, and addresses of one node.
pub const MAX_NODES: usize = 1_000_000;
/// See [`MAX_NODES`].
pub const MAX_ADDRS: usize = 16;
/// Bytes of changes in one answer: 5000 nodes, and little enough that a slow asker holds little.
pub const PAGE: usize = 256 * 1024;
/// Entries of nodes that have gone which may wait to be looked at, beside as many as there are nodes.
const DUE_ROOM: usize = 4096;

struct Active {
    addrs: Box<[SocketAddr]>,
    /// When it last pinged this process; `None` if it is known from the store alone.
    last_ping: Option<Instant>,
    joined_at: u64,
    changed_at: u64,
}

impl Active {
    fn pings_here(&self, now: Instant) -> bool {
        self.last_ping.is_some_and(|last| now.saturating_duration_since(last) <= DROP_AFTER)
    }
}

/// What a ping changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pinged {
    /// The node is new.
    Joined,
    /// It has other addresses than before.
    Moved,
    /// Nothing.
    Stays,
    /// It was there, and said goodbye.
    Left,
    /// It said goodbye, and was not there.
    Unknown,
    /// There is no room for it.
    Full,
}

/// See the module.
pub struct Table {
    boot: u64,
    /// A store says who is gone: nothing is dropped because it does not ping here.
    shared: bool,
    nodes: HashMap<NodeId, Active>,
    changes: Changes,
    /// When to look at each node: one entry for each that is there, and of some that have gone, which `joined_at` tells apart.
    due: BinaryHeap<Reverse<(Instant, u64, NodeId)>>,
}

impl Table {
    /// Empty. `boot` differs from run to run, so that nodes notice a restart.
    pub fn new(boot: u64, shared: bool) -> Self {
        Self { boot, shared, nodes: HashMap::new(), changes: Changes::default(), due: BinaryHeap::new() }
    }

    /// A ping of `node`, which comes from `remote`.
    pub fn ping(&mut self, node: NodeId, announce: &Announce, remote: IpAddr, now: Instant) -> Pinged {
        if announce.leaving {
            return if self.remove(node) { Pinged::Left } else { Pinged::Unknown };
        }
        let seen = |addr: &SocketAddr| {
            let ip = if addr.ip().is_unspecified() { remote } else { addr.ip() };
            SocketAddr::new(ip, addr.port())
        };
        let addrs = announce.addrs.iter().take(MAX_ADDRS).map(seen);
        let full = self.nodes.len() >= MAX_NODES;
        match self.nodes.get_mut(&node) {
            Some(active) => {
                active.last_ping = Some(now);
                if active.addrs.iter().copied().eq(addrs.clone()) {
                    return Pinged::Stays;
                }
                active.addrs = addrs.collect();
                active.changed_at = self.changes.push(node, Some(&active.addrs));
                self.tidy();
                Pinged::Moved
            }
            None if full => Pinged::Full,
            None => {
                self.insert(node, addrs.collect(), Some(now));
                Pinged::Joined
            }
        }
    }

    fn insert(&mut self, node: NodeId, addrs: Box<[SocketAddr]>, last_ping: Option<Instant>) {
        let at = self.changes.push(node, Some(&addrs));
        self.nodes.insert(node, Active { addrs, last_ping, joined_at: at, changed_at: at });
        self.tidy();
        let Some(now) = last_ping.filter(|_| !self.shared) else { return };
        if self.due.len() > 2 * self.nodes.len() + DUE_ROOM {
            // Nodes that come and go all the time, within the time that they would be looked at.
            let nodes = &self.nodes;
            self.due.retain(|Reverse((_, at, node))| nodes.get(node).is_some_and(|active| active.joined_at == *at));
        }
        self.due.push(Reverse((now + DROP_AFTER, at, node)));
    }

    /// The store has this node. What pings here is believed rather than the store.
    pub fn learn(&mut self, node: NodeId, addrs: Box<[SocketAddr]>, now: Instant) {
        let full = self.nodes.len() >= MAX_NODES;
        match self.nodes.get_mut(&node) {
            Some(active) if active.addrs == addrs || active.pings_here(now) => {}
            Some(active) => {
                active.addrs = addrs;
                active.changed_at = self.changes.push(node, Some(&active.addrs));
                self.tidy();
            }
            None if full => {}
            None => self.insert(node, addrs, None),
        }
    }

    /// The store does not have this node any more. True if it pings here, and so must be put there again; otherwise it is off
    /// the list.
    pub fn lose(&mut self, node: NodeId, now: Instant) -> bool {
        let here = self.nodes.get(&node).is_some_and(|active| active.pings_here(now));
        if !here {
            self.remove(node);
        }
        here
    }

    /// All nodes, in no order.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.keys().copied()
    }

    /// Where a node is reached.
    pub fn addrs(&self, node: NodeId) -> Option<&[SocketAddr]> {
        self.nodes.get(&node).map(|active| &*active.addrs)
    }

    /// Takes a node off the list. False if it was not there.
    fn remove(&mut self, node: NodeId) -> bool {
        let was = self.nodes.remove(&node).is_some();
        if was {
            self.changes.push(node, None);
            self.tidy();
        }
        was
    }

    fn tidy(&mut self) {
        if self.changes.is_long(self.nodes.len()) {
            let nodes = &self.nodes;
            self.changes.compact(|node, at| nodes.get(&node).is_some_and(|active| active.changed_at == at));
        }
    }

    /// Drops the nodes whose pings have stopped; returns how many.
    pub fn expire(&mut self, now: Instant) -> u64 {
        let mut dropped = 0;
        while let Some(Reverse((when, joined_at, node))) = self.due.peek().copied()
            && when < now
        {
            self.due.pop();
            // Looked at once in a while, and not moved at every ping.
            match self.nodes.get(&node).filter(|active| active.joined_at == joined_at) {
                Some(Active { last_ping: Some(last), .. }) if now.saturating_duration_since(*last) <= DROP_AFTER => {
                    self.due.push(Reverse((*last + DROP_AFTER, joined_at, node)));
                }
                Some(_) => {
                    self.remove(node);
                    dropped += 1;
                }
                None => {}
            }
        }
        dropped
    }

    /// Appends the answer to a ping, as `Response::Announced`.
    pub fn answer(&self, announce: &Announce, out: &mut Vec<u8>) {
        self.answer_in(announce, PAGE, out);
    }

    fn answer_in(&self, announce: &Announce, room: usize, out: &mut Vec<u8>) {
        let at = self.changes.at();
        // Of what this asker was told it must hear the end: of all departures that were not yet forgotten when the whole list
        // began, and that stand behind what it has been told since.
        let heard = announce.since.max(announce.begun);
        let behind = heard < self.changes.forgotten();
        let whole = announce.boot != self.boot || announce.since > at || announce.begun > at || behind;
        let (since, begun) = if whole { (0, self.changes.forgotten()) } else { (announce.since, announce.begun) };
        let page = self.changes.page(since, room);
        let begun = if page.more && page.at < begun { begun } else { 0 };
        let head = Head { boot: self.boot, whole, begun, ping_every_ms: PING_EVERY.as_millis() as u32 };
        page.write(&head, out);
    }

    /// Number of active nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
