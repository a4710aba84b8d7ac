//! Sealing of gossip datagrams: members alone can read or make them.
//!
//! Format: one version byte, a 24-byte random nonce, XChaCha20-Poly1305 ciphertext with its 16-byte tag. The plaintext begins
//! with the sender's clock (`u32 BE`, seconds since 1970): what is older than [`WINDOW`] is refused, so that a datagram
//! that an outsider recorded is of no use to him for longer than members remember who has left.

use std::time::Duration;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use super::keys::GossipKey;

const VERSION: u8 = 1;
const NONCE: usize = 24;
const CLOCK: usize = 4;
const CONTEXT: &[u8] = b"flashget 2026-11 gossip datagram";

/// Bytes that sealing adds.
pub const OVERHEAD: usize = 1 + NONCE + CLOCK + 16;
/// How far the sender's clock may be from this one's.
pub const WINDOW: Duration = Duration::from_secs(30 * 60);

/// Why a datagram is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It is nobody's of this network, or damaged.
    Foreign,
    /// A member made it, and by its clock, in seconds since 1970, that is too far from now.
    Untimely(u32),
}

/// See the module.
pub struct DatagramSealer(XChaCha20Poly1305);

impl std::fmt::Debug for DatagramSealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DatagramSealer(..)")
    }
}

impl DatagramSealer {
    /// For one network.
    pub fn new(key: &GossipKey) -> Self {
        // The cipher wipes its own key.
        Self(XChaCha20Poly1305::new(key.expose().into()))
    }

    /// Seals what is sent at `wall`, in seconds since 1970.
    pub fn seal(&self, plain: &[u8], wall: u32) -> Result<Vec<u8>, getrandom::Error> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce)?;
        let message = [&wall.to_be_bytes(), plain].concat();
        let sealed = self.0.encrypt(&XNonce::from(nonce), Payload { msg: &message, aad: &associated() });
        // Encrypting into a Vec fails only beyond 256 GiB.
        Ok([&[VERSION], &nonce[..], &sealed.unwrap_or_default()].concat())
    }

    /// Opens what came at `wall`: when it was sealed, by the sender's clock, and what is in it.
    pub fn open(&self, sealed: &[u8], wall: u32) -> Result<(u32, Vec<u8>), Refused> {
        let (sent, plain) = self.decrypt(sealed).ok_or(Refused::Foreign)?;
        if u64::from(sent.abs_diff(wall)) > WINDOW.as_secs() {
            return Err(Refused::Untimely(sent));
        }
        Ok((sent, plain))
    }

    fn decrypt(&self, sealed: &[u8]) -> Option<(u32, Vec<u8>)> {
        let (version, rest) = sealed.split_first()?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE>()?;
        if *version != VERSION {
            return None;
        }
        let payload = Payload { msg: ciphertext, aad: &associated() };
        let mut plain = self.0.decrypt(&XNonce::from(*nonce), payload).ok()?;
        let sent = u32::from_be_bytes(*plain.first_chunk()?);
        plain.drain(..CLOCK);
        Some((sent, plain))
    }
}

fn associated() -> Vec<u8> {
    [CONTEXT, &[VERSION]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::keys::NetworkKey;

    #[test]
    fn what_members_seal_opens_for_members_in_its_time_alone() {
        let sealer = |tag: u8| DatagramSealer::new(&NetworkKey::from_bytes([tag; 32]).gossip_key());
        let (ours, theirs, wall) = (sealer(1), sealer(2), 1_000_000);
        let sealed = ours.seal(b"hello", wall).unwrap();
        assert_eq!(sealed.len(), 5 + OVERHEAD);
        assert_eq!(ours.open(&sealed, wall + 1800), Ok((wall, b"hello".to_vec())));
        assert_eq!(ours.open(&sealed, wall - 1800), Ok((wall, b"hello".to_vec())));
        for far in [wall + 1801, wall - 1801] {
            assert_eq!(ours.open(&sealed, far), Err(Refused::Untimely(wall)));
        }
        assert_eq!(theirs.open(&sealed, wall), Err(Refused::Foreign));
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert_eq!(ours.open(&altered, wall), Err(Refused::Foreign), "byte {at}");
            assert_eq!(ours.open(&sealed[..at], wall), Err(Refused::Foreign));
        }
    }
}
