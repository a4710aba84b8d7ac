//! All transfers of a node: one per file that is being read, shared by its readers, told when sources come and go, and
//! what their peers have in common: who lied, how fast they are, who downloads what.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::downloaders::{Companion, Downloaders, MAX_ADDRS, MAX_TOLD};
use super::quarantine::{Quarantine, QuarantineReport};
use super::report::TransferReport;
use super::transfer::{Transfer, TransferUse, now};
use crate::base::ids::{ContentId, NodeId};
use crate::base::ranges::Ranges;
use crate::base::tree::{Proof, VerifiedChunk};
use crate::cache::Cache;
use crate::net::link::{PeerAddr, PeerLink};
use crate::wire::message::{Downloader, Notice};

/// Ended transfers that `transfers` still tells of.
const HISTORY: usize = 64;
/// Peers whose last rate is remembered, so that the next transfer need not begin with a guess.
const RATES: usize = 1024;

/// Who has a file. Implemented where catalogs and live sessions meet.
#[async_trait]
pub trait Finder: Send + Sync {
    /// Sessions to the live peers that offer `content`, whole.
    fn sources(&self, content: &ContentId) -> Vec<Arc<dyn PeerLink>>;
    /// True if a session to somebody who offers `content` is being opened.
    fn is_calling(&self, content: &ContentId) -> bool {
        let _ = content;
        false
    }
    /// Changes whenever the answer of [`Finder::sources`] or [`Finder::is_calling`] may have changed for any content.
    fn changes(&self) -> watch::Receiver<u64>;
    /// This node. Downloads without a reader begin elsewhere in the file on each node.
    fn me(&self) -> Option<NodeId> {
        None
    }
    /// `node` brought `bytes` that were verified. Called for each chunk: must be quick.
    fn brought(&self, node: &NodeId, bytes: usize) {
        let _ = (node, bytes);
    }
    /// A session to `node`, which is said to be reachable at `addrs` and to download `content`: one that is open, or a
    /// new one, which must belong to the network in which the content is shared. `None` if that can't be had soon.
    async fn reach(&self, node: NodeId, addrs: &[SocketAddr], content: &ContentId) -> Option<Arc<dyn PeerLink>> {
        let _ = (node, addrs, content);
        None
    }
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

/// What transfers need of their surroundings, and share.
pub(super) struct Surroundings {
    pub finder: Arc<dyn Finder>,
    pub keep: Arc<dyn Keep>,
    pub runtime: Handle,
    pub history: Mutex<VecDeque<TransferReport>>,
    pub quarantine: Mutex<Quarantine>,
    downloaders: Mutex<Downloaders<Weak<dyn PeerLink>>>,
    rates: Mutex<BTreeMap<NodeId, f64>>,
    /// Bytes of small files that peers have been asked for and that are not here yet.
    opening: Mutex<BTreeMap<NodeId, u64>>,
    /// Stands in for a node id where there is none.
    chance: u64,
}

impl Surroundings {
    pub fn remember(&self, report: TransferReport) {
        let mut history = self.history.lock();
        history.truncate(HISTORY - 1);
        history.push_front(report);
    }

    pub fn remember_rate(&self, node: NodeId, rate: f64) {
        let mut rates = self.rates.lock();
        if rates.len() >= RATES && !rates.contains_key(&node) {
            rates.pop_first();
        }
        rates.insert(node, rate);
    }

    pub fn rate(&self, node: NodeId) -> Option<f64> {
        self.rates.lock().get(&node).copied()
    }

    pub fn opening(&self, node: &NodeId) -> u64 {
        self.opening.lock().get(node).copied().unwrap_or(0)
    }

    /// A small file is asked of `node`, until what this returns is dropped.
    pub fn opens(self: &Arc<Self>, node: NodeId, bytes: u64) -> SmallFile {
        *self.opening.lock().entry(node).or_default() += bytes;
        SmallFile { around: Arc::clone(self), node, bytes }
    }

    pub fn bars(&self, node: NodeId, content: &ContentId, now: Instant) -> bool {
        self.quarantine.lock().bars(node, content, now)
    }

    /// Where this node begins with a file, and how it goes on: another number on each node.
    pub fn seed(&self, content: &ContentId) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.finder.me().as_ref().map_or(&self.chance.to_le_bytes()[..], |me| &me.0));
        hasher.update(&content.root.0);
        let hash = hasher.finalize();
        u64::from_le_bytes(*hash.as_bytes().first_chunk().unwrap_or(&[0; 8]))
    }

    pub fn downloader_links(&self, content: &ContentId, now: Instant) -> Vec<(NodeId, Arc<dyn PeerLink>)> {
        let links = self.downloaders.lock().links(content, now);
        let live = links.into_iter().filter_map(|(node, link)| Some((node, link.upgrade()?)));
        live.filter(|(_, link)| !link.is_closed()).collect()
    }
}

/// A small file that has been asked for.
pub(super) struct SmallFile {
    around: Arc<Surroundings>,
    node: NodeId,
    bytes: u64,
}

impl Drop for SmallFile {
    fn drop(&mut self) {
        let mut opening = self.around.opening.lock();
        if let Some(bytes) = opening.get_mut(&self.node) {
            *bytes -= self.bytes;
            if *bytes == 0 {
                opening.remove(&self.node);
            }
        }
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
        let surroundings = Arc::new(Surroundings {
            finder,
            keep,
            runtime: runtime.clone(),
            history: Mutex::default(),
            quarantine: Mutex::default(),
            downloaders: Mutex::default(),
            rates: Mutex::default(),
            opening: Mutex::default(),
            // No harm in the same number twice: two nodes would begin a download at the same place.
            chance: getrandom::u64().unwrap_or(0),
        });
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
        // Who downloads the same file from here may have what this node wants.
        for (_, link) in self.surroundings.downloader_links(&content, now()) {
            joined.transfer().add_downloader(&link, &Ranges::new());
        }
        joined
    }

    fn live(&self) -> Vec<Arc<Transfer>> {
        self.transfers.lock().values().filter_map(Weak::upgrade).collect()
    }

    fn get(&self, content: &ContentId) -> Option<Arc<Transfer>> {
        self.transfers.lock().get(content).and_then(Weak::upgrade)
    }

    /// Changes whenever some file may have other sources than before.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.surroundings.finder.changes()
    }

    /// Every transfer that is open or ended not long ago, the newest first.
    pub fn reports(&self) -> Vec<TransferReport> {
        let mut reports: Vec<_> = self.live().iter().map(|transfer| transfer.report()).collect();
        reports.sort_by_key(|report| report.age);
        reports.extend(self.surroundings.history.lock().iter().cloned());
        reports
    }

    /// Peers that sent what honest ones can't send.
    pub fn quarantine(&self) -> Vec<QuarantineReport> {
        self.surroundings.quarantine.lock().reports(now())
    }

    // ---- Downloaders that serve each other.

    /// The peer opens `content` here or asks for chunks of it: call at each such request, it is cheap. A new one is told
    /// about the others, and they about it; if this node fetches the same file, it becomes a source.
    pub fn downloader(&self, link: &Arc<dyn PeerLink>, content: ContentId) {
        let (node, now) = (link.node(), now());
        let addrs = tcp(link.addrs());
        let (others, new) = {
            let mut downloaders = self.surroundings.downloaders.lock();
            if !downloaders.seen(content, node, &addrs, &Arc::downgrade(link), now) {
                return;
            }
            (downloaders.companions(&content, node, now), Downloader { node, addrs })
        };
        if !others.is_empty() {
            for (other, other_link) in self.surroundings.downloader_links(&content, now) {
                if other != node {
                    other_link.notify(Notice::Downloaders { content, nodes: vec![new.clone()] });
                }
            }
            let nodes = others.into_iter().map(|(node, addrs)| Downloader { node, addrs }).collect();
            link.notify(Notice::Downloaders { content, nodes });
        }
        if let Some(transfer) = self.get(&content) {
            transfer.add_downloader(link, &Ranges::new());
        }
    }

    /// The downloaders of `content` that `except` should know of.
    pub fn companions(&self, content: &ContentId, except: NodeId) -> Vec<Companion> {
        self.surroundings.downloaders.lock().companions(content, except, now())
    }

    /// A session is over.
    pub fn disconnected(&self, node: NodeId) {
        self.surroundings.downloaders.lock().gone(node);
    }

    /// A peer said ([`Notice::Held`]) that it holds these, too, of `content`.
    pub fn heard_held(&self, link: &Arc<dyn PeerLink>, content: &ContentId, held: &Ranges) {
        if let Some(transfer) = self.get(content) {
            transfer.add_downloader(link, held);
        }
    }

    /// A source said ([`Notice::Downloaders`]) who else downloads `content`. Those become sources, if they can be reached.
    pub fn heard_downloaders(self: &Arc<Self>, content: ContentId, nodes: Vec<Downloader>) {
        let Some(transfer) = self.get(&content) else { return };
        let me = self.surroundings.finder.me();
        for Downloader { node, mut addrs } in nodes.into_iter().take(MAX_TOLD) {
            addrs.truncate(MAX_ADDRS);
            if Some(node) == me || transfer.knows(node) {
                continue;
            }
            let (transfer, around) = (Arc::downgrade(&transfer), Arc::clone(&self.surroundings));
            self.surroundings.runtime.spawn(async move {
                let link = around.finder.reach(node, &addrs, &content).await;
                if let Some((link, transfer)) = link.filter(|link| link.node() == node).zip(transfer.upgrade()) {
                    transfer.add_downloader(&link, &Ranges::new());
                }
            });
        }
    }
}

fn tcp(addrs: &[PeerAddr]) -> Vec<SocketAddr> {
    addrs.iter().map(|PeerAddr::Tcp(addr)| *addr).take(MAX_ADDRS).collect()
}
