//! What unlocks a vault, on its way from whoever typed it to the daemon. The socket is the user's own (mode 0600).

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::text::PathText;
use crate::vault::store::Unlock;

/// A text that is never shown, and wiped when dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// How a vault is unlocked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnlockBy {
    /// By this passphrase.
    Passphrase(Secret),
    /// By this key file, an absolute path.
    KeyFile(PathText),
}

impl From<UnlockBy> for Unlock {
    fn from(by: UnlockBy) -> Self {
        match by {
            UnlockBy::Passphrase(secret) => Self::Passphrase(Zeroizing::new(secret.0.clone())),
            UnlockBy::KeyFile(file) => Self::KeyFile(file.to_path()),
        }
    }
}

impl From<&Unlock> for UnlockBy {
    fn from(unlock: &Unlock) -> Self {
        match unlock {
            Unlock::Passphrase(passphrase) => Self::Passphrase(Secret::from(passphrase.as_str())),
            Unlock::KeyFile(file) => {
                Self::KeyFile(std::path::absolute(file).unwrap_or_else(|_| file.clone()).as_path().into())
            }
        }
    }
}
