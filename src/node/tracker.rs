//! The tracker's process: answers members of its home's networks, and notices networks that are added while it runs.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::errors::wrong;
use crate::control::{ControlError, ErrorCode};
use crate::net::handshake::{Access, Identity, Kind};
use crate::net::listen::Listener;
use crate::settings::home::Home;
use crate::tracker::server::TrackerService;
use crate::vault::store::{Unlock, Vault, passing_identity};

/// How often the vault is looked at for new networks.
const LOOK: Duration = Duration::from_secs(2);

/// A running tracker.
pub struct Tracker {
    listener: Listener,
    service: Arc<TrackerService>,
    accesses: watch::Sender<Vec<Access>>,
    home: Home,
    unlock: Unlock,
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

impl Tracker {
    /// Starts to listen.
    pub async fn start(home: Home, unlock: Unlock, listen: SocketAddr) -> Result<Self, ControlError> {
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
        let service = TrackerService::new(boot);
        let identities = watch::channel(identity).1;
        let listener = Listener::bind(listen, identities, accesses.subscribe(), Arc::clone(&service) as _).await;
        let listener = listener.map_err(|error| {
            let code = match error.kind() {
                std::io::ErrorKind::AddrInUse => ErrorCode::Conflict,
                _ => ErrorCode::Failed,
            };
            let what = format!("can't listen on {listen}: {error}; choose another address with --listen");
            ControlError::new(code, what)
        })?;
        tracing::info!(listen = %listener.local_addr(), networks = accesses.borrow().len(), "the tracker is up");
        Ok(Self { listener, service, accesses, home, unlock })
    }

    /// Where it listens.
    pub fn listen_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// How many networks it serves.
    pub fn networks(&self) -> usize {
        self.accesses.borrow().len()
    }

    /// Active nodes of each network.
    pub fn counts(&self) -> Vec<(crate::base::ids::NetworkId, usize)> {
        self.service.counts()
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
