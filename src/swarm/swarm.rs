//! All transfers of a node: one per file that is being read, shared by its readers, told when sources come and go.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::report::TransferReport;
use super::transfer::{Transfer, TransferUse};
use crate::base::ids::ContentId;
use crate::base::tree::{Proof, VerifiedChunk};
use crate::cache::Cache;
use crate::net::link::PeerLink;

/// Ended transfers that `transfers` still tells of.
const HISTORY: usize = 64;

/// Who has a file. Implemented where catalogs and live sessions meet.
pub trait Finder: Send + Sync {
    /// Sessions to the live peers that offer `content`.
    fn sources(&self, content: &ContentId) -> Vec<Arc<dyn PeerLink>>;
    /// Changes whenever the answer of [`Finder::sources`] may have changed for any content.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// Where verified chunks go and come back from.
pub trait Keep: Send + Sync {
    /// Keeps a chunk. Never blocks; may drop it.
    fn keep(&self, chunk: &VerifiedChunk);
    /// The chunk, if it is in memory. Never blocks.
    fn recall(&self, content: ContentId, index: u64) -> Option<VerifiedChunk>;
    /// Keeps a proof. Never blocks; may drop it.
    fn keep_proof(&self, proof: &Proof);
}

impl Keep for Cache {
    fn keep(&self, chunk: &VerifiedChunk) {
        self.put(chunk);
    }

    fn recall(&self, content: ContentId, index: u64) -> Option<VerifiedChunk> {
        self.ram_get(content, index)
    }

    fn keep_proof(&self, proof: &Proof) {
        self.put_proof(proof);
    }
}

/// What transfers need of their surroundings.
pub(super) struct Surroundings {
    pub finder: Arc<dyn Finder>,
    pub keep: Arc<dyn Keep>,
    pub runtime: Handle,
    pub history: Mutex<VecDeque<TransferReport>>,
}

impl Surroundings {
    pub fn remember(&self, report: TransferReport) {
        let mut history = self.history.lock();
        history.truncate(HISTORY - 1);
        history.push_front(report);
    }
}

/// See the module.
pub struct Swarm {
    surroundings: Arc<Surroundings>,
    transfers: Mutex<HashMap<ContentId, Weak<Transfer>>>,
}

impl Swarm {
    /// A swarm that finds sources by `finder` and gives what it fetched to `keep`. Its tasks run on `runtime`.
    pub fn new(finder: Arc<dyn Finder>, keep: Arc<dyn Keep>, runtime: &Handle) -> Arc<Self> {
        let mut changes = finder.changes();
        let surroundings =
            Arc::new(Surroundings { finder, keep, runtime: runtime.clone(), history: Mutex::new(VecDeque::new()) });
        let swarm = Arc::new(Self { surroundings, transfers: Mutex::new(HashMap::new()) });
        let weak = Arc::downgrade(&swarm);
        runtime.spawn(async move {
            while changes.changed().await.is_ok() {
                let Some(swarm) = weak.upgrade() else { break };
                for transfer in swarm.live() {
                    transfer.refresh();
                }
            }
        });
        swarm
    }

    /// Joins the transfer of `content`, or begins it. It fetches while somebody holds what this returns.
    pub fn join(&self, content: ContentId) -> TransferUse {
        let mut transfers = self.transfers.lock();
        if let Some(transfer) = transfers.get(&content).and_then(Weak::upgrade) {
            return TransferUse::new(transfer);
        }
        transfers.retain(|_, transfer| transfer.strong_count() > 0);
        let transfer = Transfer::new(content, Arc::clone(&self.surroundings));
        transfers.insert(content, Arc::downgrade(&transfer));
        drop(transfers);
        let joined = TransferUse::new(transfer);
        joined.transfer().refresh();
        joined
    }

    fn live(&self) -> Vec<Arc<Transfer>> {
        self.transfers.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Every transfer that is open or ended not long ago, the newest first.
    pub fn reports(&self) -> Vec<TransferReport> {
        let mut reports: Vec<_> = self.live().iter().map(|transfer| transfer.report()).collect();
        reports.sort_by_key(|report| report.age);
        reports.extend(self.surroundings.history.lock().iter().cloned());
        reports
    }
}
