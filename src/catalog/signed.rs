//! Signed snapshots and deltas, as they go over the wire and to disk. Anyone may pass them on, nobody can forge them.
//!
//! Each version of a catalog has a chain value: the BLAKE3 of the signed delta that led to it. A delta names the chain
//! value that it follows, a snapshot the one that it stands at; so both ways lead to the same place or to an error.

use serde::{Deserialize, Serialize};

use super::entry::{Entry, EntryRef};
use super::pack::Pack;
use crate::base::clock::Timestamp;
use crate::base::ids::{NetworkId, NodeId};
use crate::base::names::{ValidPath, check_path};
use crate::vault::store::verify;

const SNAPSHOT: &[u8] = b"flashget 2026-11 catalog snapshot";
const DELTA: &[u8] = b"flashget 2026-11 catalog delta";
/// Bytes of one catalog's body: about 3 million entries.
pub const MAX_BODY: usize = 256 << 20;

/// The chain value of a catalog's first version.
pub const CHAIN_START: [u8; 32] = [0; 32];

/// Why a catalog is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// Not what it should be.
    #[error("a malformed catalog")]
    Malformed,
    /// Not signed by the node that it names.
    #[error("a catalog with a wrong signature")]
    Signature,
    /// For another network or node, or older than what is there.
    #[error("a catalog that does not belong here")]
    Place,
    /// A delta that does not follow what is there: its owner published in two ways at once. Nobody's lie.
    #[error("a change of a catalog that does not follow what is there")]
    Chain,
    /// More than anybody should publish.
    #[error("a catalog that is too large")]
    TooLarge,
    /// Whoever passes it on begins again and again, or brings it in crumbs. Its owner's fault, perhaps, who publishes
    /// without pause.
    #[error("a catalog that comes to no end")]
    Endless,
}

/// What a snapshot's owner signs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SnapshotHead {
    /// In which network.
    pub network: NetworkId,
    /// Whose.
    pub node: NodeId,
    /// Its epoch.
    pub epoch: u64,
    /// Its version.
    pub version: u64,
    /// When it was made, by its owner's clock.
    pub at: Timestamp,
    /// The chain value that it stands at.
    #[serde(with = "serde_bytes")]
    pub chain: [u8; 32],
    /// BLAKE3 of the body.
    #[serde(with = "serde_bytes")]
    pub body_hash: [u8; 32],
    /// Bytes of the body.
    pub body_len: u64,
}

/// What a delta's owner signs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Delta {
    /// In which network.
    pub network: NetworkId,
    /// Whose.
    pub node: NodeId,
    /// Its epoch.
    pub epoch: u64,
    /// The version that it leads to; it follows the one before.
    pub version: u64,
    /// When it was made, by its owner's clock.
    pub at: Timestamp,
    /// The chain value that it follows.
    #[serde(with = "serde_bytes")]
    pub follows: [u8; 32],
    /// Entries that are gone.
    pub removed: Vec<ValidPath>,
    /// Entries that are new or other than before.
    pub put: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    #[serde(with = "serde_bytes")]
    message: Vec<u8>,
    #[serde(with = "serde_bytes")]
    signature: Vec<u8>,
}

/// Signs a message with the node's key.
pub type SignWith<'a> = &'a dyn Fn(&[u8]) -> [u8; 64];

fn seal<T: Serialize>(domain: &[u8], value: &T, sign: SignWith<'_>) -> Result<Vec<u8>, CatalogError> {
    let message = rmp_serde::to_vec(value).map_err(|_| CatalogError::Malformed)?;
    let signature = sign(&[domain, &message].concat()).to_vec();
    rmp_serde::to_vec(&Envelope { message, signature }).map_err(|_| CatalogError::Malformed)
}

fn read<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<(Envelope, T), CatalogError> {
    let envelope: Envelope = rmp_serde::from_slice(bytes).map_err(|_| CatalogError::Malformed)?;
    let value: T = rmp_serde::from_slice(&envelope.message).map_err(|_| CatalogError::Malformed)?;
    Ok((envelope, value))
}

fn open<T: for<'de> Deserialize<'de>>(
    domain: &[u8],
    bytes: &[u8],
    who: impl Fn(&T) -> NodeId,
) -> Result<T, CatalogError> {
    let (envelope, value) = read(bytes)?;
    let signature: &[u8; 64] = envelope.signature.as_slice().try_into().map_err(|_| CatalogError::Signature)?;
    if verify(who(&value), &[domain, &envelope.message].concat(), signature) {
        Ok(value)
    } else {
        Err(CatalogError::Signature)
    }
}

impl SnapshotHead {
    /// Signs and encodes.
    pub fn seal(&self, sign: SignWith<'_>) -> Result<Vec<u8>, CatalogError> {
        seal(SNAPSHOT, self, sign)
    }

    /// Decodes and verifies.
    pub fn open(bytes: &[u8]) -> Result<Self, CatalogError> {
        let head: Self = open(SNAPSHOT, bytes, |head: &Self| head.node)?;
        if head.body_len > MAX_BODY as u64 { Err(CatalogError::TooLarge) } else { Ok(head) }
    }
}

impl Delta {
    /// Signs and encodes.
    pub fn seal(&self, sign: SignWith<'_>) -> Result<Vec<u8>, CatalogError> {
        seal(DELTA, self, sign)
    }

    /// Decodes and verifies.
    pub fn open(bytes: &[u8]) -> Result<Self, CatalogError> {
        open(DELTA, bytes, |delta: &Self| delta.node)
    }

    /// Decodes what a chain value vouches for, which is as good as its signature.
    pub fn read(bytes: &[u8]) -> Result<Self, CatalogError> {
        read(bytes).map(|(_, delta)| delta)
    }
}

/// The chain value of a signed delta.
pub fn chain_of(signed_delta: &[u8]) -> [u8; 32] {
    *blake3::hash(signed_delta).as_bytes()
}

/// Where in a signed delta what lies: offsets from its first byte.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Located {
    /// Of the paths that are gone.
    pub removed: Vec<u32>,
    /// Of the entries that are new or other than before.
    pub put: Vec<u32>,
}

impl Located {
    /// Finds them, and checks that each is valid.
    pub fn within(signed: &[u8]) -> Option<Self> {
        let mut envelope = Pack::new(signed);
        if envelope.array()? != 2 {
            return None;
        }
        let message = envelope.bin()?;
        let start = envelope.at() - message.len();
        let mut pack = Pack::new(message);
        if pack.array()? != 8 {
            return None;
        }
        // Network and node, epoch and version, the time, and the chain value: these were looked at before.
        let _ = (pack.bin()?, pack.bin()?, pack.uint()?, pack.uint()?);
        if pack.array()? != 2 {
            return None;
        }
        let _ = (pack.int()?, pack.uint()?, pack.bin()?);
        let mut located = Self::default();
        for _ in 0..pack.array()? {
            located.removed.push(u32::try_from(start + pack.at()).ok()?);
            check_path(pack.bin()?).ok()?;
        }
        for _ in 0..pack.array()? {
            located.put.push(u32::try_from(start + pack.at()).ok()?);
            EntryRef::take(&mut pack).filter(EntryRef::is_valid)?;
        }
        (pack.at() == message.len()).then_some(located)
    }
}
