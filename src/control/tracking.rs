//! What a tracker says of itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::base::ids::NetworkId;
use crate::tracker::server::Counts;
use crate::tracker::store::StoreReport;

/// A running tracker. Counts are since its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrackerReport {
    /// Of flashget.
    pub version: String,
    /// Where nodes ping.
    pub listen: SocketAddr,
    /// Since the start.
    pub uptime_ms: u64,
    /// Where the list of nodes is kept.
    pub store: StoreReport,
    /// Each network that it serves.
    pub networks: Vec<TrackedNetwork>,
    /// Sessions that are open, those whose handshake is in progress among them.
    pub sessions: u64,
    /// How many there may be.
    pub max_sessions: u64,
    /// How many there may be from one address.
    pub max_per_address: u64,
    /// Handshakes in progress.
    pub handshakes: u64,
    /// Sessions that were opened.
    pub opened: u64,
    /// Pings, joins, goodbyes, and who fell silent.
    #[serde(flatten)]
    pub counts: Counts,
    /// Connections that were turned away or ended, by reason.
    pub refused: BTreeMap<String, u64>,
    /// CPU time of the process, user and system.
    pub cpu_ms: u64,
    /// The same for each ping since the start, in microseconds; missing before the first.
    pub cpu_per_ping_micros: Option<f64>,
    /// Memory of the process (resident), in bytes.
    pub memory: u64,
}

/// One network of a tracker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TrackedNetwork {
    /// Its id; a tracker need not know what it is called.
    pub id: NetworkId,
    /// Active nodes.
    pub nodes: usize,
}
