//! One network, as a member or a tracker holds it.

use serde::{Deserialize, Serialize};

use super::keys::{GossipKey, NetworkKey, Psk};
use crate::base::ids::NetworkId;
use crate::base::limits::MAX_NETWORK_NAME;

/// A network's name that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a network's name has 1 to 64 bytes, no '/', no leading '-', no control characters")]
pub struct BadNetworkName;

/// What this node holds of a network's secrets.
#[derive(Clone, Debug)]
pub enum NetworkSecret {
    /// A member holds the key.
    Member(NetworkKey),
    /// A tracker holds only what its own sessions need: it learns NodeIds and addresses, no names and no contents.
    TrackerOnly {
        /// The network's id.
        id: NetworkId,
        /// For sessions with trackers.
        psk: Psk,
    },
}

/// A network in the vault.
#[derive(Clone, Debug)]
pub struct Network {
    name: String,
    secret: NetworkSecret,
    trackers: Vec<String>,
}

impl Network {
    /// Checks the name.
    pub fn new(name: &str, secret: NetworkSecret, trackers: Vec<String>) -> Result<Self, BadNetworkName> {
        let deceptive = crate::base::escape::for_terminal(name.as_bytes()) != name;
        let wrong = name.is_empty() || name.len() > MAX_NETWORK_NAME || name.contains('/') || name.starts_with('-');
        if wrong || deceptive {
            return Err(BadNetworkName);
        }
        Ok(Self { name: name.to_owned(), secret, trackers })
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its id.
    pub fn id(&self) -> NetworkId {
        match &self.secret {
            NetworkSecret::Member(key) => key.id(),
            NetworkSecret::TrackerOnly { id, .. } => *id,
        }
    }

    /// For sessions with members; `None` for a tracker's.
    pub fn member_psk(&self) -> Option<Psk> {
        match &self.secret {
            NetworkSecret::Member(key) => Some(key.member_psk()),
            NetworkSecret::TrackerOnly { .. } => None,
        }
    }

    /// For gossip among members; `None` for a tracker's.
    pub fn gossip_key(&self) -> Option<GossipKey> {
        match &self.secret {
            NetworkSecret::Member(key) => Some(key.gossip_key()),
            NetworkSecret::TrackerOnly { .. } => None,
        }
    }

    /// For sessions with trackers.
    pub fn tracker_psk(&self) -> Psk {
        match &self.secret {
            NetworkSecret::Member(key) => key.tracker_psk(),
            NetworkSecret::TrackerOnly { psk, .. } => psk.clone(),
        }
    }

    /// `HOST:PORT` of its trackers.
    pub fn trackers(&self) -> &[String] {
        &self.trackers
    }

    /// The same network with more trackers.
    pub fn with_trackers(&self, more: &[String]) -> Self {
        let mut network = self.clone();
        for tracker in more {
            if !network.trackers.contains(tracker) {
                network.trackers.push(tracker.clone());
            }
        }
        network
    }

    /// The same network for a tracker: without the key.
    pub fn for_tracker(&self) -> Self {
        let secret = NetworkSecret::TrackerOnly { id: self.id(), psk: self.tracker_psk() };
        Self { name: self.name.clone(), secret, trackers: self.trackers.clone() }
    }
}

/// How a network is written into an invite and into the vault. Secret: only ever inside sealed bytes or an invite.
#[derive(Serialize, Deserialize)]
pub(super) struct Packed {
    version: u8,
    name: String,
    key: Option<serde_bytes::ByteArray<32>>,
    tracker: Option<(NetworkId, serde_bytes::ByteArray<32>)>,
    trackers: Vec<String>,
    /// Room for the key of somebody who may put members out (DESIGN, "Seams").
    admin: Option<serde_bytes::ByteBuf>,
}

impl Packed {
    pub(super) fn of(network: &Network) -> Self {
        let (key, tracker) = match &network.secret {
            NetworkSecret::Member(key) => (Some((*key.expose()).into()), None),
            NetworkSecret::TrackerOnly { id, psk } => (None, Some((*id, (*psk.expose()).into()))),
        };
        let (name, trackers) = (network.name.clone(), network.trackers.clone());
        Self { version: 1, name, key, tracker, trackers, admin: None }
    }

    pub(super) fn open(self) -> Option<Network> {
        let secret = match (self.key, self.tracker) {
            (Some(key), None) => NetworkSecret::Member(NetworkKey::from_bytes(key.into_array())),
            (None, Some((id, psk))) => NetworkSecret::TrackerOnly { id, psk: Psk::from_bytes(psk.into_array()) },
            _ => return None,
        };
        if self.version != 1 || self.trackers.len() > 64 {
            return None;
        }
        Network::new(&self.name, secret, self.trackers).ok()
    }
}
