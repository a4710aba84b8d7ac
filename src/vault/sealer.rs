//! Sealing of names, paths and whatever else must not be readable in the home: small blobs under the name key.
//!
//! Format: one version byte, a 24-byte random nonce, XChaCha20-Poly1305 ciphertext with its 16-byte tag. The purpose
//! and the caller's associated data are authenticated, so that a blob can't be moved to where another belongs.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use super::keys::NameKey;

const VERSION: u8 = 1;
const NONCE: usize = 24;
const HASH_CONTEXT: &str = "flashget 2026-11 keyed hashes of names";
const SEAL_CONTEXT: &str = "flashget 2026-11 sealing of names";

/// A blob did not open: wrong key, wrong place, or damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sealed record does not open")]
pub struct DoesNotOpen;

/// Seals and opens small blobs, and hashes names so that they can serve as keys on disk.
pub struct Sealer {
    cipher: XChaCha20Poly1305,
    hash_key: [u8; 32],
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(..)")
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        // The cipher wipes its own key.
        zeroize::Zeroize::zeroize(&mut self.hash_key);
    }
}

impl Sealer {
    /// Derives its keys from the name key.
    pub fn new(key: &NameKey) -> Self {
        let mut seal_key = blake3::derive_key(SEAL_CONTEXT, key.expose());
        let cipher = XChaCha20Poly1305::new(&seal_key.into());
        zeroize::Zeroize::zeroize(&mut seal_key);
        Self { cipher, hash_key: blake3::derive_key(HASH_CONTEXT, key.expose()) }
    }

    /// Seals `plain` for `purpose` (a constant of the calling module) and `place` (what it belongs to, such as a key).
    pub fn seal(&self, purpose: &str, place: &[u8], plain: &[u8]) -> Result<Vec<u8>, getrandom::Error> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce)?;
        let aad = associated(purpose, place);
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), Payload { msg: plain, aad: &aad });
        // Encrypting into a Vec fails only beyond 256 GiB.
        let sealed = sealed.unwrap_or_default();
        let mut out = Vec::with_capacity(1 + NONCE + sealed.len());
        out.push(VERSION);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        Ok(out)
    }

    /// Opens what [`Sealer::seal`] made for the same purpose and place.
    pub fn open(&self, purpose: &str, place: &[u8], sealed: &[u8]) -> Result<Vec<u8>, DoesNotOpen> {
        let (version, rest) = sealed.split_first().ok_or(DoesNotOpen)?;
        let (nonce, ciphertext) = rest.split_at_checked(NONCE).ok_or(DoesNotOpen)?;
        let nonce: [u8; NONCE] = nonce.try_into().map_err(|_| DoesNotOpen)?;
        if *version != VERSION {
            return Err(DoesNotOpen);
        }
        let aad = associated(purpose, place);
        self.cipher.decrypt(&XNonce::from(nonce), Payload { msg: ciphertext, aad: &aad }).map_err(|_| DoesNotOpen)
    }

    /// A keyed hash: the same name gives the same 32 bytes, which say nothing without the key.
    pub fn hash(&self, purpose: &str, name: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.hash_key, &associated(purpose, name)).as_bytes()
    }
}

fn associated(purpose: &str, place: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(9 + purpose.len() + place.len());
    out.push(VERSION);
    out.extend_from_slice(&(purpose.len() as u64).to_le_bytes());
    out.extend_from_slice(purpose.as_bytes());
    out.extend_from_slice(place);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn opens_only_where_and_as_it_was_sealed(plain: Vec<u8>, place: Vec<u8>, at: prop::sample::Index, bit in 0u8..8) {
            let sealer = Sealer::new(&NameKey::from_bytes([7; 32]));
            let sealed = sealer.seal("p", &place, &plain).unwrap();
            prop_assert_eq!(sealer.open("p", &place, &sealed), Ok(plain));
            prop_assert!(sealer.open("q", &place, &sealed).is_err());
            prop_assert!(sealer.open("p", &[&place[..], b"x"].concat(), &sealed).is_err());
            prop_assert!(Sealer::new(&NameKey::from_bytes([8; 32])).open("p", &place, &sealed).is_err());
            let mut bad = sealed.clone();
            let at = at.index(bad.len());
            bad[at] ^= 1 << bit;
            prop_assert!(sealer.open("p", &place, &bad).is_err());
            prop_assert!(sealer.open("p", &place, &sealed[..at]).is_err());
        }
    }
}
