//! The tables of all networks that one tracker serves, behind one lock that is held for microseconds.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::table::Table;
use crate::base::ids::NetworkId;

/// See the module.
#[derive(Clone)]
pub struct Tables {
    boot: u64,
    shared: bool,
    all: Arc<Mutex<BTreeMap<NetworkId, Table>>>,
}

impl Tables {
    /// No nodes yet. `boot` must differ from run to run. `shared`: a store says who is gone, not this process's clock.
    pub fn new(boot: u64, shared: bool) -> Self {
        Self { boot, shared, all: Arc::default() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<NetworkId, Table>> {
        self.all.lock()
    }

    /// Does something with one network's table.
    pub(super) fn with<T>(&self, network: NetworkId, what: impl FnOnce(&mut Table) -> T) -> T {
        what(self.lock().entry(network).or_insert_with(|| Table::new(self.boot, self.shared)))
    }

    /// Active nodes of each network.
    pub fn nodes(&self) -> Vec<(NetworkId, usize)> {
        self.lock().iter().map(|(network, table)| (*network, table.len())).collect()
    }
}
