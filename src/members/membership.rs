//! This node's membership in one network: sessions with all live peers, their catalogs, and the view.
//!
//! The parts work on one [`Membership`]: `trackers` and `dialling` bring sessions up, `catalogs` replicates, `viewing`
//! merges. Locks are short and never held across an await.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;

use super::calls::Calls;
use super::dialling::AT_ONCE;
use super::fetching::Fetching;
use super::gossiping::Gossip;
use super::known::{Found, Known};
use super::lag::{Lag, LagReport};
use super::pending::Pending;
use super::publishing::Publishing;
use super::roster::{Ending, Joined, Roster};
use crate::base::clock::Timestamp;
use crate::base::ids::{ContentId, NetworkId, NodeId};
use crate::base::limits::{CATALOGS_UNDER_WAY, MAX_VERSIONS};
use crate::catalog::book::CatalogBook;
use crate::catalog::room::Worth;
use crate::catalog::tree::ViewTree;
use crate::net::handshake::{Access, Identity, Kind};
use crate::net::link::{PeerLink, Service};
use crate::vault::network::Network;
use crate::vault::sealer::Sealer;
use crate::wire::message::{CatalogVersion, Notice};

/// A peer that says nothing of its catalogs for this long does not hold up the first view.
const GREETING: Duration = Duration::from_secs(2);

/// How long it may take to reach a node that somebody named.
const REACH: Duration = Duration::from_secs(5);

/// Sessions with nodes that offer a file, beyond which no others are called for it.
const SOURCES: usize = 12;

/// What a membership needs of its node.
pub struct Around {
    /// Who this node is.
    pub identity: Identity,
    /// For what is kept on disk.
    pub sealer: Arc<Sealer>,
    /// Where to keep it.
    pub state_dir: PathBuf,
    /// How long entries stay after their last source went.
    pub linger: Duration,
    /// Peers to try even if nobody names them.
    pub peers: Vec<SocketAddr>,
    /// Try the peers that were known when this node last ran.
    pub remember: bool,
    /// Sessions are held with all live peers, if they are no more than this.
    pub mesh: usize,
    /// What gossip is sent with; `None` if this node does not gossip.
    pub datagrams: Option<Arc<dyn SendDatagram>>,
    /// What is whole in the local cache.
    pub whole: Box<dyn Fn(&ContentId) -> bool + Send + Sync>,
    /// Changes when that does.
    pub whole_changes: watch::Receiver<u64>,
    /// Answers what peers ask; set once all is wired.
    pub service: OnceLock<Weak<dyn Service>>,
}

/// Sends datagrams to other nodes.
pub trait SendDatagram: Send + Sync {
    /// Sends one, or drops it: never blocks.
    fn send(&self, to: SocketAddr, bytes: &[u8]);
}

/// See the module.
pub struct Membership {
    pub(super) around: Arc<Around>,
    pub(super) name: String,
    pub(super) id: NetworkId,
    pub(super) access: Access,
    pub(super) tracker_access: Access,
    pub(super) trackers: Vec<String>,
    pub(super) book: Mutex<CatalogBook>,
    pub(super) publishing: Mutex<Publishing>,
    pub(super) roster: Mutex<Roster>,
    pub(super) known: Mutex<Known>,
    /// Connected peers that have said where their catalogs stand.
    pub(super) greeted: watch::Sender<HashSet<NodeId>>,
    pub(super) dial_slots: Semaphore,
    /// With whom a session is needed, and until when.
    pub(super) demand: Mutex<HashMap<NodeId, Instant>>,
    /// Who is asked to call, and who asks to be called.
    pub(super) calls: Mutex<Calls>,
    /// How sessions end that are about to.
    pub(super) endings: Mutex<HashMap<NodeId, Ending>>,
    /// Changes when sessions come and go, or can't be had.
    pub(super) sessions: watch::Sender<u64>,
    pub(super) gossip: Gossip,
    /// How long changes of catalogs are under way.
    pub(super) lag: Mutex<Lag>,
    /// Catalogs that are being fetched.
    pub(super) fetching: Mutex<Fetching>,
    /// For those that come in several parts: in KiB.
    pub(super) catalog_room: Semaphore,
    pub(super) pending: Pending,
    pub(super) tracker_states: Mutex<Vec<TrackerState>>,
    /// Open sessions with trackers, by their numbers.
    pub(super) tracker_links: Mutex<Vec<Option<Weak<dyn PeerLink>>>>,
    pub(super) dial_now: Notify,
    pub(super) view_now: Notify,
    pub(super) view: watch::Sender<Arc<ViewTree>>,
    /// Counts views that were made: who offers what may be another then.
    pub(super) holders: watch::Sender<u64>,
    pub(super) settled: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// How one tracker is doing, for people.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct TrackerState {
    /// `HOST:PORT`.
    pub address: String,
    /// It answered the last ping.
    pub reachable: bool,
    /// Why not.
    pub problem: Option<String>,
    /// Other nodes that it knows.
    pub nodes: usize,
}

/// Where in a list of a content's holders this node begins.
fn own_start(own: &NodeId, content: &ContentId) -> usize {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&own.0).update(&content.root.0);
    u32::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().unwrap_or(&[0; 4])) as usize
}

impl Membership {
    /// Joins a network: loads what is known of it, and does nothing yet (see [`Membership::begin`]). `None` if the vault
    /// has only a tracker's key of it. What is counted in `pending` must be over before the first view is complete. Blocks
    /// on the disk.
    pub fn load(network: &Network, around: Arc<Around>, pending: Pending) -> Option<Arc<Self>> {
        let id = network.id();
        let access = Access { network: id, psk: network.member_psk()?, kind: Kind::Member };
        let tracker_access = Access { network: id, psk: network.tracker_psk(), kind: Kind::Tracker };
        let own = around.identity.node;
        let (wall, now) = (Timestamp::now(), Instant::now());
        let mut known = Self::load_known(&around, id, wall, now).unwrap_or_default();
        if !around.remember {
            known.forget_addresses();
        }
        around.peers.iter().for_each(|addr| known.hear_of_nobody(*addr, Found::Settings, now));
        let mut book = CatalogBook::new(id, own);
        for copy in Self::load_catalogs(&around, id, &known, wall) {
            let copy = Arc::new(copy);
            if copy.node() == own {
                book.put_own(copy);
            } else {
                known.seen(copy.node(), copy.alive_at(wall));
                // As many as there is room for, though more may lie on the disk.
                if book.room_for(copy.node(), copy.kept(), Worth::Kept, |_| Worth::Kept).is_some() {
                    book.put(copy);
                }
            }
        }
        let remembered: BTreeSet<NodeId> = book.all().map(|copy| copy.node()).filter(|node| *node != own).collect();
        let linger = around.linger;
        let membership = Arc::new(Self {
            name: network.name().to_owned(),
            id,
            access,
            tracker_access,
            trackers: network.trackers().to_vec(),
            book: Mutex::new(book),
            publishing: Mutex::default(),
            roster: Mutex::new(Roster::new(own, linger, remembered, now)),
            known: Mutex::new(known),
            greeted: watch::channel(HashSet::new()).0,
            dial_slots: Semaphore::new(AT_ONCE),
            demand: Mutex::default(),
            calls: Mutex::default(),
            endings: Mutex::default(),
            sessions: watch::channel(0).0,
            gossip: Gossip::new(network),
            lag: Mutex::default(),
            fetching: Mutex::default(),
            catalog_room: Semaphore::new(CATALOGS_UNDER_WAY / 1024),
            pending,
            tracker_states: Mutex::default(),
            tracker_links: Mutex::default(),
            dial_now: Notify::new(),
            view_now: Notify::new(),
            view: watch::channel(Arc::default()).0,
            holders: watch::channel(0).0,
            settled: watch::channel(false).0,
            tasks: Mutex::default(),
            around,
        });
        Some(membership)
    }

    /// Looks for the network's members from now on. Once; by then sessions of this network must find their way here, for
    /// the first may be up at once.
    pub fn begin(self: &Arc<Self>) {
        let mut tasks = self.start_trackers();
        tasks.push(tokio::spawn(Arc::clone(self).dial_loop()));
        tasks.push(tokio::spawn(Arc::clone(self).view_loop()));
        tasks.push(tokio::spawn(Arc::clone(self).exchange_loop()));
        if self.around.datagrams.is_some() {
            tasks.push(tokio::spawn(Arc::clone(self).gossip_loop()));
        }
        *self.tasks.lock() = tasks;
    }

    /// The network's name here.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The network.
    pub fn id(&self) -> NetworkId {
        self.id
    }

    /// For accepting sessions.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// The view, and its changes.
    pub fn view(&self) -> watch::Receiver<Arc<ViewTree>> {
        self.view.subscribe()
    }

    /// Changes when others may offer something than before.
    pub fn holders(&self) -> watch::Receiver<u64> {
        self.holders.subscribe()
    }

    /// True once everything that was known or found at the start has been heard.
    pub fn settled(&self) -> watch::Receiver<bool> {
        self.settled.subscribe()
    }

    /// True if a member of this network may ask for `content` here: somebody of the network published it.
    pub fn names(&self, content: &ContentId) -> bool {
        let view = Arc::clone(&self.view.borrow());
        view.names(content)
    }

    /// The live session with `node`.
    pub fn link(&self, node: &NodeId) -> Option<Arc<dyn PeerLink>> {
        self.roster.lock().link(node).cloned()
    }

    /// A session with `node`: the live one, or a new one at `addrs`.
    pub async fn reach_node(self: &Arc<Self>, node: NodeId, addrs: &[SocketAddr]) -> Option<Arc<dyn PeerLink>> {
        if let Some(link) = self.link(&node) {
            return Some(link);
        }
        self.known.lock().hear(node, addrs, Found::Peer, Instant::now());
        self.demand([node]);
        let mut greeted = self.greeted.subscribe();
        let connected = greeted.wait_for(|greeted| greeted.contains(&node));
        let _ = tokio::time::timeout(REACH, connected).await;
        self.link(&node)
    }

    /// True if this node itself has met `node`, or has a catalog of it.
    pub fn knows(&self, node: &NodeId) -> bool {
        self.known.lock().last_seen(node).is_some() || self.book.lock().get(*node).is_some()
    }

    /// Live sessions.
    pub fn links(&self) -> Vec<Arc<dyn PeerLink>> {
        self.roster.lock().links().cloned().collect()
    }

    /// The live nodes that offer `content`, but for this one; sorted.
    pub fn offering(&self, content: &ContentId) -> Vec<NodeId> {
        let view = Arc::clone(&self.view.borrow());
        let mut nodes = view.holders(content);
        nodes.retain(|node| *node != self.around.identity.node);
        nodes
    }

    /// Sessions with live nodes that offer `content`. Where there are few, others are called: they are among the sources once
    /// [`Membership::sessions`] changes.
    pub fn sources(&self, content: &ContentId) -> Vec<Arc<dyn PeerLink>> {
        let nodes = self.offering(content);
        let (links, absent) = self.met_and_absent(&nodes);
        if links.len() < SOURCES && !absent.is_empty() {
            // Not the same ones for everybody.
            let start = own_start(&self.around.identity.node, content) % absent.len();
            self.demand(absent.iter().cycle().skip(start).take((SOURCES - links.len()).min(absent.len())).copied());
        }
        links
    }

    /// True if somebody who offers `content` is being called.
    pub fn is_calling(&self, content: &ContentId) -> bool {
        let (_, absent) = self.met_and_absent(&self.offering(content));
        let demand = self.demand.lock();
        absent.iter().any(|node| demand.contains_key(node))
    }

    /// Sessions with some of `nodes`, and those that are live without one.
    fn met_and_absent(&self, nodes: &[NodeId]) -> (Vec<Arc<dyn PeerLink>>, Vec<NodeId>) {
        let roster = self.roster.lock();
        let (mut links, mut absent) = (Vec::new(), Vec::new());
        for node in nodes {
            match roster.link(node) {
                Some(link) => links.push(Arc::clone(link)),
                None if roster.is_live(node) => absent.push(*node),
                None => {}
            }
        }
        (links, absent)
    }

    /// Changes when sessions come and go, or can't be had.
    pub fn sessions(&self) -> watch::Receiver<u64> {
        self.sessions.subscribe()
    }

    /// How many peers are live.
    pub fn live_peers(&self) -> usize {
        self.roster.lock().live_count()
    }

    /// How many live peers were found in each way; one peer may be in several.
    pub fn found_by(&self) -> BTreeMap<String, usize> {
        let roster = self.roster.lock();
        let known = self.known.lock();
        let mut found = BTreeMap::new();
        for node in roster.live() {
            for word in known.found(node) {
                *found.entry(word.to_owned()).or_default() += 1;
            }
        }
        found
    }

    /// How many catalogs are known.
    pub fn catalog_count(&self) -> usize {
        self.book.lock().all().count()
    }

    /// Where all catalogs stand, summed up: two nodes that have the same know the same.
    pub fn catalog_sum(&self) -> String {
        format!("{:016x}", self.book.lock().sums().total())
    }

    /// Epoch and version of this node's own catalog.
    pub fn own_version(&self) -> Option<(u64, u64)> {
        self.book.lock().get(self.around.identity.node).map(|copy| copy.place())
    }

    /// How long changes of catalogs took to get here.
    pub fn lag(&self) -> LagReport {
        self.lag.lock().report()
    }

    /// Live peers with which there is no session.
    pub fn live_without_session(&self) -> Vec<NodeId> {
        let roster = self.roster.lock();
        roster.live().filter(|node| !roster.has(node)).copied().collect()
    }

    /// What a peer called itself the last time that there was a session with it.
    pub fn name_of(&self, node: &NodeId) -> Option<String> {
        Some(self.known.lock().name(node).to_owned()).filter(|name| !name.is_empty())
    }

    /// How a peer was found, and where it may be reached.
    pub fn acquaintance(&self, node: &NodeId) -> (Vec<&'static str>, Option<SocketAddr>) {
        let known = self.known.lock();
        (known.found(node).collect(), known.addr(node))
    }

    /// Trackers, as of their last answers.
    pub fn tracker_states(&self) -> Vec<TrackerState> {
        self.tracker_states.lock().clone()
    }

    /// Catalogs that are known: whose, and how many entries.
    pub fn catalogs(&self) -> Vec<(NodeId, usize)> {
        self.book.lock().all().map(|copy| (copy.node(), copy.len())).collect()
    }

    /// A session of this network is up.
    pub fn connected(self: &Arc<Self>, link: Arc<dyn PeerLink>) {
        let node = link.node();
        let (joined, changed) = self.roster.lock().join(&link, Instant::now());
        if joined == Joined::Closed {
            return;
        }
        {
            let mut known = self.known.lock();
            known.met(node, link.addrs(), link.we_called(), Timestamp::now(), Instant::now());
            known.named(&node, link.name());
        }
        self.fetching.lock().may_have_room(&node);
        self.calls.lock().connected(node, link.we_called(), Instant::now());
        tracing::info!(peer = %node.short(12), network = %self.id.short(12), "connected");
        let pending = self.pending.guard();
        self.sessions.send_modify(|number| *number += 1);
        self.gossip_with(&link);
        if changed {
            self.view_now.notify_one();
        }
        let membership = Arc::clone(self);
        tokio::spawn(async move {
            // Who called asks; who was called hears of the caller's catalogs by what it is asked.
            if link.we_called() {
                membership.exchange(&link).await;
            }
            membership.until_greeted(&link).await;
            drop(pending);
            link.closed().await;
            membership.disconnected(&link);
        });
    }

    fn disconnected(&self, link: &Arc<dyn PeerLink>) {
        let node = link.node();
        let (ending, now) = (self.endings.lock().get(&node).copied().unwrap_or(Ending::Broken), Instant::now());
        // Of one that was replaced nobody need know how it ended.
        let Some(changed) = self.roster.lock().leave(link, ending, now) else { return };
        self.endings.lock().remove(&node);
        self.calls.lock().disconnected(&node);
        self.greeted.send_if_modified(|greeted| greeted.remove(&node));
        tracing::info!(peer = %node.short(12), network = %self.id.short(12), ?ending, "disconnected");
        self.known.lock().lost(node, Timestamp::now(), now);
        self.sessions.send_modify(|number| *number += 1);
        if changed {
            self.view_now.notify_one();
        }
        self.dial_now.notify_one();
    }

    /// Waits for the peer's first word on its catalogs, for a while.
    pub(super) async fn until_greeted(&self, link: &Arc<dyn PeerLink>) {
        let mut greeted = self.greeted.subscribe();
        tokio::select! {
            () = tokio::time::sleep(GREETING) => {}
            () = link.closed() => {}
            _ = greeted.wait_for(|greeted| greeted.contains(&link.node())) => {}
        }
    }

    /// A peer says something.
    pub fn notice(self: &Arc<Self>, link: &Arc<dyn PeerLink>, notice: Notice) {
        match notice {
            Notice::Versions(versions) => self.heard_versions(link, &versions),
            // It says goodbye rather than vanish: no need to wait for a time-out.
            Notice::Bye => self.ends(link, Ending::Goodbye),
            Notice::Idle => self.ends(link, Ending::Idle),
            Notice::Call(node) => self.pass_call(link, node),
            Notice::Called(caller) => self.take_call(link, &caller),
            _ => {}
        }
    }

    fn ends(&self, link: &Arc<dyn PeerLink>, ending: Ending) {
        // Of the session that counts: a peer may say much on one that was replaced.
        if self.link(&link.node()).is_some_and(|current| Arc::ptr_eq(&current, link)) {
            self.endings.lock().insert(link.node(), ending);
        }
        link.close();
    }

    /// Tells all peers of catalogs that moved, but for the one that they came from.
    pub(super) fn tell(&self, versions: &[CatalogVersion], from: Option<NodeId>) {
        for link in self.links().into_iter().filter(|link| Some(link.node()) != from) {
            versions.chunks(MAX_VERSIONS).for_each(|some| link.notify(Notice::Versions(some.to_vec())));
        }
    }

    /// Says goodbye to trackers and peers, saves what is known, and ends all tasks.
    pub async fn stop(self: &Arc<Self>) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        self.leave_gossip();
        self.leave_trackers().await;
        for link in self.links() {
            link.notify(Notice::Bye);
        }
        self.save_known();
    }
}
