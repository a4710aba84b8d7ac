//! The tracker's process: answers members of its home's networks, and notices networks that are added while it runs.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::errors::{cant_listen, wrong};
use super::tracking::Watched;
use crate::control::socket::ControlSocket;
use crate::control::{ControlError, ErrorCode};
use crate::net::handshake::{Access, Identity, Kind};
use crate::net::terse::{Limits, TerseListener};
use crate::settings::home::{Home, HomeError, HomeLock};
use crate::tracker::server::TrackerService;
use crate::tracker::store::{Memory, Store, StoreAt};
use crate::tracker::table::PING_EVERY;
use crate::tracker::tables::Tables;
use crate::vault::store::{Unlock, Vault, passing_identity};
use crate::web::text::TextServer;

/// How often the vault is looked at for new networks.
const LOOK: Duration = Duration::from_secs(2);
/// A session without a ping for so long is closed: its node has been dropped by then.
const IDLE: Duration = PING_EVERY.saturating_mul(4);

/// What a tracker runs with.
pub struct TrackerConfig {
    /// Whose networks it serves.
    pub home: Home,
    /// Opens its vault.
    pub unlock: Unlock,
    /// Where nodes ping.
    pub listen: SocketAddr,
    /// Sessions at once.
    pub max_sessions: u64,
    /// The same from one address.
    pub max_per_address: u64,
    /// Where the list of nodes is kept.
    pub store: StoreAt,
    /// Where figures are served for Prometheus.
    pub metrics: Option<SocketAddr>,
}

/// A running tracker.
pub struct Tracker {
    watched: Arc<Watched>,
    accesses: watch::Sender<Vec<Access>>,
    home: Home,
    unlock: Unlock,
    metrics: Option<TextServer>,
    /// Answers `tracker status`. The lock keeps other trackers of the home from taking its place.
    _status: Option<(ControlSocket, HomeLock)>,
}

fn accesses(home: &Home, unlock: &Unlock) -> Result<Vec<Access>, ControlError> {
    let vault = Vault::open(&home.vault_file(), unlock).map_err(wrong)?;
    let access = |network: &crate::vault::network::Network| Access {
        network: network.id(),
        psk: network.tracker_psk(),
        kind: Kind::Tracker,
    };
    Ok(vault.networks().iter().map(access).collect())
}

fn changed_at(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|meta| meta.modified()).ok()
}

async fn open_store(
    store: StoreAt,
    tables: Tables,
    accesses: watch::Receiver<Vec<Access>>,
) -> Result<Arc<dyn Store>, ControlError> {
    match store {
        StoreAt::Memory => Ok(Arc::new(Memory)),
        #[cfg(feature = "etcd")]
        StoreAt::Etcd(at) => {
            let keys = tokio::task::spawn_blocking(move || crate::tracker::etcd::Door::open(&at)).await;
            let door = keys.map_err(ControlError::failed)?.map_err(ControlError::invalid)?;
            Ok(crate::tracker::etcd::Etcd::start(door, tables, accesses))
        }
        #[cfg(not(feature = "etcd"))]
        StoreAt::Etcd(_) => {
            drop((tables, accesses));
            Err(ControlError::invalid(
                "this build of flashget has no etcd in it: build one with cargo build --release --features etcd, for which \
                 protoc is needed (Debian: protobuf-compiler)",
            ))
        }
    }
}

/// Where `tracker status` asks. A tracker works without.
fn status_socket(home: &Home, watched: &Arc<Watched>) -> Option<(ControlSocket, HomeLock)> {
    let bound = home.lock_tracker().and_then(|lock| {
        let path = home.tracker_socket()?;
        match ControlSocket::bind(&path, Arc::clone(watched) as _) {
            Ok(socket) => Ok((socket, lock)),
            Err(source) => Err(HomeError::Io { path, source }),
        }
    });
    bound.inspect_err(|error| tracing::warn!(%error, "flashget tracker status can't ask this tracker")).ok()
}

impl Tracker {
    /// Starts to listen.
    pub async fn start(config: TrackerConfig) -> Result<Self, ControlError> {
        let TrackerConfig { home, unlock, listen, max_sessions, max_per_address, store, metrics } = config;
        if !home.vault_file().exists() {
            let what =
                "there is no network to serve: run flashget network create NAME, or flashget network join INVITE";
            return Err(ControlError::new(ErrorCode::NotFound, what));
        }
        let first = accesses(&home, &unlock)?;
        if first.is_empty() {
            tracing::warn!("this home is in no network yet: nobody can use this tracker until it is");
        }
        let accesses = watch::channel(first).0;
        let (node, sign) = passing_identity().map_err(wrong)?;
        let identity = Identity { node, sign: Arc::new(sign), name: "tracker".into(), listens: Vec::new() };
        // Two runs at one nanosecond are not possible on one address.
        let boot = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
        let tables = Tables::new(boot, store != StoreAt::Memory);
        let store = open_store(store, tables.clone(), accesses.subscribe()).await?;
        let service = TrackerService::new(tables, store);
        let limits = Limits { sessions: max_sessions, per_address: max_per_address, idle: IDLE };
        let listener = TerseListener::bind(listen, identity, accesses.subscribe(), Arc::clone(&service) as _, limits);
        let listener = listener.map_err(|error| cant_listen(listen, "--listen", &error))?;
        let watched = Arc::new(Watched::new(listener, service, limits, accesses.subscribe()));
        let metrics = match metrics {
            Some(addr) => {
                let shown = Arc::clone(&watched);
                let server = TextServer::bind(addr, "/metrics", move || shown.exposition()).await;
                Some(server.map_err(|error| cant_listen(addr, "--metrics", &error))?)
            }
            None => None,
        };
        let status = status_socket(&home, &watched);
        tracing::info!(listen = %watched.listen_addr(), networks = accesses.borrow().len(), "the tracker is up");
        Ok(Self { watched, accesses, home, unlock, metrics, _status: status })
    }

    /// Where it listens.
    pub fn listen_addr(&self) -> SocketAddr {
        self.watched.listen_addr()
    }

    /// Where its figures are served.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(TextServer::local_addr)
    }

    /// How many networks it serves.
    pub fn networks(&self) -> usize {
        self.accesses.borrow().len()
    }

    /// Takes in networks that are added or left. Never returns.
    pub async fn follow_vault(&self) {
        let file = self.home.vault_file();
        let mut seen = changed_at(&file);
        loop {
            tokio::time::sleep(LOOK).await;
            let now = changed_at(&file);
            if now == seen {
                continue;
            }
            seen = now;
            let (home, unlock) = (self.home.clone(), self.unlock.clone());
            match tokio::task::spawn_blocking(move || accesses(&home, &unlock)).await {
                Ok(Ok(new)) => {
                    tracing::info!(networks = new.len(), "the networks of this home have changed");
                    self.accesses.send_replace(new);
                }
                Ok(Err(error)) => tracing::warn!(%error, "the vault can't be read again"),
                Err(error) => tracing::error!(%error, "reading the vault failed"),
            }
        }
    }
}
