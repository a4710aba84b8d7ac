//! The one place that wires all the layers into a daemon: [`Node`]. Beside it what works on a home without a daemon
//! ([`offline`]) and the tracker's process ([`tracker`]).

mod control;
mod datagrams;
mod errors;
mod figures;
mod lan;
mod getting;
mod caring;
mod locking;
mod looking;
mod mounts;
mod networks;
pub mod offline;
mod origins;
mod parts;
mod revival;
mod service;
mod shares;
mod space;
pub mod tracker;
mod tracking;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::cache::{Cache, CacheLimits};
use crate::control::ControlError;
use crate::control::socket::ControlSocket;
use crate::members::membership::SendDatagram;
use crate::net::handshake::{Access, Identity};
use crate::net::link::Service;
use crate::net::listen::Listener;
use crate::settings::address::parse_host_port;
use crate::settings::file::{NODE_PORT, Settings, TRACKER_PORT};
use crate::settings::home::{Home, HomeLock};
use crate::share::list::ShareList;
use crate::share::sharer::{Config as SharerConfig, Looked, Sharer};
use crate::swarm::uploads::Uploads;
use crate::swarm::uploads::admission::UploadLimits;
use crate::vault::network::Network;
use crate::vault::sealer::Sealer;
use crate::vault::store::{Unlock, Vault};
use crate::web::text::TextServer;

use control::NodeControl;
use datagrams::gossip_port;
use errors::cant_listen;
pub(crate) use errors::wrong;
use lan::Lan;
use mounts::Mounted;
pub(crate) use mounts::{no_folder, resolved, still_mounted};
use networks::{Networks, SetUp};
use origins::Origins;
use service::NodeService;

/// The default listening address; if its port is taken, another one will do.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), NODE_PORT);

/// A daemon that was started for a mount, and is asked for none within this time, was started by somebody who has gone.
const UNASKED: Duration = Duration::from_secs(10);
/// How long to wait for the home's lock while a daemon ends (it may have a cache to write) or another one begins.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// How to run a node.
pub struct NodeConfig {
    /// Its home.
    pub home: Home,
    /// Its settings, with what the command line changed.
    pub settings: Settings,
    /// How its vault is unlocked.
    pub unlock: Unlock,
    /// It ends by itself once it has neither mount nor share.
    pub ends_when_idle: bool,
}

/// A running daemon.
pub struct Node {
    home: Home,
    settings: Settings,
    /// What unlocked the vault, if it was a key file.
    keyfile: Option<PathBuf>,
    /// Trackers beside those of the networks.
    trackers: Vec<String>,
    ends_when_idle: bool,
    vault: Mutex<Vault>,
    sealer: Arc<Sealer>,
    identity: Identity,
    accesses: watch::Sender<Vec<Access>>,
    listen: SocketAddr,
    cache: Arc<Cache>,
    origins: Arc<Origins>,
    sharer: Arc<Sharer>,
    list: Mutex<ShareList>,
    networks: Arc<Networks>,
    mounts: Mutex<Vec<Arc<Mounted>>>,
    /// Where they are written down; locked for as long as that takes.
    mounts_file: Mutex<PathBuf>,
    /// Mounts that are being made.
    mounting: AtomicUsize,
    /// A mount has come up, or a share was added: somebody wanted this daemon.
    wanted: AtomicBool,
    /// Mounts of a daemon that was killed have been made anew, as far as that was possible.
    revived: watch::Sender<bool>,
    runtime: Handle,
    stop: watch::Sender<bool>,
    began: Instant,
    /// Kept for as long as the node runs.
    listener: Mutex<Option<Listener>>,
    /// The same, where the settings ask for it.
    figures: Mutex<Option<TextServer>>,
    lan: Mutex<Option<Lan>>,
    /// Memberships refer to it weakly.
    service: Arc<NodeService>,
    _lock: HomeLock,
}

impl Node {
    /// Starts a node: takes the home's lock, opens the vault, and joins its networks. Returns once it can be asked.
    pub async fn start(config: NodeConfig) -> Result<Arc<Self>, ControlError> {
        let NodeConfig { home, settings, unlock, ends_when_idle } = config;
        let runtime = Handle::current();
        let full = |text: &String| parse_host_port(text, TRACKER_PORT).map_err(wrong);
        let trackers = settings.node.trackers.iter().map(full).collect::<Result<Vec<_>, _>>()?;
        let keyfile = match &unlock {
            Unlock::KeyFile(file) => std::path::absolute(file).ok(),
            Unlock::Passphrase(_) => None,
        };
        let (lock, vault) = {
            let (home, unlock) = (home.clone(), unlock.clone());
            blocking(move || {
                let lock = home.lock_when_free(LOCK_PATIENCE).map_err(wrong)?;
                Ok((lock, Vault::open_or_create(&home.vault_file(), &unlock).map_err(wrong)?))
            })
            .await?
        };
        let sealer = Arc::new(Sealer::new(vault.name_key()));
        let (name, node) = (node_name(&settings), vault.node());
        let mut identity = Identity { node, sign: Arc::new(vault.signer()), name, listens: Vec::new() };
        let networks = Arc::new(Networks::default());
        let service = NodeService::new(Arc::clone(&networks), settings.limits.download_rate());
        let accesses = watch::channel(Vec::new()).0;
        let identities = watch::channel(identity.clone()).0;
        let bind = |addr| {
            let service: Arc<dyn Service> = Arc::clone(&service) as _;
            Listener::bind(addr, identities.subscribe(), accesses.subscribe(), service)
        };
        let listener = listen(settings.node.listen, bind).await?;
        let listen = listener.local_addr();
        identity.listens = vec![settings.node.advertise.unwrap_or(listen)];
        identities.send_replace(identity.clone());

        let cache = open_cache(&home, &settings, &vault, &sealer).await?;
        let origins = load_origins(&home, &sealer, &cache).await?;
        let datagrams = if settings.node.gossip { gossip_port(listen) } else { None };
        let sender = datagrams.clone().map(|datagrams| datagrams as Arc<dyn SendDatagram>);
        let around = networks::around(&home, &settings, &identity, &sealer, &cache, &service, sender);
        networks.set_up(SetUp {
            around,
            trackers: trackers.clone(),
            service: Arc::downgrade(&service),
            cache: Arc::clone(&cache),
            origins: Arc::clone(&origins),
            runtime: runtime.clone(),
        });
        let (list, sharer) = {
            let (home, sealer, networks) = (home.clone(), Arc::clone(&sealer), Arc::clone(&networks));
            let members: Vec<_> = vault.networks().to_vec();
            let (threads, never) = (threads(&settings), own_folders(&home, &settings));
            blocking(move || {
                let list = ShareList::load(&offline::share_list_file(&home), &sealer).map_err(wrong)?;
                let looked = first_looks(&networks, &members, &list);
                let index = home.state_dir().join("index");
                let config = SharerConfig { index, sealer: Arc::clone(&sealer), threads, never, looked };
                let publish = Box::new(move |network, entries: Vec<_>| networks.publish(network, &entries));
                let sharer = Sharer::start(config, list.shares().to_vec(), publish).map_err(ControlError::failed)?;
                Ok((list, Arc::new(sharer)))
            })
            .await?
        };
        let uploads = Uploads::new(
            &identity,
            Arc::clone(sharer.sources()),
            Arc::clone(&cache),
            UploadLimits { rate: settings.limits.upload_rate(), slots: settings.limits.slots() },
            &runtime,
        );
        service.serve_from(uploads);
        let mounts_file = Mutex::new(home.state_dir().join("mounts"));
        let node = Arc::new(Self {
            home,
            settings,
            keyfile,
            trackers,
            ends_when_idle,
            vault: Mutex::new(vault),
            sealer,
            identity,
            accesses,
            listen,
            cache,
            origins,
            sharer,
            list: Mutex::new(list),
            networks,
            mounts: Mutex::default(),
            mounts_file,
            mounting: AtomicUsize::new(0),
            wanted: AtomicBool::new(false),
            // A daemon that a mount starts is there for that mount.
            revived: watch::channel(ends_when_idle).0,
            runtime,
            stop: watch::channel(false).0,
            began: Instant::now(),
            listener: Mutex::new(Some(listener)),
            figures: Mutex::default(),
            lan: Mutex::default(),
            service,
            _lock: lock,
        });
        node.open_doors();
        if let Some(datagrams) = datagrams {
            let networks = Arc::downgrade(&node.networks);
            node.runtime.spawn(async move { datagrams.receive(networks).await });
        }
        node.serve_figures().await?;
        if let Some(lan) = node.settings.node.lan.then(|| lan::announce(listen)).flatten() {
            node.runtime.spawn(lan.look(Arc::downgrade(&node.networks)));
            *node.lan.lock() = Some(lan);
        }
        node.runtime.spawn(origins::keep_saved(Arc::downgrade(&node.origins)));
        if !ends_when_idle {
            node.runtime.spawn(Arc::clone(&node).revive());
        }
        if ends_when_idle {
            let weak = Arc::downgrade(&node);
            node.runtime.spawn(async move {
                tokio::time::sleep(UNASKED).await;
                if let Some(node) = weak.upgrade() {
                    node.end_if_idle();
                }
            });
        }
        tracing::info!(node = %node.identity.node.short(12), listen = %node.listen, "the daemon is up");
        Ok(node)
    }

    /// Serves figures for Prometheus, if the settings say so.
    async fn serve_figures(self: &Arc<Self>) -> Result<(), ControlError> {
        let Some(addr) = self.settings.node.metrics else { return Ok(()) };
        let weak = Arc::downgrade(self);
        let make = move || weak.upgrade().map(|node| figures::exposition(&node.status())).unwrap_or_default();
        let server = TextServer::bind(addr, "/metrics", make).await;
        let server = server.map_err(|error| cant_listen(addr, "--set node.metrics=ADDR:PORT", &error))?;
        *self.figures.lock() = Some(server);
        Ok(())
    }

    /// Opens the control socket.
    pub fn listen_for_control(self: &Arc<Self>) -> std::io::Result<ControlSocket> {
        ControlSocket::bind(
            &self.home.socket().map_err(std::io::Error::other)?,
            Arc::new(NodeControl(Arc::clone(self))),
        )
    }

    /// The first digits of this node's id.
    pub fn short_id(&self) -> String {
        self.identity.node.short(12)
    }

    /// Where peers connect to.
    pub fn listen_addr(&self) -> SocketAddr {
        self.listen
    }

    /// Becomes true when the node should end: it was asked to, or it is idle and was started for a mount.
    pub fn should_stop(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Asks the node to end.
    pub fn ask_to_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Unmounts, says goodbye, and brings everything to disk.
    pub async fn shut_down(self: &Arc<Self>) {
        let node = Arc::clone(self);
        let mounts = std::mem::take(&mut *self.mounts.lock());
        // Dropping a mount detaches it, which may take a moment.
        let _ = tokio::task::spawn_blocking(move || drop(mounts)).await;
        self.listener.lock().take();
        self.figures.lock().take();
        let lan = self.lan.lock().take();
        if let Some(lan) = lan {
            lan.take_back().await;
        }
        self.networks.leave_all().await;
        let _ = tokio::task::spawn_blocking(move || {
            node.sharer.stop();
            node.cache.close();
            node.origins.save();
            // None of them is left.
            node.save_mounts();
        })
        .await;
        tracing::info!("the daemon has ended");
    }

    /// Ends a daemon that was started for a mount once nothing needs it. One whose mount failed has no business sharing.
    fn end_if_idle(&self) {
        // In this order: a mount is listed before it is no longer under way.
        let idle = self.mounting.load(Ordering::Acquire) == 0
            && self.mounts.lock().is_empty()
            && (!self.wanted.load(Ordering::Acquire) || self.list.lock().shares().is_empty());
        if self.ends_when_idle && idle {
            self.ask_to_stop();
        }
    }
}

/// Joins the networks. The first view of each is complete only once the shares in it have been looked at, which the
/// function that is returned hears of. Blocks on the disk; needs tokio's context.
fn first_looks(networks: &Networks, members: &[Network], list: &ShareList) -> Looked {
    let mut held = BTreeMap::new();
    for network in members {
        let id = network.id();
        let guard = networks.join(network);
        if list.shares().iter().any(|share| share.network == id) {
            held.insert(id, guard);
        } else {
            // Shares that were removed while no daemon ran.
            networks.publish(id, &[]);
        }
    }
    let held = Mutex::new(held);
    Box::new(move |network| drop(held.lock().remove(&network)))
}

fn node_name(settings: &Settings) -> String {
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    settings.node.name.clone().unwrap_or_else(host)
}

fn threads(settings: &Settings) -> usize {
    match settings.share.threads {
        0 => std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
        threads => threads,
    }
}

/// The folder of its own that the cache has in the one that the settings name, which may hold anything else.
const CACHE_FOLDER: &str = "flashget-cache";

/// Where sealed chunks are kept.
pub(crate) fn cache_dir(home: &Home, settings: &Settings) -> PathBuf {
    let named = settings.cache.dir.as_ref().map(|dir| std::path::absolute(dir).unwrap_or_else(|_| dir.clone()));
    named.map_or_else(|| home.cache_dir().into(), |dir| dir.join(CACHE_FOLDER))
}

/// Where this node keeps files of its own, the cache included: never shared, never mounted over. Paths as they are named,
/// and without symlinks.
fn own_folders(home: &Home, settings: &Settings) -> Vec<PathBuf> {
    let mut all = home.folders();
    all.push(cache_dir(home, settings));
    let real: Vec<PathBuf> = all.iter().filter_map(|folder| folder.canonicalize().ok()).collect();
    all.extend(real);
    all.sort();
    all.dedup();
    all
}

async fn open_cache(
    home: &Home,
    settings: &Settings,
    vault: &Vault,
    sealer: &Arc<Sealer>,
) -> Result<Arc<Cache>, ControlError> {
    let key = vault.content_key().map_err(wrong)?.clone();
    let (dir, sealer) = (cache_dir(home, settings), Arc::clone(sealer));
    let limits = CacheLimits { disk: settings.cache.disk.map(|size| size.0), ram: settings.cache.ram.0 };
    blocking(move || Cache::open(&dir, &key, sealer, limits).map_err(wrong)).await
}

async fn load_origins(home: &Home, sealer: &Arc<Sealer>, cache: &Arc<Cache>) -> Result<Arc<Origins>, ControlError> {
    let (file, sealer, cache) = (home.state_dir().join("origins"), Arc::clone(sealer), Arc::clone(cache));
    blocking(move || Ok(Origins::load(file, sealer, |content| !cache.held(*content).is_empty()))).await
}

/// Listens on `addr`; if that is the default and its port is taken (by another user's daemon, say), on any port.
async fn listen<F, B>(addr: SocketAddr, bind: B) -> Result<Listener, ControlError>
where
    B: Fn(SocketAddr) -> F,
    F: Future<Output = std::io::Result<Listener>>,
{
    let taken = |error: &std::io::Error| error.kind() == std::io::ErrorKind::AddrInUse;
    let bound = match bind(addr).await {
        Err(error) if taken(&error) && addr == DEFAULT_LISTEN => {
            tracing::warn!(port = NODE_PORT, "the default port is taken: another one is used");
            bind(SocketAddr::new(addr.ip(), 0)).await
        }
        bound => bound,
    };
    bound.map_err(|error| cant_listen(addr, "--listen", &error))
}

/// Runs what blocks off tokio's workers.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ControlError> + Send + 'static,
) -> Result<T, ControlError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ControlError::failed(format!("an internal error, see the log: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_folder_of_the_users_choice_is_the_nodes_own_and_what_lies_beside_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("disk/flashget-cache")).unwrap();
        std::os::unix::fs::symlink(root.join("disk"), root.join("link")).unwrap();
        let home = Home::below(&root.join("home"));
        let mut settings = Settings::default();
        assert_eq!(cache_dir(&home, &settings), root.join("home/cache"));
        settings.cache.dir = Some(root.join("link"));
        let own = own_folders(&home, &settings);
        for folder in ["link/flashget-cache", "disk/flashget-cache", "home/cache", "home/state"] {
            assert!(own.contains(&root.join(folder)), "{folder}: {own:?}");
        }
        assert!(!own.contains(&root.join("disk")) && !own.contains(&root.join("link")));
    }
}
