//! The BLAKE3 tree of a file: subtree hashes of chunks and groups, and the proof that bytes belong to a root.
//!
//! BLAKE3 is a binary tree over 1 KiB leaves, so the hash of an aligned power-of-two piece of a file is the value of a
//! node of that tree (`blake3::hazmat`). A chunk's value needs its offset; merging chunk values gives the group's, and
//! merging group values gives the root. A file of one chunk has no inner node: its chunk value **is** the root.
//! Source: the BLAKE3 paper, section 2.1 ("tree structure"), and the docs of `blake3::hazmat`.

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::chunks::{CHUNK, GROUP_CHUNKS, chunk_count, chunk_len, chunk_start, group_chunks, group_count};
use super::ids::{ContentId, Root, SubtreeHash};

/// What does not fit the root that it was claimed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadProof {
    /// The number of hashes is not what the size asks for.
    #[error("the manifest has a wrong number of hashes")]
    Count,
    /// The hashes do not merge to what they must.
    #[error("the manifest does not match the file's hash")]
    Hash,
    /// The bytes do not hash to what the manifest says.
    #[error("the bytes do not match the file's hash")]
    Bytes,
}

/// The subtree value of chunk `index` of a file of `size` bytes; `bytes` must be the whole chunk.
/// For a file of one chunk this is the file's root.
pub fn chunk_hash(size: u64, index: u64, bytes: &[u8]) -> SubtreeHash {
    if chunk_count(size) <= 1 {
        return SubtreeHash(*blake3::hash(bytes).as_bytes());
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(chunk_start(index));
    hasher.update(bytes);
    SubtreeHash(hasher.finalize_non_root())
}

/// Merges subtree values from the left: the left part is the largest power of two that leaves something on the right.
/// `top` says whether the last merge is the file's root.
fn merge(hashes: &[SubtreeHash], top: bool) -> [u8; 32] {
    match hashes {
        [] => *blake3::hash(&[]).as_bytes(),
        [only] => only.0,
        _ => {
            let left_len = hashes.len().next_power_of_two() / 2;
            let (left, right) = hashes.split_at(left_len);
            let (left, right) = (merge(left, false), merge(right, false));
            if top {
                *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()
            } else {
                merge_subtrees_non_root(&left, &right, Mode::Hash)
            }
        }
    }
}

/// All chunk hashes of one file, as its source keeps them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    size: u64,
    chunks: Vec<SubtreeHash>,
}

impl Manifest {
    /// From chunk hashes in order. Fails if their number does not fit `size`.
    pub fn new(size: u64, chunks: Vec<SubtreeHash>) -> Result<Self, BadProof> {
        if chunks.len() as u64 == chunk_count(size) { Ok(Self { size, chunks }) } else { Err(BadProof::Count) }
    }

    /// What the file is.
    pub fn content(&self) -> ContentId {
        ContentId { root: Root(merge(&self.chunks, true)), size: self.size }
    }

    /// Chunk hashes, in order.
    pub fn chunks(&self) -> &[SubtreeHash] {
        &self.chunks
    }

    /// The first level: one hash per group, in order.
    pub fn groups(&self) -> Vec<SubtreeHash> {
        let top = group_count(self.size) == 1;
        self.chunks.chunks(GROUP_CHUNKS as usize).map(|group| SubtreeHash(merge(group, top))).collect()
    }

    /// The second level for group `group`: its chunks' hashes; empty if there is no such group.
    pub fn group(&self, group: u64) -> &[SubtreeHash] {
        let range = group_chunks(self.size, group);
        self.chunks.get(range.start as usize..range.end as usize).unwrap_or(&[])
    }
}

/// A manifest as a downloader gets it: the groups first, each group's chunks as they are needed. Nothing unproved
/// gets in.
#[derive(Clone, Debug)]
pub struct Proof {
    content: ContentId,
    groups: Vec<SubtreeHash>,
    chunks: Vec<Option<Box<[SubtreeHash]>>>,
}

impl Proof {
    /// Checks that group hashes merge to the root. The claimed size is trusted only once the last chunk is verified.
    pub fn new(content: ContentId, groups: Vec<SubtreeHash>) -> Result<Self, BadProof> {
        if groups.len() as u64 != group_count(content.size) {
            return Err(BadProof::Count);
        }
        if merge(&groups, true) != content.root.0 {
            return Err(BadProof::Hash);
        }
        let mut chunks = vec![None; groups.len()];
        if chunk_count(content.size) == 1 {
            chunks[0] = Some(groups.clone().into_boxed_slice());
        }
        Ok(Self { content, groups, chunks })
    }

    /// The file that this proves.
    pub fn content(&self) -> ContentId {
        self.content
    }

    /// True if the chunk hashes of `group` are known.
    pub fn has_group(&self, group: u64) -> bool {
        self.chunks.get(group as usize).is_some_and(Option::is_some)
    }

    /// Checks and keeps the chunk hashes of `group`.
    pub fn add_group(&mut self, group: u64, hashes: Vec<SubtreeHash>) -> Result<(), BadProof> {
        let range = group_chunks(self.content.size, group);
        if hashes.is_empty() || hashes.len() as u64 != range.end - range.start {
            return Err(BadProof::Count);
        }
        if merge(&hashes, self.groups.len() == 1) != self.groups[group as usize].0 {
            return Err(BadProof::Hash);
        }
        self.chunks[group as usize] = Some(hashes.into_boxed_slice());
        Ok(())
    }

    /// The first level, as it may be kept and passed on.
    pub fn groups(&self) -> &[SubtreeHash] {
        &self.groups
    }

    /// The second level of `group`, if it is known.
    pub fn group(&self, group: u64) -> Option<&[SubtreeHash]> {
        self.chunks.get(group as usize)?.as_deref()
    }

    /// The expected hash of chunk `index`, if its group is known.
    pub fn chunk(&self, index: u64) -> Option<SubtreeHash> {
        let group = self.group(index / GROUP_CHUNKS)?;
        group.get((index % GROUP_CHUNKS) as usize).copied()
    }

    /// Verifies `bytes` as chunk `index`. `None` if the group's hashes are not there yet.
    pub fn verify(&self, index: u64, bytes: Bytes) -> Option<Result<VerifiedChunk, BadProof>> {
        Some(verify_chunk(self.content, index, self.chunk(index)?, bytes))
    }
}

/// Verifies `bytes` as chunk `index` of `content` against the chunk's hash, which the caller has proved or computed.
pub fn verify_chunk(
    content: ContentId,
    index: u64,
    expected: SubtreeHash,
    bytes: Bytes,
) -> Result<VerifiedChunk, BadProof> {
    if bytes.len() != chunk_len(content.size, index) || chunk_hash(content.size, index, &bytes) != expected {
        return Err(BadProof::Bytes);
    }
    Ok(VerifiedChunk { content, index, bytes })
}

/// The bytes of one chunk that are proved to belong to their file. Can only be had by verification (or from the sealed
/// cache, whose records authenticate root, size and index; see [`VerifiedChunk::from_sealed`]).
#[derive(Clone, Debug)]
pub struct VerifiedChunk {
    content: ContentId,
    index: u64,
    bytes: Bytes,
}

impl VerifiedChunk {
    /// For the cache alone: bytes that a sealed record bound to this very chunk when it was verified.
    /// `None` if the length is not the chunk's.
    pub fn from_sealed(content: ContentId, index: u64, bytes: Bytes) -> Option<Self> {
        (bytes.len() == chunk_len(content.size, index)).then_some(Self { content, index, bytes })
    }

    /// The file.
    pub fn content(&self) -> ContentId {
        self.content
    }

    /// Which chunk of it.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The bytes; cheap to clone.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// Hashes a whole file that is already in memory (tests, small files).
pub fn manifest_of(bytes: &[u8]) -> Manifest {
    let size = bytes.len() as u64;
    let chunks = bytes.chunks(CHUNK as usize).enumerate().map(|(i, chunk)| chunk_hash(size, i as u64, chunk)).collect();
    Manifest { size, chunks }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(size: usize) -> Vec<u8> {
        (0..size).map(|i| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[5]).collect()
    }

    /// Sizes at which a level of the tree begins or ends.
    fn sizes() -> Vec<usize> {
        let c = CHUNK as usize;
        vec![0, 1, 1024, 1025, c - 1, c, c + 1, 2 * c, 3 * c + 7, 255 * c + 1, 256 * c, 256 * c + 1, 513 * c + 5]
    }

    #[test]
    fn the_root_is_what_b3sum_prints() {
        for size in sizes() {
            let bytes = sample(size);
            assert_eq!(manifest_of(&bytes).content().root.0, *blake3::hash(&bytes).as_bytes(), "size {size}");
        }
    }

    #[test]
    fn a_manifest_proves_itself_and_every_chunk() {
        for size in sizes() {
            let bytes = sample(size);
            let manifest = manifest_of(&bytes);
            let content = manifest.content();
            let mut proof = Proof::new(content, manifest.groups()).unwrap();
            for group in 0..group_count(content.size) {
                proof.add_group(group, manifest.group(group).to_vec()).unwrap();
            }
            for (index, chunk) in bytes.chunks(CHUNK as usize).enumerate() {
                let chunk = Bytes::copy_from_slice(chunk);
                assert!(proof.verify(index as u64, chunk).unwrap().is_ok(), "size {size} chunk {index}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn no_lie_passes(size in 1usize..CHUNK as usize * 5, at: prop::sample::Index, bit in 0u8..8) {
            let bytes = sample(size);
            let manifest = manifest_of(&bytes);
            let content = manifest.content();
            let mut proof = Proof::new(content, manifest.groups()).unwrap();
            let at = at.index(size);
            let chunk = at / CHUNK as usize;

            let mut wrong = manifest.group(0).to_vec();
            wrong[chunk].0[bit as usize] ^= 1 << bit;
            prop_assert!(Proof::new(content, wrong.clone()).is_err());
            if manifest.chunks().len() > 1 {
                prop_assert!(proof.add_group(0, wrong).is_err());
            }
            proof.add_group(0, manifest.group(0).to_vec()).unwrap();

            let range = chunk * CHUNK as usize..((chunk + 1) * CHUNK as usize).min(size);
            let mut bad = bytes[range.clone()].to_vec();
            bad[at - range.start] ^= 1 << bit;
            prop_assert!(proof.verify(chunk as u64, bad.into()).unwrap().is_err());
            prop_assert!(proof.verify(chunk as u64, bytes[range.start..range.end - 1].to_vec().into()).unwrap().is_err());
            prop_assert!(proof.verify(chunk as u64, bytes[range].to_vec().into()).unwrap().is_ok());
        }
    }
}
