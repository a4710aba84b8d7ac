//! The tracker's side of sessions: pings of members, one table per network.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::table::Table;
use crate::base::ids::NetworkId;
use crate::net::handshake::Kind;
use crate::net::link::{Answer, PeerAddr, PeerLink, Service};
use crate::wire::message::{Notice, Request, Response};

/// Answers pings. Keeps its state in memory: nodes ping again within seconds of a restart.
pub struct TrackerService {
    boot: u64,
    tables: Mutex<BTreeMap<NetworkId, Table>>,
}

impl TrackerService {
    /// No nodes yet. `boot` must differ from run to run.
    pub fn new(boot: u64) -> Arc<Self> {
        Arc::new(Self { boot, tables: Mutex::default() })
    }

    /// Active nodes of each network.
    pub fn counts(&self) -> Vec<(NetworkId, usize)> {
        let mut tables = self.tables.lock();
        tables
            .iter_mut()
            .map(|(network, table)| {
                table.expire(Instant::now());
                (*network, table.len())
            })
            .collect()
    }
}

#[async_trait]
impl Service for TrackerService {
    async fn connected(&self, link: Arc<dyn PeerLink>) {
        tracing::debug!(node = %link.node().short(12), network = %link.network().short(12), "a member connected");
    }

    async fn request(&self, link: &Arc<dyn PeerLink>, request: Request) -> Answer {
        let Request::Announce(announce) = request else { return Answer::Message(Response::Refused) };
        if link.kind() != Kind::Tracker {
            return Answer::Message(Response::Refused);
        }
        let PeerAddr::Tcp(remote) = link.remote();
        let mut tables = self.tables.lock();
        let table = tables.entry(link.network()).or_insert_with(|| Table::new(self.boot));
        Answer::Message(Response::Announced(table.announce(link.node(), &announce, remote.ip(), Instant::now())))
    }

    async fn notice(&self, _: &Arc<dyn PeerLink>, _: Notice) {}
}
