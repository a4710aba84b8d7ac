//! What a node makes of a tracker's answers. Pure; the pinging itself is in `members/`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::base::ids::NodeId;
use crate::wire::message::{Announce, Announced};

/// Nodes that one tracker may tell of: a hostile tracker can't fill memory.
const MAX_NODES: usize = 1_000_000;

/// The feed of one tracker.
#[derive(Debug, Default, Clone)]
pub struct Feed {
    at: u64,
    boot: u64,
    active: BTreeMap<NodeId, Vec<SocketAddr>>,
}

impl Feed {
    /// The next ping.
    pub fn announce(&self, addrs: Vec<SocketAddr>, leaving: bool) -> Announce {
        Announce { addrs, since: self.at, boot: self.boot, leaving }
    }

    /// Takes an answer; returns the nodes that are new or moved.
    pub fn take(&mut self, answer: Announced) -> Vec<(NodeId, Vec<SocketAddr>)> {
        if answer.whole {
            self.active.clear();
        }
        (self.at, self.boot) = (answer.at, answer.boot);
        for node in answer.gone {
            self.active.remove(&node);
        }
        let mut fresh = Vec::new();
        for tracked in answer.active {
            if self.active.len() >= MAX_NODES {
                break;
            }
            self.active.insert(tracked.node, tracked.addrs.clone());
            fresh.push((tracked.node, tracked.addrs));
        }
        fresh
    }

    /// Who is active.
    pub fn active(&self) -> &BTreeMap<NodeId, Vec<SocketAddr>> {
        &self.active
    }
}
