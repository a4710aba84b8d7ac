//! The content key while the vault is unlocked: one place for all that seals and opens cached contents, so that locking
//! takes it from everybody at once.

use std::sync::Arc;

use parking_lot::RwLock;

use super::block::BlockKey;
use super::keys::ContentKey;
use crate::base::ids::ContentId;

/// The vault is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the vault is locked")]
pub struct Locked;

/// See the module.
pub struct ContentLock(RwLock<Option<ContentKey>>);

impl ContentLock {
    /// Unlocked, with this key.
    pub fn new(key: ContentKey) -> Arc<Self> {
        Arc::new(Self(RwLock::new(Some(key))))
    }

    /// True while there is no key.
    pub fn is_locked(&self) -> bool {
        self.0.read().is_none()
    }

    /// Wipes the key.
    pub fn lock(&self) {
        *self.0.write() = None;
    }

    /// Brings a key back.
    pub fn unlock(&self, key: ContentKey) {
        *self.0.write() = Some(key);
    }

    /// The ciphers of one content's records.
    pub fn block_key(&self, content: ContentId) -> std::io::Result<BlockKey> {
        let key = self.0.read();
        let key = key.as_ref().ok_or_else(|| std::io::Error::other(Locked))?;
        BlockKey::new(key, content).map_err(std::io::Error::other)
    }
}
