//! A whole file, or any part of it, in no particular order: verified chunks as they arrive, and no more of them than the
//! taker keeps up with. For `flashget get`.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::transfer::{FetchError, TransferUse};
use crate::base::ranges::Ranges;
use crate::base::tree::VerifiedChunk;

/// Chunks that are in flight or wait for a taker, at most (64 MiB): enough for the links that one node can have, and a
/// bound on memory when the disk is the slower part.
pub(super) const ROOM: usize = 256;

/// What the transfer keeps of a download.
pub(super) struct Demand {
    /// What has still to be handed over, but for what is in the queue.
    pub wanted: Ranges,
    /// What of it was verified before: it is looked for in the cache when it is its turn.
    pub there: Ranges,
    /// Chunks in the queue.
    pub queued: usize,
    pub chunks: mpsc::UnboundedSender<Result<VerifiedChunk, FetchError>>,
}

/// See the module. Dropping it ends it: what only it wanted is wanted no more.
pub struct Download {
    used: TransferUse,
    id: u64,
    chunks: mpsc::UnboundedReceiver<Result<VerifiedChunk, FetchError>>,
}

impl Download {
    pub(super) fn new(used: TransferUse, wanted: &Ranges) -> Self {
        // Bounded by the credit that the planner gets: see `ROOM`.
        let (sender, chunks) = mpsc::unbounded_channel();
        let id = used.transfer().begin_download(wanted, sender);
        Self { used, id, chunks }
    }

    /// The next chunk, whichever it is; `None` when all that was wanted has been handed over. An error says that what
    /// is left has had no source for a while; the download goes on if it is asked again.
    pub async fn next(&mut self) -> Option<Result<VerifiedChunk, FetchError>> {
        if let Ok(chunk) = self.chunks.try_recv() {
            self.used.transfer().taken(self.id);
            return Some(chunk);
        }
        let transfer = Arc::clone(self.used.transfer());
        if let Some(chunk) = transfer.from_cache(self.id) {
            return Some(Ok(chunk));
        }
        if transfer.is_handed_over(self.id) {
            return None;
        }
        let chunk = self.chunks.recv().await?;
        transfer.taken(self.id);
        Some(chunk)
    }

    /// The transfer behind it.
    pub fn transfer_use(&self) -> &TransferUse {
        &self.used
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.used.transfer().end_download(self.id);
    }
}
