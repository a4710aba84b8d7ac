//! Finding out in what two nodes' knowledge differs, at a cost that follows the difference.
//!
//! What is known of each node is hashed; the hashes of the nodes in a bucket (by the first byte of their id) are combined by
//! XOR, so that one change costs one step. Two nodes compare one number; if it differs, 256; and then tell each other what
//! they know in the buckets that differ. A collision hides a difference from the exchange until the next change in that
//! bucket, and from nothing else: what is new is told at once, too.

use crate::base::ids::NodeId;
use crate::wire::message::{Buckets, CatalogVersion, MemberRecord};

/// How many buckets there are.
pub const BUCKETS: usize = 256;

/// The sums of what one node knows.
#[derive(Clone, PartialEq, Eq)]
pub struct SumTable([u64; BUCKETS]);

impl Default for SumTable {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl std::fmt::Debug for SumTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SumTable({:016x})", self.total())
    }
}

fn first_8(hash: &blake3::Hash) -> u64 {
    u64::from_le_bytes(*hash.as_bytes().first_chunk().unwrap_or(&[0; 8]))
}

fn hash_of(node: &NodeId, a: u64, b: u64) -> u64 {
    let mut bytes = [0; 48];
    bytes[..32].copy_from_slice(&node.0);
    bytes[32..40].copy_from_slice(&a.to_le_bytes());
    bytes[40..].copy_from_slice(&b.to_le_bytes());
    first_8(&blake3::hash(&bytes))
}

/// The bucket that `node` is in.
pub fn bucket_of(node: &NodeId) -> usize {
    usize::from(node.0[0])
}

impl SumTable {
    /// Takes a catalog's place in, or out again.
    pub fn toggle_version(&mut self, version: &CatalogVersion) {
        self.0[bucket_of(&version.node)] ^= hash_of(&version.node, version.epoch, version.version);
    }

    /// Takes in what is known of a member, or out again. How often it refuted its death does not matter.
    pub fn toggle_member(&mut self, member: &MemberRecord) {
        self.0[bucket_of(&member.node)] ^= hash_of(&member.node, member.generation.into(), member.down.into());
    }

    /// All of it in one number.
    pub fn total(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        self.0.iter().for_each(|sum| {
            hasher.update(&sum.to_le_bytes());
        });
        first_8(&hasher.finalize())
    }

    /// What an asker with this total is told: nothing if it knows the same.
    pub fn answer(&self, theirs: u64) -> Vec<u64> {
        if theirs == self.total() { Vec::new() } else { self.0.to_vec() }
    }

    /// The buckets that differ from `theirs`; `None` if that is no answer.
    pub fn differ(&self, theirs: &[u64]) -> Option<BucketSet> {
        if theirs.is_empty() {
            return Some(BucketSet::default());
        }
        let theirs: &[u64; BUCKETS] = theirs.try_into().ok()?;
        let mut set = BucketSet::default();
        (0..BUCKETS).filter(|at| self.0[*at] != theirs[*at]).for_each(|at| set.insert(at));
        Some(set)
    }
}

impl FromIterator<CatalogVersion> for SumTable {
    fn from_iter<I: IntoIterator<Item = CatalogVersion>>(versions: I) -> Self {
        let mut table = Self::default();
        versions.into_iter().for_each(|version| table.toggle_version(&version));
        table
    }
}

impl FromIterator<MemberRecord> for SumTable {
    fn from_iter<I: IntoIterator<Item = MemberRecord>>(members: I) -> Self {
        let mut table = Self::default();
        members.into_iter().for_each(|member| table.toggle_member(&member));
        table
    }
}

/// A set of buckets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BucketSet([u8; BUCKETS / 8]);

impl BucketSet {
    fn insert(&mut self, bucket: usize) {
        self.0[bucket / 8] |= 1 << (bucket % 8);
    }

    /// True if `node` is in one of them.
    pub fn has(&self, node: &NodeId) -> bool {
        let bucket = bucket_of(node);
        self.0[bucket / 8] & (1 << (bucket % 8)) != 0
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; BUCKETS / 8]
    }

    /// Takes out as many of them as hold `most` of these nodes at most (and one in any case): what is too much for one message
    /// comes by and by.
    pub fn take_some<'a>(&mut self, nodes: impl Iterator<Item = &'a NodeId>, most: usize) -> Self {
        let mut counts = [0; BUCKETS];
        nodes.for_each(|node| counts[bucket_of(node)] += 1);
        let mut some = Self::default();
        let mut room = most;
        for (bucket, count) in counts.into_iter().enumerate() {
            let (byte, bit) = (bucket / 8, 1 << (bucket % 8));
            if self.0[byte] & bit == 0 {
                continue;
            }
            if !some.is_empty() && count > room {
                break;
            }
            some.0[byte] |= bit;
            self.0[byte] &= !bit;
            room = room.saturating_sub(count);
        }
        some
    }
}

impl From<BucketSet> for Buckets {
    fn from(set: BucketSet) -> Self {
        Self(set.0)
    }
}

impl From<Buckets> for BucketSet {
    fn from(buckets: Buckets) -> Self {
        Self(buckets.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn versions(of: &[(u16, u64)]) -> Vec<CatalogVersion> {
        let mut all = std::collections::BTreeMap::new();
        for (tag, version) in of {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&tag.to_be_bytes());
            all.insert(id, *version);
        }
        all.into_iter().map(|(id, version)| CatalogVersion { node: NodeId(id), epoch: 1, version }).collect()
    }

    proptest! {
        #[test]
        fn what_differs_is_in_the_buckets_that_differ(
            a in proptest::collection::vec((any::<u16>(), 1u64..4), 0..60),
            b in proptest::collection::vec((any::<u16>(), 1u64..4), 0..60),
            most in 1usize..9,
        ) {
            let (a, b) = (versions(&a), versions(&b));
            let (sums_a, sums_b): (SumTable, SumTable) = (a.iter().copied().collect(), b.iter().copied().collect());
            let set = sums_a.differ(&sums_b.answer(sums_a.total())).unwrap();
            for version in a.iter().filter(|version| !b.contains(version)).chain(b.iter().filter(|v| !a.contains(v))) {
                prop_assert!(set.has(&version.node));
            }
            prop_assert_eq!(set.is_empty(), a == b);
            // By and by, all of them, and few nodes at a time.
            let (mut rest, mut taken) = (set, 0);
            while !rest.is_empty() {
                let some = rest.take_some(a.iter().map(|version| &version.node), most);
                let nodes = a.iter().filter(|version| some.has(&version.node)).count();
                let in_one = a.iter().filter(|version| some.has(&version.node)).map(|v| bucket_of(&v.node));
                prop_assert!(nodes <= most || in_one.collect::<std::collections::BTreeSet<_>>().len() == 1);
                taken += nodes;
            }
            prop_assert_eq!(taken, a.iter().filter(|version| set.has(&version.node)).count());
            let (again, mut table): (Buckets, _) = (set.into(), sums_b.clone());
            prop_assert_eq!(BucketSet::from(again), set);
            // One change, and back.
            if let Some(version) = a.first() {
                table.toggle_version(version);
                prop_assert!(table != sums_b);
                table.toggle_version(version);
                prop_assert_eq!(table, sums_b);
            }
        }
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_none() {
        assert!(SumTable::default().differ(&[1, 2, 3]).is_none());
        assert!(SumTable::default().differ(&[0; BUCKETS]).unwrap().is_empty());
    }
}
