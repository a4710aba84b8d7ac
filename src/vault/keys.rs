//! Key types. Each wipes itself from memory when dropped, has no `Debug` that shows it, and is used for one purpose.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::base::ids::NetworkId;

/// Contexts for BLAKE3's key derivation. Hard-coded, unique and never reused, as its docs demand.
const NETWORK_ID: &str = "flashget 2026-11 network id";
const MEMBER_PSK: &str = "flashget 2026-11 member sessions psk";
const TRACKER_PSK: &str = "flashget 2026-11 tracker sessions psk";
const GOSSIP_KEY: &str = "flashget 2026-11 gossip datagrams";

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; 32]);

        impl $name {
            /// From bytes that came out of the vault or a derivation.
            pub fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The bytes, for handing to a cipher. Never log or copy them.
            pub fn expose(&self) -> &[u8; 32] {
                &self.0
            }

            /// A new random key from the operating system.
            pub fn random() -> Result<Self, getrandom::Error> {
                let mut bytes = [0; 32];
                getrandom::fill(&mut bytes)?;
                Ok(Self(bytes))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

secret! {
    /// What makes a node a member: everything else of a network is derived from it.
    NetworkKey
}
secret! {
    /// Noise pre-shared key of a session, for members or for trackers.
    Psk
}
secret! {
    /// Seals names, paths, catalogs, the index and the share list.
    NameKey
}
secret! {
    /// Seals the contents of the cache. Dropped by `lock`.
    ContentKey
}
secret! {
    /// Seals gossip datagrams.
    GossipKey
}

impl NetworkKey {
    /// The network's public id.
    pub fn id(&self) -> NetworkId {
        NetworkId(blake3::derive_key(NETWORK_ID, &self.0))
    }

    /// For sessions between members.
    pub fn member_psk(&self) -> Psk {
        Psk(blake3::derive_key(MEMBER_PSK, &self.0))
    }

    /// For sessions with trackers; a tracker may hold this alone.
    pub fn tracker_psk(&self) -> Psk {
        Psk(blake3::derive_key(TRACKER_PSK, &self.0))
    }

    /// For gossip.
    pub fn gossip_key(&self) -> GossipKey {
        GossipKey(blake3::derive_key(GOSSIP_KEY, &self.0))
    }
}
