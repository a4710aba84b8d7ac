//! How far to ask ahead of a reader: a window that grows while the reading is sequential. Pure.

use std::ops::Range;

use crate::base::chunks::{CHUNK, chunk_count, chunks_of};

/// The first window, in chunks (1 MiB): a small file or a peek costs little more than what is read.
const FIRST: u64 = 4;
/// A reader may step this many chunks back or over a gap and still count as sequential: the kernel's read-ahead asks
/// in parallel, and its requests overtake each other.
const SLACK: u64 = 32;

/// One handle's window.
#[derive(Debug, Clone)]
pub struct Window {
    chunks: u64,
    size: u64,
    max: u64,
    /// Chunks to ask ahead at the moment.
    len: u64,
    /// The furthest chunk that was read in this run, plus one.
    head: u64,
    /// Chunks before this one have been asked for in this run.
    asked: u64,
    /// Chunks before this one have been passed, and told as such.
    passed: u64,
}

impl Window {
    /// For a file of `size` bytes; asks at most `max_bytes` ahead.
    pub fn new(size: u64, max_bytes: u64) -> Self {
        let max = (max_bytes / CHUNK).max(FIRST);
        Self { chunks: chunk_count(size), size, max, len: 0, head: 0, asked: 0, passed: 0 }
    }

    /// A read of `len` bytes at `offset`: what to ask ahead of it now, beyond what the read itself needs and what was
    /// asked before. Asks in steps of a quarter of the window, so that the requests are few and the pipeline full.
    pub fn read(&mut self, offset: u64, len: u64) -> Range<u64> {
        let read = chunks_of(self.size, offset, len);
        if read.is_empty() {
            return 0..0;
        }
        let sequential = read.start <= self.head + SLACK && read.end + SLACK > self.head;
        if self.len == 0 {
            // The first read: from the file's start a sequential reader is likely, elsewhere it is not.
            self.len = if read.start == 0 { FIRST } else { 1 };
            self.asked = read.end;
        } else if !sequential {
            // A jump: begin small again.
            self.len = 1;
            self.head = read.end;
            self.asked = read.end;
            self.passed = read.start;
        }
        if read.end > self.head {
            let advanced = read.end - self.head;
            self.head = read.end;
            if sequential {
                self.len = (self.len + advanced.max(1) * 2).min(self.max);
            }
        }
        let from = self.asked.max(read.end);
        let until = (self.head + self.len).min(self.chunks);
        if until <= from {
            return 0..0;
        }
        let enough = (self.len / 4).max(1);
        if until - from < enough && until < self.chunks {
            return 0..0;
        }
        self.asked = until;
        from..until
    }

    /// Chunks that a sequential reader has left behind since the last call: the kernel has their bytes, and what it asks
    /// once more (its requests overtake each other) is still near the head.
    pub fn passed(&mut self) -> Range<u64> {
        let until = self.head.saturating_sub(SLACK);
        let passed = self.passed.min(until)..until;
        self.passed = self.passed.max(until);
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sequential_reader_gets_a_wide_window_soon() {
        let size = 4096 * CHUNK;
        let mut window = Window::new(size, 64 << 20);
        let mut asked_to = 0;
        for i in 0..200u64 {
            let ahead = window.read(i * CHUNK / 2, CHUNK / 2);
            asked_to = asked_to.max(ahead.end);
            let at = i / 2;
            assert!(asked_to <= at + 1 + 256 + 1);
        }
        assert!(asked_to >= 100 + 150, "{asked_to}");
    }

    #[test]
    fn a_random_reader_asks_little() {
        let size = 4096 * CHUNK;
        let mut window = Window::new(size, 64 << 20);
        let mut extra = 0;
        for i in 0..200u64 {
            let ahead = window.read((i * 7919 % 4096) * CHUNK, 4096);
            extra += ahead.end - ahead.start;
        }
        assert!(extra <= 220, "{extra}");
    }

    proptest! {
        #[test]
        fn never_beyond_the_file_and_never_twice_in_a_run(
            chunks in 1u64..500, tail in 0u64..CHUNK,
            reads in proptest::collection::vec((0u64..600 * CHUNK, 1u64..2 * CHUNK), 1..80),
        ) {
            let size = (chunks - 1) * CHUNK + tail + 1;
            let mut window = Window::new(size, 16 << 20);
            for (offset, len) in reads {
                let ahead = window.read(offset, len);
                prop_assert!(ahead.end <= chunk_count(size));
                prop_assert!(ahead.end - ahead.start <= 64 + SLACK * 2);
            }
            let mut window = Window::new(size, 16 << 20);
            let mut last = 0;
            for at in 0..chunks {
                let ahead = window.read(at * CHUNK, 1);
                if !ahead.is_empty() {
                    prop_assert!(ahead.start >= last);
                    last = ahead.end;
                }
            }
            // Everything was asked ahead, but for the first chunk.
            prop_assert!(chunks == 1 || last == chunk_count(size));
        }
    }

    #[test]
    fn what_is_left_behind_is_told_once_and_a_jump_starts_anew() {
        let mut window = Window::new(1000 * CHUNK, 64 << 20);
        let mut passed = Vec::new();
        for at in 0..100 {
            window.read(at * CHUNK, CHUNK);
            passed.extend(window.passed());
        }
        assert_eq!(passed, (0..100 - SLACK).collect::<Vec<_>>());
        window.read(500 * CHUNK, CHUNK);
        assert!(window.passed().is_empty());
        window.read(10 * CHUNK, CHUNK);
        assert!(window.passed().is_empty());
    }
}
