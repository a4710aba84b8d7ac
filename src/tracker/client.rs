//! What a node makes of a tracker's answers. Pure; the pinging itself is in `members/`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::base::ids::NodeId;
use crate::wire::message::{Announce, Announced};

/// Nodes that one tracker may tell of: a hostile tracker can't fill memory.
const MAX_NODES: usize = 1_000_000;
/// Addresses of one node that are looked at.
const MAX_ADDRS: usize = 16;

/// The feed of one tracker.
#[derive(Debug, Clone)]
pub struct Feed {
    own: NodeId,
    at: u64,
    boot: u64,
    begun: u64,
    active: BTreeMap<NodeId, Vec<SocketAddr>>,
}

impl Feed {
    /// Of the node `own`, which knows nobody yet.
    pub fn new(own: NodeId) -> Self {
        Self { own, at: 0, boot: 0, begun: 0, active: BTreeMap::new() }
    }

    /// The next ping.
    pub fn announce(&self, addrs: Vec<SocketAddr>, leaving: bool) -> Announce {
        Announce { addrs, since: self.at, boot: self.boot, begun: self.begun, leaving }
    }

    /// Takes an answer; returns the nodes that are new or moved.
    pub fn take(&mut self, answer: Announced) -> Vec<(NodeId, Vec<SocketAddr>)> {
        if answer.whole {
            self.active.clear();
        }
        (self.at, self.boot, self.begun) = (answer.at, answer.boot, answer.begun);
        let mut fresh = Vec::new();
        for changed in answer.changes {
            let node = changed.node;
            match changed.addrs {
                _ if node == self.own => {}
                None => {
                    self.active.remove(&node);
                }
                Some(_) if self.active.len() >= MAX_NODES => {}
                Some(mut addrs) => {
                    addrs.truncate(MAX_ADDRS);
                    self.active.insert(node, addrs.clone());
                    fresh.push((node, addrs));
                }
            }
        }
        fresh
    }

    /// Who is active.
    pub fn active(&self) -> &BTreeMap<NodeId, Vec<SocketAddr>> {
        &self.active
    }
}
