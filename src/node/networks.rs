//! The networks that this node is in: of each its membership, its swarm, and what readers need.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::errors::wrong;
use super::origins::{KeptFor, Origins};
use super::service::NodeService;
use super::{Node, blocking};
use crate::base::ids::{ContentId, NetworkId, NodeId};
use crate::cache::Cache;
use crate::catalog::entry::Entry;
use crate::catalog::tree::ViewTree;
use crate::control::report::NetworkReport;
use crate::control::{ControlError, ErrorCode};
use crate::members::lag::LagReport;
use crate::members::membership::{Around, Membership, SendDatagram, TrackerState};
use crate::members::pending::{Guard, Pending};
use crate::net::handshake::Identity;
use crate::net::link::PeerLink;
use crate::reader::flight::Flights;
use crate::settings::file::Settings;
use crate::settings::home::Home;
use crate::swarm::swarm::{Finder, Swarm};
use crate::vault::invite;
use crate::vault::network::Network;
use crate::vault::sealer::Sealer;

/// A network that this node is a member of.
pub(super) struct Joined {
    pub membership: Arc<Membership>,
    pub swarm: Arc<Swarm>,
    pub flights: Arc<Flights>,
}

/// What joining a network needs.
pub(super) struct SetUp {
    pub around: Arc<Around>,
    /// Beside those of each network.
    pub trackers: Vec<String>,
    pub service: Weak<NodeService>,
    pub cache: Arc<Cache>,
    pub origins: Arc<Origins>,
    pub runtime: Handle,
}

/// All of them.
#[derive(Default)]
pub(super) struct Networks {
    joined: RwLock<BTreeMap<NetworkId, Arc<Joined>>>,
    set_up: OnceLock<SetUp>,
}

/// What memberships need of the node.
pub(super) fn around(
    home: &Home,
    settings: &Settings,
    identity: &Identity,
    sealer: &Arc<Sealer>,
    cache: &Arc<Cache>,
    service: &Arc<NodeService>,
    datagrams: Option<Arc<dyn SendDatagram>>,
) -> Arc<Around> {
    let whole = {
        let cache = Arc::clone(cache);
        Box::new(move |content: &ContentId| cache.is_whole(*content))
    };
    let weak: Weak<NodeService> = Arc::downgrade(service);
    Arc::new(Around {
        identity: identity.clone(),
        sealer: Arc::clone(sealer),
        state_dir: home.state_dir().to_path_buf(),
        linger: settings.mount.linger.0,
        peers: settings.node.peers.clone(),
        remember: settings.node.remember,
        mesh: settings.node.mesh,
        datagrams,
        whole,
        whole_changes: cache.whole_changes(),
        service: OnceLock::from(weak as Weak<dyn crate::net::link::Service>),
    })
}

/// Peers that are asked whether they hold what no live peer shares.
const ASKED_AT_RANDOM: usize = 64;

/// Finds a file's sources among a network's live members.
struct Members {
    membership: Arc<Membership>,
    changes: watch::Sender<u64>,
    service: Weak<NodeService>,
    me: NodeId,
}

#[async_trait]
impl Finder for Members {
    fn sources(&self, content: &ContentId) -> Vec<Arc<dyn PeerLink>> {
        let listed = self.membership.sources(content);
        if !listed.is_empty() || self.is_calling(content) {
            return listed;
        }
        // Nobody who shares it is live. Others may hold it, or parts of it, in their caches: only they themselves know.
        let mut others = self.membership.links();
        others.truncate(ASKED_AT_RANDOM);
        others
    }

    fn is_calling(&self, content: &ContentId) -> bool {
        self.membership.is_calling(content)
    }

    fn me(&self) -> Option<NodeId> {
        Some(self.me)
    }

    fn brought(&self, node: &NodeId, bytes: usize) {
        let service = self.service.upgrade();
        if let (Some(link), Some(uploads)) = (self.membership.link(node), service.as_ref().and_then(|s| s.uploads())) {
            uploads.brought(&*link, bytes);
        }
    }

    async fn reach(&self, node: NodeId, addrs: &[SocketAddr], _: &ContentId) -> Option<Arc<dyn PeerLink>> {
        self.membership.reach_node(node, addrs).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

impl Networks {
    /// Once, before anything is joined.
    pub fn set_up(&self, set_up: SetUp) {
        let _ = self.set_up.set(set_up);
    }

    pub fn get(&self, id: &NetworkId) -> Option<Arc<Joined>> {
        self.joined.read().get(id).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Joined>> {
        self.joined.read().values().cloned().collect()
    }

    /// Joins, unless this home only has a tracker's key. The first view is not complete before the guard is dropped: what
    /// this node itself offers belongs to it. Blocks on the disk; needs tokio's context.
    pub fn join(&self, network: &Network) -> Option<Guard> {
        let set_up = self.set_up.get()?;
        let pending = Pending::default();
        let guard = pending.guard();
        let network = &network.with_trackers(&set_up.trackers);
        let membership = Membership::load(network, Arc::clone(&set_up.around), pending)?;
        let changes = watch::channel(0).0;
        let finder = Arc::new(Members {
            membership: Arc::clone(&membership),
            changes: changes.clone(),
            service: Weak::clone(&set_up.service),
            me: set_up.around.identity.node,
        });
        let (mut holders, mut sessions) = (membership.holders(), membership.sessions());
        set_up.runtime.spawn(async move {
            loop {
                let changed = tokio::select! {
                    changed = holders.changed() => changed,
                    changed = sessions.changed() => changed,
                };
                if changed.is_err() {
                    break;
                }
                changes.send_modify(|version| *version += 1);
            }
        });
        let (cache, origins) = (Arc::clone(&set_up.cache), Arc::clone(&set_up.origins));
        let keep = Arc::new(KeptFor { network: network.id(), cache, origins });
        let swarm = Swarm::new(finder, keep, &set_up.runtime);
        let joined = Joined { membership, swarm, flights: Flights::new() };
        let joined = Arc::new(joined);
        self.joined.write().insert(network.id(), Arc::clone(&joined));
        joined.membership.begin();
        Some(guard)
    }

    pub async fn leave(&self, id: &NetworkId) {
        let joined = self.joined.write().remove(id);
        if let Some(joined) = joined {
            joined.membership.stop().await;
        }
    }

    pub async fn leave_all(&self) {
        let all = std::mem::take(&mut *self.joined.write());
        futures_util::future::join_all(all.values().map(|joined| joined.membership.stop())).await;
    }

    /// What a network's catalog should now be. Blocks on the disk.
    pub fn publish(&self, network: NetworkId, entries: &[Entry]) {
        if let Some(joined) = self.get(&network)
            && let Err(error) = joined.membership.publish(entries)
        {
            tracing::error!(%error, "the catalog can't be published");
        }
    }
}

impl Networks {
    /// True if members of the network that `joined` is may have `content` from the cache: one of them publishes it, and this
    /// node fetched it there.
    pub fn may_have(&self, joined: &Joined, content: &ContentId) -> bool {
        let fetched = self.set_up.get().is_some_and(|set_up| set_up.origins.has(&joined.membership.id(), content));
        fetched && joined.membership.names(content)
    }
}

impl Joined {
    pub fn view(&self) -> Arc<ViewTree> {
        Arc::clone(&self.membership.view().borrow())
    }

    /// Waits until what is known has been heard, at most for `limit`.
    pub async fn settle(&self, limit: Duration) {
        let mut settled = self.membership.settled();
        let _ = tokio::time::timeout(limit, settled.wait_for(|settled| *settled)).await;
    }

    pub fn report(&self) -> NetworkReport {
        let view = self.view();
        NetworkReport {
            name: self.membership.name().to_owned(),
            id: self.membership.id().to_string(),
            member: true,
            trackers: self.membership.tracker_states(),
            peers: self.membership.live_peers(),
            connected: self.membership.links().len(),
            found: self.membership.found_by(),
            gossip: self.membership.gossip_members(),
            clock_apart: self.membership.clock_apart(),
            lag: self.membership.lag(),
            nodes: self.membership.catalog_count(),
            catalog_sum: self.membership.catalog_sum(),
            own_version: self.membership.own_version(),
            files: view.file_count() as u64,
            bytes: view.file_bytes(),
        }
    }
}

/// A network as the vault knows it, where no daemon runs (or it is not a member).
pub(super) fn idle_report(network: &Network) -> NetworkReport {
    let tracker =
        |address: &String| TrackerState { address: address.clone(), reachable: false, problem: None, nodes: 0 };
    NetworkReport {
        name: network.name().to_owned(),
        id: network.id().to_string(),
        member: network.member_psk().is_some(),
        trackers: network.trackers().iter().map(tracker).collect(),
        peers: 0,
        connected: 0,
        found: BTreeMap::new(),
        gossip: None,
        clock_apart: None,
        lag: LagReport::default(),
        nodes: 0,
        catalog_sum: String::new(),
        own_version: None,
        files: 0,
        bytes: 0,
    }
}

impl Node {
    /// Lets in members of the networks that are joined.
    pub(super) fn open_doors(&self) {
        let accesses = self.networks.all().iter().map(|joined| joined.membership.access().clone()).collect();
        self.accesses.send_replace(accesses);
    }

    /// The network called `name`, or the only one.
    pub(super) fn network(&self, name: Option<&str>) -> Result<Arc<Joined>, ControlError> {
        let id = {
            let vault = self.vault.lock();
            super::offline::pick_network(&vault, name)?.id()
        };
        let of_tracker = || ControlError::new(ErrorCode::Denied, "this home has only a tracker's key of that network");
        self.networks.get(&id).ok_or_else(of_tracker)
    }

    pub(super) async fn network_create(
        self: &Arc<Self>,
        name: &str,
        trackers: &[String],
    ) -> Result<String, ControlError> {
        let network = super::offline::new_network(name, trackers)?;
        self.add_network(network.clone()).await?;
        Ok(invite::write(&network))
    }

    pub(super) async fn network_join(self: &Arc<Self>, text: &str) -> Result<NetworkReport, ControlError> {
        let network = invite::read(text).map_err(wrong)?;
        self.add_network(network.clone()).await?;
        Ok(self.networks.get(&network.id()).map_or_else(|| idle_report(&network), |joined| joined.report()))
    }

    async fn add_network(self: &Arc<Self>, network: Network) -> Result<(), ControlError> {
        let node = Arc::clone(self);
        blocking(move || {
            node.vault.lock().add_network(network.clone()).map_err(wrong)?;
            let _first = node.networks.join(&network);
            // Nothing is offered yet; what was in an earlier life is withdrawn.
            node.networks.publish(network.id(), &[]);
            node.open_doors();
            Ok(())
        })
        .await
    }

    pub(super) fn network_list(&self) -> Vec<NetworkReport> {
        let networks = self.vault.lock().networks().to_vec();
        let report = |network: &Network| {
            self.networks.get(&network.id()).map_or_else(|| idle_report(network), |joined| joined.report())
        };
        networks.iter().map(report).collect()
    }

    pub(super) async fn network_leave(self: &Arc<Self>, name: &str) -> Result<(), ControlError> {
        let id = self.vault.lock().network(name).map_err(wrong)?.id();
        if let Some(mounted) = self.mounts.lock().iter().find(|mounted| mounted.joined.membership.id() == id) {
            let point = mounted.mount.config().point.display().to_string();
            return Err(ControlError::new(
                ErrorCode::Conflict,
                format!("network '{name}' is mounted: run flashget umount {point} first"),
            ));
        }
        super::offline::refuse_shared(&self.list.lock(), id, name)?;
        let node = Arc::clone(self);
        let name = name.to_owned();
        blocking(move || node.vault.lock().remove_network(&name).map_err(wrong)).await?;
        self.networks.leave(&id).await;
        self.open_doors();
        Ok(())
    }
}
