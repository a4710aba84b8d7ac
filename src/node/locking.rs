//! `lock`, `unlock`, `passphrase change`: the keys of contents leave memory and come back. Membership goes on meanwhile, and
//! names stay listed.

use std::sync::Arc;

use super::errors::wrong;
use super::{Node, blocking};
use crate::control::secret::UnlockBy;
use crate::control::{ControlError, ErrorCode};
use crate::vault::store::{Unlock, Vault, VaultError};

impl Node {
    /// Wipes the keys and what was opened with them, and has the kernel forget what it has cached. Returns once nobody can
    /// read any more.
    pub(super) async fn lock_vault(self: &Arc<Self>) -> Result<(), ControlError> {
        let node = Arc::clone(self);
        blocking(move || {
            {
                // Both at once, as in `unlock_vault`.
                let mut vault = node.vault.lock();
                vault.lock();
                node.cache.lock();
            }
            let mounts = node.mounts.lock().clone();
            mounts.iter().for_each(|mounted| mounted.mount.forget_contents());
            tracing::info!("locked");
            Ok(())
        })
        .await
    }

    /// Opens the vault anew and takes its keys.
    pub(super) async fn unlock_vault(self: &Arc<Self>, by: UnlockBy) -> Result<(), ControlError> {
        let node = Arc::clone(self);
        blocking(move || {
            let file = node.vault.lock().file().to_owned();
            // Without the lock: Argon2id takes its time.
            let opened = Vault::open(&file, &Unlock::from(by)).map_err(wrong)?;
            let mut vault = node.vault.lock();
            vault.unlock(opened).map_err(wrong)?;
            node.cache.unlock(vault.content_key().map_err(wrong)?.clone());
            tracing::info!("unlocked");
            Ok(())
        })
        .await
    }

    /// Has the vault unlocked by `new` from now on, if it is unlocked by `old` now.
    pub(super) async fn rekey_vault(self: &Arc<Self>, old: UnlockBy, new: UnlockBy) -> Result<(), ControlError> {
        let node = Arc::clone(self);
        blocking(move || rekey(&mut node.vault.lock(), old, new)).await
    }

    /// For what would hand out contents.
    pub(super) fn refuse_locked(&self) -> Result<(), ControlError> {
        if self.cache.is_locked() { Err(wrong(VaultError::Locked)) } else { Ok(()) }
    }
}

/// The same for any open vault.
pub(super) fn rekey(vault: &mut Vault, old: UnlockBy, new: UnlockBy) -> Result<(), ControlError> {
    // Whoever changes it must know it: an unattended terminal is not enough.
    Vault::open(vault.file(), &Unlock::from(old)).map_err(wrong)?;
    let new = Unlock::from(new);
    if let Unlock::Passphrase(passphrase) = &new
        && passphrase.is_empty()
    {
        return Err(ControlError::new(ErrorCode::Invalid, "the new passphrase is empty"));
    }
    vault.change(&new).map_err(wrong)
}
