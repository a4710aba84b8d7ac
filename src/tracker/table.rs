//! The active nodes of one network, and the feed of changes. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::base::ids::NodeId;
use crate::wire::message::{Announce, Announced, TrackedNode};

/// How often nodes ping: often enough that a new node is known to all within seconds, seldom enough that one tracker
/// serves tens of thousands.
pub const PING_EVERY: Duration = Duration::from_secs(5);
/// A node whose pings stop is dropped after three of them.
pub const DROP_AFTER: Duration = Duration::from_secs(16);
/// Departures that are remembered; who has been away for longer gets the whole list.
const MAX_GONE: usize = 10_000;
/// Nodes of one network, and addresses of one node.
const MAX_NODES: usize = 1_000_000;
const MAX_ADDRS: usize = 16;

struct Active {
    addrs: Vec<SocketAddr>,
    last_ping: Instant,
    changed_at: u64,
}

/// See the module.
pub struct Table {
    boot: u64,
    at: u64,
    nodes: BTreeMap<NodeId, Active>,
    by_change: BTreeMap<u64, NodeId>,
    gone: VecDeque<(u64, NodeId)>,
    /// Departures at or before this position are forgotten.
    forgotten: u64,
}

impl Table {
    /// Empty. `boot` differs from run to run, so that nodes notice a restart.
    pub fn new(boot: u64) -> Self {
        Self { boot, at: 0, nodes: BTreeMap::new(), by_change: BTreeMap::new(), gone: VecDeque::new(), forgotten: 0 }
    }

    /// A ping of `node`, which comes from `remote`.
    pub fn announce(&mut self, node: NodeId, announce: &Announce, remote: IpAddr, now: Instant) -> Announced {
        self.expire(now);
        if announce.leaving {
            self.drop_node(node);
        } else {
            let seen = |addr: &SocketAddr| {
                let ip = if addr.ip().is_unspecified() { remote } else { addr.ip() };
                SocketAddr::new(ip, addr.port())
            };
            let addrs: Vec<SocketAddr> = announce.addrs.iter().take(MAX_ADDRS).map(seen).collect();
            let room = self.nodes.len() < MAX_NODES;
            match self.nodes.get_mut(&node) {
                Some(active) if active.addrs == addrs => active.last_ping = now,
                _ if room => {
                    self.at += 1;
                    let active = Active { addrs, last_ping: now, changed_at: self.at };
                    if let Some(old) = self.nodes.insert(node, active) {
                        self.by_change.remove(&old.changed_at);
                    }
                    self.by_change.insert(self.at, node);
                }
                _ => {}
            }
        }
        self.answer(node, announce)
    }

    fn answer(&self, asker: NodeId, announce: &Announce) -> Announced {
        let whole = announce.boot != self.boot || announce.since < self.forgotten || announce.since > self.at;
        let since = if whole { 0 } else { announce.since };
        let changed = self.by_change.range(since + 1..).map(|(_, node)| *node).filter(|node| *node != asker);
        let tracked = |node: NodeId| {
            let addrs = self.nodes.get(&node)?.addrs.clone();
            Some(TrackedNode { node, addrs })
        };
        let departed = self.gone.iter().filter(|(at, node)| !whole && *at > since && !self.nodes.contains_key(node));
        Announced {
            at: self.at,
            boot: self.boot,
            whole,
            active: changed.filter_map(tracked).collect(),
            gone: departed.map(|(_, node)| *node).collect(),
            ping_every_ms: PING_EVERY.as_millis() as u32,
        }
    }

    fn drop_node(&mut self, node: NodeId) {
        if let Some(old) = self.nodes.remove(&node) {
            self.by_change.remove(&old.changed_at);
            self.at += 1;
            self.gone.push_back((self.at, node));
            if self.gone.len() > MAX_GONE
                && let Some((at, _)) = self.gone.pop_front()
            {
                self.forgotten = at;
            }
        }
    }

    /// Drops nodes whose pings have stopped.
    pub fn expire(&mut self, now: Instant) {
        let late = |active: &Active| now.saturating_duration_since(active.last_ping) > DROP_AFTER;
        let gone: Vec<NodeId> = self.nodes.iter().filter(|(_, active)| late(active)).map(|(node, _)| *node).collect();
        gone.into_iter().for_each(|node| self.drop_node(node));
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
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::tracker::client::Feed;

    const REMOTE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9));

    #[derive(Debug, Clone)]
    enum Step {
        Ping(u8, u16),
        Leave(u8),
        Wait(u64),
        Restart,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0u8..6, 1u16..4).prop_map(|(node, port)| Step::Ping(node, port)),
            1 => (0u8..6).prop_map(Step::Leave),
            2 => (1u64..12).prop_map(Step::Wait),
            1 => Just(Step::Restart),
        ];
        proptest::collection::vec(step, 1..60)
    }

    proptest! {
        #[test]
        fn who_follows_the_feed_knows_exactly_who_is_active(steps in steps()) {
            let start = Instant::now();
            let (mut now, mut boot) = (start, 1);
            let mut table = Table::new(boot);
            let mut feeds: BTreeMap<u8, Feed> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Ping(tag, port) => {
                        let node = NodeId([tag; 32]);
                        let feed = feeds.entry(tag).or_default();
                        let addrs = vec![SocketAddr::from(([0, 0, 0, 0], port))];
                        let answer = table.announce(node, &feed.announce(addrs, false), REMOTE, now);
                        feed.take(answer);
                        let known: Vec<NodeId> = feed.active().keys().copied().collect();
                        let real: Vec<NodeId> = table.nodes.keys().copied().filter(|other| *other != node).collect();
                        prop_assert_eq!(known, real);
                        prop_assert!(feed.active().values().flatten().all(|addr| addr.ip() == REMOTE));
                    }
                    Step::Leave(tag) => {
                        let leave = feeds.entry(tag).or_default().announce(Vec::new(), true);
                        table.announce(NodeId([tag; 32]), &leave, REMOTE, now);
                        prop_assert!(!table.nodes.contains_key(&NodeId([tag; 32])));
                    }
                    Step::Wait(secs) => now += Duration::from_secs(secs),
                    Step::Restart => {
                        boot += 1;
                        table = Table::new(boot);
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_ping_adds_and_missed_pings_remove() {
        let start = Instant::now();
        let mut table = Table::new(1);
        let announce = Feed::default().announce(vec![([10, 0, 0, 1], 7450).into()], false);
        table.announce(NodeId([1; 32]), &announce, REMOTE, start);
        assert_eq!(table.len(), 1);
        table.expire(start + DROP_AFTER);
        assert_eq!(table.len(), 1);
        table.expire(start + DROP_AFTER + Duration::from_millis(1));
        assert!(table.is_empty());
    }
}
