//! Where the list of active nodes is kept beside this process's memory: nowhere, or where other trackers of the same
//! networks see it too. Pings are answered from memory in any case.

use std::path::PathBuf;
use std::time::Instant;

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
    /// A node pinged. `news`: it is new, or has moved.
    fn pinged(&self, network: NetworkId, node: NodeId, news: bool, now: Instant);
    /// A node said goodbye.
    fn left(&self, network: NetworkId, node: NodeId);
    /// How it is.
    fn report(&self) -> StoreReport;
}

/// This process's memory, and nothing else: nodes ping again within seconds of a restart.
pub struct Memory;

impl Store for Memory {
    fn pinged(&self, _: NetworkId, _: NodeId, _: bool, _: Instant) {}

    fn left(&self, _: NetworkId, _: NodeId) {}

    fn report(&self) -> StoreReport {
        StoreReport { kind: "memory".into(), healthy: true, problem: None }
    }
}

/// Which store to use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreAt {
    /// [`Memory`].
    Memory,
    /// etcd, if it is built in.
    Etcd(EtcdAt),
}

/// Where etcd is, and how it lets us in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EtcdAt {
    /// `HOST:PORT` of each server.
    pub hosts: Vec<String>,
    /// Certificate of the authority that its servers' were signed by (PEM); without one, no TLS.
    pub ca: Option<PathBuf>,
    /// This tracker's own certificate and key (PEM).
    pub own: Option<(PathBuf, PathBuf)>,
    /// User, and the file whose first line is the password.
    pub user: Option<(String, PathBuf)>,
}

/// etcd's port for clients.
const ETCD_PORT: u16 = 2379;
/// Servers that may be named: a cluster has seven at most.
const MAX_HOSTS: usize = 16;

impl StoreAt {
    /// `memory`, or `etcd://HOST[:PORT],HOST[:PORT]`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "memory" {
            return Ok(Self::Memory);
        }
        let wrong = || format!("'{text}' is not a store: expected memory or etcd://HOST,HOST,HOST");
        let hosts = text.strip_prefix("etcd://").ok_or_else(wrong)?;
        let whole =
            |host: &str| match host.strip_prefix('[').map(|_| host.ends_with(']')).unwrap_or(!host.contains(':')) {
                true => format!("{host}:{ETCD_PORT}"),
                false => host.to_owned(),
            };
        let hosts: Vec<String> = hosts.split(',').map(whole).collect();
        let right = |host: &String| {
            let port = host
                .rsplit_once(':')
                .filter(|(name, _)| !name.is_empty())
                .and_then(|(_, port)| port.parse::<u16>().ok());
            port.is_some() && !host.contains(['/', '@', ' '])
        };
        if hosts.len() > MAX_HOSTS || !hosts.iter().all(right) {
            return Err(wrong());
        }
        Ok(Self::Etcd(EtcdAt { hosts, ..EtcdAt::default() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_named_as_people_name_them() {
        let hosts = |text| match StoreAt::parse(text) {
            Ok(StoreAt::Etcd(at)) => at.hosts,
            other => panic!("{other:?}"),
        };
        assert_eq!(StoreAt::parse("memory"), Ok(StoreAt::Memory));
        assert_eq!(hosts("etcd://a,b.c:1,[::1],[::1]:5"), ["a:2379", "b.c:1", "[::1]:2379", "[::1]:5"]);
        for wrong in ["", "disk", "etcd://", "etcd://a,,b", "etcd://a:x", "etcd://u@a", "etcd://a/b", "etcd:a"] {
            assert!(StoreAt::parse(wrong).is_err(), "{wrong}");
        }
    }
}
