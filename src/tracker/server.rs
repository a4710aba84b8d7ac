//! The tracker's side of sessions: pings of members, one table per network.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::store::{Store, StoreReport};
use super::table::Pinged;
use super::tables::Tables;
use crate::base::ids::NetworkId;
use crate::net::terse::{Caller, Clerk};
use crate::wire::message::Request;

/// What has been counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Announcements of nodes that are here.
    pub pings: u64,
    /// Nodes that came.
    pub joins: u64,
    /// Nodes that said goodbye.
    pub leaves: u64,
    /// Nodes whose pings stopped.
    pub drops: u64,
    /// Nodes for which there was no room.
    pub full: u64,
}

#[derive(Default)]
struct Counters {
    pings: AtomicU64,
    joins: AtomicU64,
    leaves: AtomicU64,
    drops: AtomicU64,
    full: AtomicU64,
}

fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// Answers pings, from memory.
pub struct TrackerService {
    tables: Tables,
    store: Arc<dyn Store>,
    counters: Counters,
}

impl TrackerService {
    /// Answers from `tables`, and tells `store` what it hears.
    pub fn new(tables: Tables, store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { tables, store, counters: Counters::default() })
    }

    /// How its store is.
    pub fn store(&self) -> StoreReport {
        self.store.report()
    }

    /// Active nodes of each network.
    pub fn nodes(&self) -> Vec<(NetworkId, usize)> {
        self.tables.nodes()
    }

    /// What has been counted.
    pub fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { pings, joins, leaves, drops, full } = &self.counters;
        Counts { pings: get(pings), joins: get(joins), leaves: get(leaves), drops: get(drops), full: get(full) }
    }
}

impl Clerk for TrackerService {
    fn answer(&self, caller: &Caller, request: &Request, body: &mut Vec<u8>) {
        let Request::Announce(announce) = request else { return };
        let now = Instant::now();
        let (dropped, pinged) = self.tables.with(caller.network, |table| {
            let dropped = table.expire(now);
            let pinged = table.ping(caller.node, announce, caller.remote, now);
            table.answer(announce, body);
            (dropped, pinged)
        });
        match pinged {
            Pinged::Stays => self.store.pinged(caller.network, caller.node, false, now),
            Pinged::Joined | Pinged::Moved => self.store.pinged(caller.network, caller.node, true, now),
            Pinged::Left | Pinged::Unknown => self.store.left(caller.network, caller.node),
            Pinged::Full => {}
        }
        count(&self.counters.pings, 1);
        if dropped > 0 {
            count(&self.counters.drops, dropped);
        }
        match pinged {
            Pinged::Stays | Pinged::Moved | Pinged::Unknown => {}
            Pinged::Joined => count(&self.counters.joins, 1),
            Pinged::Left => count(&self.counters.leaves, 1),
            Pinged::Full => count(&self.counters.full, 1),
        }
    }

    fn tick(&self) {
        let now = Instant::now();
        let dropped = self.tables.lock().values_mut().map(|table| table.expire(now)).sum();
        count(&self.counters.drops, dropped);
    }
}
