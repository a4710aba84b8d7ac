//! Buffers for chunks, used again. Fresh memory costs a page fault and a cleared page for each 4 KiB, more than
//! everything else that is done with a chunk (measured, docs/ARCHITECTURE.md); a buffer that was in use a moment ago
//! costs nothing and lies in the processor's cache.

use std::ops::Range;

use bytes::Bytes;
use parking_lot::Mutex;
use zeroize::Zeroize;

use super::chunks::CHUNK;

/// Bytes of a pooled buffer: a chunk with what sealing or framing adds to it.
const ROOM: usize = CHUNK as usize + 256;
/// Idle buffers that are kept (24 MiB): what is in flight at a gigabyte per second.
const MAX_IDLE: usize = 96;
/// Smaller ones are not worth a whole buffer: they may be kept for long.
const SMALL: usize = ROOM / 2;

static IDLE: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// Wipes and lets go of every idle buffer: what was in them is to be read by nobody any more.
pub fn clear() {
    for mut buffer in std::mem::take(&mut *IDLE.lock()) {
        buffer.zeroize();
    }
}

/// A buffer of a given length; what is in it at first is left from an earlier use and means nothing.
#[derive(Debug)]
pub struct Buffer {
    /// Empty once it has been given away.
    bytes: Box<[u8]>,
    len: usize,
}

impl Buffer {
    /// `len` bytes, from the pool if they are about a chunk.
    pub fn new(len: usize) -> Self {
        let pooled = len > SMALL && len <= ROOM;
        let idle = if pooled { IDLE.lock().pop() } else { None };
        let bytes = idle.unwrap_or_else(|| vec![0; if pooled { ROOM } else { len }].into_boxed_slice());
        Self { bytes, len }
    }

    /// A part of it, to be shared; the buffer goes back to the pool when nobody holds it any more.
    pub fn share(self, part: Range<usize>) -> Bytes {
        Bytes::from_owner(self).slice(part)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.len() == ROOM {
            let bytes = std::mem::take(&mut self.bytes);
            let mut idle = IDLE.lock();
            if idle.len() < MAX_IDLE {
                idle.push(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_as_long_as_asked_and_comes_back() {
        for len in [0, 1, 4096, SMALL + 1, CHUNK as usize, ROOM, ROOM + 1] {
            let mut buffer = Buffer::new(len);
            assert_eq!(buffer.as_ref().len(), len);
            buffer.as_mut().fill(7);
            let shared = buffer.share(len / 2..len);
            assert!(shared.len() == len - len / 2 && shared.iter().all(|byte| *byte == 7));
            let part = shared.slice(..);
            drop(shared);
            assert!(part.iter().all(|byte| *byte == 7));
        }
        assert!(IDLE.lock().len() <= MAX_IDLE && IDLE.lock().iter().all(|bytes| bytes.len() == ROOM));
    }
}
