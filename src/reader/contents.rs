//! What the file system asks of the layers below: bytes of a content, by range. Nothing here knows of names or inodes.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::base::ids::ContentId;

/// Why a read brought no bytes. `fs/` maps each to one errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nobody that is live has it, and it is not in the cache.
    #[error("no live peer has this file, and it is not in the cache")]
    NoSource,
    /// Sources were there and brought nothing in time.
    #[error("no peer delivered in time")]
    TimedOut,
    /// The vault is locked.
    #[error("the vault is locked")]
    Locked,
    /// This version exists nowhere any more: every source has changed.
    #[error("this version of the file is gone")]
    Gone,
    /// Something local failed; the log says what.
    #[error("a local error, see the log")]
    Local,
}

/// The bytes of one read: pieces of verified chunks, in order, not copied.
#[derive(Clone, Debug, Default)]
pub struct ReadBytes {
    pieces: Vec<Bytes>,
}

impl ReadBytes {
    /// From pieces in order.
    pub fn new(pieces: Vec<Bytes>) -> Self {
        Self { pieces }
    }

    /// The pieces.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// True if there are none (at or past the file's end).
    pub fn is_empty(&self) -> bool {
        self.pieces.iter().all(Bytes::is_empty)
    }

    /// The bytes as one slice: free if they lie in one chunk, one copy otherwise.
    pub fn contiguous(&self) -> std::borrow::Cow<'_, [u8]> {
        match self.pieces.as_slice() {
            [] => std::borrow::Cow::Borrowed(&[]),
            [one] => std::borrow::Cow::Borrowed(one),
            many => std::borrow::Cow::Owned(many.concat()),
        }
    }
}

/// Where contents come from.
pub trait Contents: Send + Sync {
    /// A handle to read `content` through. Does no I/O and never fails: reads do.
    fn open(&self, content: ContentId) -> Arc<dyn ContentHandle>;
    /// These will probably be opened soon, the first ones first. A hint: never blocks, may do nothing.
    fn ahead(&self, contents: &[ContentId]) {
        let _ = contents;
    }
}

/// One open handle: has a window of its own. Reads may come in any order and at once.
#[async_trait]
pub trait ContentHandle: Send + Sync {
    /// Bytes `offset..offset + len`, cut at the file's end.
    async fn read(&self, offset: u64, len: usize) -> Result<ReadBytes, ReadError>;
    /// The bytes if they are in memory already: answered on the spot, without a task. Also counts as a read for the window.
    fn read_now(&self, offset: u64, len: usize) -> Option<ReadBytes>;
}
