//! Where what stands in a cache file: arithmetic only. docs/FORMAT.md has the same in words.

use crate::base::chunks::{CHUNK, GROUP_CHUNKS, chunk_count, group_count};
use crate::vault::block::{HEADER, TAG};

/// Everything begins on a page, so that a hole in the file is exactly an absent record.
pub const PAGE: u64 = 4096;
/// Bytes that sealing adds to a record.
pub const OVERHEAD: u64 = (HEADER + TAG) as u64;
/// The distance between chunk records.
pub const SLOT: u64 = (OVERHEAD + CHUNK).next_multiple_of(PAGE);
/// The distance between the records of groups' hashes.
pub const GROUP_SLOT: u64 = (OVERHEAD + 32 * GROUP_CHUNKS).next_multiple_of(PAGE);
/// The index under which the list of group hashes is sealed; no chunk has it.
pub const GROUP_LIST: u64 = u64::MAX;
/// Added to a group's number for the index under which its chunk hashes are sealed; no chunk reaches it.
pub const GROUP_BASE: u64 = 1 << 62;

/// The layout of one large file's cache file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    size: u64,
}

impl Layout {
    /// For a file of `size` bytes.
    pub fn new(size: u64) -> Self {
        Self { size }
    }

    /// Bytes of the group list's record.
    pub fn group_list_len(self) -> u64 {
        OVERHEAD + 32 * group_count(self.size)
    }

    /// Where the group list stands: after the page that says what file this is.
    pub fn group_list_at(self) -> u64 {
        PAGE
    }

    /// Where the chunk hashes of `group` stand.
    pub fn group_at(self, group: u64) -> u64 {
        let first = self.group_list_at() + self.group_list_len().next_multiple_of(PAGE);
        first.saturating_add(group.saturating_mul(GROUP_SLOT))
    }

    /// Where the record of chunk `index` stands.
    pub fn chunk_at(self, index: u64) -> u64 {
        self.group_at(group_count(self.size)).saturating_add(index.saturating_mul(SLOT))
    }

    /// The chunks whose records may begin in the data extent `from..to`: those whose first page is in it.
    pub fn chunks_in(self, from: u64, to: u64) -> std::ops::Range<u64> {
        let base = self.chunk_at(0);
        let index = |at: u64| at.saturating_sub(base).div_ceil(SLOT).min(chunk_count(self.size));
        index(from)..index(to)
    }

    /// The hashes whose records may begin in the data extent `from..to`: 0 is the list of groups, each group's number is
    /// one more than its own.
    pub fn hashes_in(self, from: u64, to: u64) -> std::ops::Range<u64> {
        let base = self.group_at(0);
        let index = |at: u64| match at.checked_sub(base) {
            Some(at) => 1 + at.div_ceil(GROUP_SLOT).min(group_count(self.size)),
            None => u64::from(at > self.group_list_at()),
        };
        index(from)..index(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_size_that_no_file_has_is_no_place_before_the_first() {
        let layout = Layout::new(u64::MAX);
        assert!(layout.chunk_at(chunk_count(u64::MAX) - 1) >= layout.chunk_at(0));
        assert_eq!(layout.chunk_at(u64::MAX), u64::MAX);
        assert_eq!(layout.group_at(u64::MAX), u64::MAX);
    }

    proptest! {
        #[test]
        fn records_do_not_overlap_and_are_found_in_extents(size in CHUNK + 1..CHUNK * 3000, a in 0u64..3000, n in 1u64..50) {
            let layout = Layout::new(size);
            prop_assert!(layout.group_list_at() + layout.group_list_len() <= layout.group_at(0));
            prop_assert!(layout.group_at(group_count(size) - 1) + GROUP_SLOT <= layout.chunk_at(0));
            prop_assert_eq!(layout.chunk_at(0) % PAGE, 0);
            let a = a.min(chunk_count(size) - 1);
            let b = (a + n).min(chunk_count(size));
            prop_assert_eq!(layout.chunks_in(layout.chunk_at(a), layout.chunk_at(b)), a..b);
            let groups = group_count(size);
            prop_assert_eq!(layout.hashes_in(PAGE, layout.chunk_at(0)), 0..groups + 1);
            prop_assert_eq!(layout.hashes_in(PAGE, PAGE + 1), 0..1);
            prop_assert_eq!(layout.hashes_in(layout.group_at(groups - 1), u64::MAX), groups..groups + 1);
            prop_assert!(layout.hashes_in(layout.chunk_at(a), layout.chunk_at(b)).is_empty());
            prop_assert!(layout.chunks_in(PAGE, layout.chunk_at(0)).is_empty());
            prop_assert_eq!(layout.chunks_in(0, u64::MAX), 0..chunk_count(size));
            prop_assert_eq!(layout.chunks_in(0, layout.chunk_at(0)), 0..0);
        }
    }
}
