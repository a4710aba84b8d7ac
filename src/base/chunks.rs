//! Chunk arithmetic: which bytes of a file are which chunk and group. All of it is here and nowhere else.

use std::ops::Range;

/// The unit of verification, transfer and caching, in bytes. Part of the protocol: never changes.
pub const CHUNK: u64 = 256 * 1024;
/// Chunks in a group (64 MiB): the first level of the manifest.
pub const GROUP_CHUNKS: u64 = 256;

/// How many chunks a file of `size` bytes has. An empty file has none.
pub fn chunk_count(size: u64) -> u64 {
    size.div_ceil(CHUNK)
}

/// How many groups a file of `size` bytes has. An empty file has none.
pub fn group_count(size: u64) -> u64 {
    size.div_ceil(CHUNK * GROUP_CHUNKS)
}

/// Bytes in chunk `index` of a file of `size` bytes; 0 if there is no such chunk.
pub fn chunk_len(size: u64, index: u64) -> usize {
    let start = index.saturating_mul(CHUNK);
    // At most CHUNK, which fits a usize.
    size.saturating_sub(start).min(CHUNK) as usize
}

/// The offset of the first byte of chunk `index`.
pub fn chunk_start(index: u64) -> u64 {
    index * CHUNK
}

/// The group that chunk `index` belongs to.
pub fn group_of(index: u64) -> u64 {
    index / GROUP_CHUNKS
}

/// The chunks of group `group` in a file of `size` bytes.
pub fn group_chunks(size: u64, group: u64) -> Range<u64> {
    let count = chunk_count(size);
    let start = group.saturating_mul(GROUP_CHUNKS).min(count);
    start..start.saturating_add(GROUP_CHUNKS).min(count)
}

/// The chunks that hold bytes `offset..offset + len` of a file of `size` bytes, cut to the file's end.
pub fn chunks_of(size: u64, offset: u64, len: u64) -> Range<u64> {
    let end = offset.saturating_add(len).min(size);
    if offset >= end {
        let at = offset.min(size) / CHUNK;
        return at..at;
    }
    offset / CHUNK..end.div_ceil(CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn edges() {
        assert_eq!(chunk_count(0), 0);
        assert_eq!(chunk_count(1), 1);
        assert_eq!(chunk_count(CHUNK), 1);
        assert_eq!(chunk_count(CHUNK + 1), 2);
        assert_eq!(chunk_len(CHUNK + 1, 1), 1);
        assert_eq!(chunk_len(CHUNK, 1), 0);
        assert_eq!(chunks_of(10, 10, 5), 0..0);
        assert_eq!(chunks_of(10, 3, u64::MAX), 0..1);
        assert_eq!(group_chunks(CHUNK * 257, 1), 256..257);
        assert_eq!(group_chunks(u64::MAX, u64::MAX), chunk_count(u64::MAX)..chunk_count(u64::MAX));
    }

    proptest! {
        #[test]
        fn chunks_cover_the_file_exactly(size in 0u64..CHUNK * 2000) {
            let total: u64 = (0..chunk_count(size)).map(|i| chunk_len(size, i) as u64).sum();
            prop_assert_eq!(total, size);
            let grouped: u64 = (0..group_count(size)).map(|g| { let r = group_chunks(size, g); r.end - r.start }).sum();
            prop_assert_eq!(grouped, chunk_count(size));
        }

        #[test]
        fn a_read_lies_in_its_chunks(size in 1u64..CHUNK * 50, offset in 0u64..CHUNK * 50, len in 1u64..CHUNK * 4) {
            let chunks = chunks_of(size, offset, len);
            if offset < size {
                prop_assert!(chunk_start(chunks.start) <= offset);
                let end = chunk_start(chunks.end - 1) + chunk_len(size, chunks.end - 1) as u64;
                prop_assert!(end >= (offset + len).min(size));
            } else {
                prop_assert!(chunks.is_empty());
            }
        }
    }
}
