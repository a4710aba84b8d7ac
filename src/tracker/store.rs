//! Where the list of active nodes is kept beside this process's memory: nowhere, or where other trackers of the same
//! networks see it too. Pings are answered from memory in any case.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::base::ids::{NetworkId, NodeId};

/// How a store is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoreReport {
    /// `memory` or `etcd`.
    pub kind: String,
    /// What this process knows is what the store holds, as far as it can tell.
    pub healthy: bool,
    /// Why not.
    pub problem: Option<String>,
}

/// Hears of what happens to the nodes that ping this process. Called while pings are answered: must not block.
pub trait Store: Send + Sync {
    /// A node pinged, from these addresses. `news`: it is new, or has moved.
    fn pinged(&self, network: NetworkId, node: NodeId, addrs: &[SocketAddr], news: bool);
    /// A node said goodbye.
    fn left(&self, network: NetworkId, node: NodeId);
    /// How it is.
    fn report(&self) -> StoreReport;
}

/// This process's memory, and nothing else: nodes ping again within seconds of a restart.
pub struct Memory;

impl Store for Memory {
    fn pinged(&self, _: NetworkId, _: NodeId, _: &[SocketAddr], _: bool) {}

    fn left(&self, _: NetworkId, _: NodeId) {}

    fn report(&self) -> StoreReport {
        StoreReport { kind: "memory".into(), healthy: true, problem: None }
    }
}
