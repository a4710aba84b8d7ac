//! Sealing and opening one record of the cache, in place: the hot path of every cached read.
//!
//! Record: a 32-byte header (see [`Header`]), the ciphertext, a 16-byte tag. Associated data: the header, the file's root
//! and size, and the chunk's index, so that a record that is edited, swapped, or left over from another file does not open.
//!
//! Cipher: AES-256-GCM where the CPU has AES, XChaCha20-Poly1305 elsewhere; every build opens both. Keys are derived per
//! file from the content key; nonces are random. GCM's 96-bit random nonces are good for 2^32 records of one key (NIST SP
//! 800-38D, 8.3), which is a petabyte of one file's chunks.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::keys::ContentKey;
use crate::base::ids::ContentId;

/// Bytes of a record's header.
pub const HEADER: usize = 32;
/// Bytes of a record's tag.
pub const TAG: usize = 16;

const VERSION: u8 = 1;
const AES: u8 = 1;
const XCHACHA: u8 = 2;
const CONTEXT: &str = "flashget 2026-11 sealing of cached contents";

/// A record that does not open: damaged, swapped, or sealed under another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sealed record does not open")]
pub struct DoesNotOpen;

/// What stands before the ciphertext: version, cipher, flags (none yet), 1 reserved byte, u32 LE length of the
/// ciphertext, 24 bytes of nonce (AES uses the first 12; the rest is zero).
struct Header([u8; HEADER]);

impl Header {
    fn new(cipher: u8, len: usize, nonce: &[u8]) -> Self {
        let mut bytes = [0; HEADER];
        bytes[0] = VERSION;
        bytes[1] = cipher;
        // A chunk's length fits 32 bits.
        bytes[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        bytes[8..8 + nonce.len()].copy_from_slice(nonce);
        Self(bytes)
    }
}

/// Length of the ciphertext in a record that begins with `header`, if it is a header of ours.
pub fn sealed_len(header: &[u8]) -> Option<usize> {
    let header: &[u8; HEADER] = header.get(..HEADER)?.try_into().ok()?;
    let known = header[0] == VERSION && matches!(header[1], AES | XCHACHA) && header[2] == 0 && header[3] == 0;
    known.then(|| u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize)
}

/// The ciphers of one file's records.
pub struct BlockKey {
    content: ContentId,
    aes: LessSafeKey,
    xchacha: XChaCha20Poly1305,
    use_aes: bool,
}

impl std::fmt::Debug for BlockKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlockKey(..)")
    }
}

/// True if the CPU does AES in hardware.
pub fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
    return false;
}

impl BlockKey {
    /// Derives the key of one file.
    pub fn new(key: &ContentKey, content: ContentId) -> Result<Self, DoesNotOpen> {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(key.expose()).update(&content.root.0).update(&content.size.to_le_bytes());
        let mut derived = Zeroizing::new([0; 64]);
        hasher.finalize_xof().fill(derived.as_mut_slice());
        let (for_aes, for_xchacha) = derived.split_at(32);
        let aes = UnboundKey::new(&AES_256_GCM, for_aes).map_err(|_| DoesNotOpen)?;
        let xchacha = XChaCha20Poly1305::new_from_slice(for_xchacha).map_err(|_| DoesNotOpen)?;
        Ok(Self { content, aes: LessSafeKey::new(aes), xchacha, use_aes: has_aes() })
    }

    fn associated(&self, header: &[u8; HEADER], index: u64) -> [u8; HEADER + 48] {
        let mut aad = [0; HEADER + 48];
        aad[..HEADER].copy_from_slice(header);
        aad[HEADER..HEADER + 32].copy_from_slice(&self.content.root.0);
        aad[HEADER + 32..HEADER + 40].copy_from_slice(&self.content.size.to_le_bytes());
        aad[HEADER + 40..].copy_from_slice(&index.to_le_bytes());
        aad
    }

    /// Replaces what is in `record` by the sealed record of `plain` as chunk `index`.
    pub fn seal(&self, index: u64, plain: &[u8], record: &mut Vec<u8>) -> Result<(), DoesNotOpen> {
        let mut nonce = [0; 24];
        let nonce = if self.use_aes { &mut nonce[..12] } else { &mut nonce[..] };
        getrandom::fill(nonce).map_err(|_| DoesNotOpen)?;
        let header = Header::new(if self.use_aes { AES } else { XCHACHA }, plain.len(), nonce);
        let aad = self.associated(&header.0, index);
        record.clear();
        record.extend_from_slice(&header.0);
        record.extend_from_slice(plain);
        let body = &mut record[HEADER..];
        if self.use_aes {
            let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| DoesNotOpen)?;
            let tag = self.aes.seal_in_place_separate_tag(nonce, Aad::from(aad), body).map_err(|_| DoesNotOpen)?;
            record.extend_from_slice(tag.as_ref());
        } else {
            let nonce: [u8; 24] = (&*nonce).try_into().map_err(|_| DoesNotOpen)?;
            let sealed = self.xchacha.encrypt_inout_detached(&XNonce::from(nonce), &aad, body.into());
            record.extend_from_slice(&sealed.map_err(|_| DoesNotOpen)?);
        }
        Ok(())
    }

    /// Opens the record in place; the plain bytes are `record[HEADER..HEADER + n]`, and `n` is returned.
    pub fn open(&self, index: u64, record: &mut [u8]) -> Result<usize, DoesNotOpen> {
        let len = sealed_len(record).ok_or(DoesNotOpen)?;
        if record.len() < HEADER + len + TAG {
            return Err(DoesNotOpen);
        }
        let (header, rest) = record.split_at_mut(HEADER);
        let header: &[u8; HEADER] = (&*header).try_into().map_err(|_| DoesNotOpen)?;
        let aad = self.associated(header, index);
        let sealed = &mut rest[..len + TAG];
        if header[1] == AES {
            let nonce = Nonce::try_assume_unique_for_key(&header[8..20]).map_err(|_| DoesNotOpen)?;
            self.aes.open_in_place(nonce, Aad::from(aad), sealed).map_err(|_| DoesNotOpen)?;
        } else {
            let nonce: [u8; 24] = header[8..32].try_into().map_err(|_| DoesNotOpen)?;
            let (body, tag) = sealed.split_at_mut(len);
            let tag = Tag::try_from(&*tag).map_err(|_| DoesNotOpen)?;
            let opened = self.xchacha.decrypt_inout_detached(&XNonce::from(nonce), &aad, body.into(), &tag);
            opened.map_err(|_| DoesNotOpen)?;
        }
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Root;
    use proptest::prelude::*;

    fn key(tag: u8, use_aes: bool) -> BlockKey {
        let content = ContentId { root: Root([tag; 32]), size: 1 << 20 };
        BlockKey { use_aes, ..BlockKey::new(&ContentKey::from_bytes([9; 32]), content).unwrap() }
    }

    proptest! {
        #[test]
        fn opens_only_as_what_it_was_sealed(
            plain in proptest::collection::vec(any::<u8>(), 0..2000), index: u64, aes: bool,
            at: prop::sample::Index, bit in 0u8..8,
        ) {
            let mut record = Vec::new();
            key(1, aes).seal(index, &plain, &mut record).unwrap();
            let sealed = record.clone();
            // Either kind is opened by a machine of the other.
            let len = key(1, !aes).open(index, &mut record).unwrap();
            prop_assert_eq!(&record[HEADER..HEADER + len], &plain[..]);

            let refused = |key: &BlockKey, index: u64, record: &[u8]| key.open(index, &mut record.to_vec()).is_err();
            prop_assert!(refused(&key(2, aes), index, &sealed));
            prop_assert!(refused(&key(1, aes), index ^ 1, &sealed));
            let mut bad = sealed.clone();
            let at = at.index(bad.len());
            bad[at] ^= 1 << bit;
            prop_assert!(refused(&key(1, aes), index, &bad));
            prop_assert!(refused(&key(1, aes), index, &sealed[..at]));
        }
    }
}
