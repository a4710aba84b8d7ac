//! What the kernel has to forget: gathered from one view to the next, each thing once, and told by a thread of its own,
//! for the kernel may hold such a call until requests that are under way have been answered.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::{INodeNo, Notifier};
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use crate::fs::inodes::Stale;

/// Above this, the next view waits until the kernel has been told: about 100 bytes each. Views that come meanwhile are
/// skipped, so nothing else piles up.
const ROOM: usize = 100_000;

#[derive(Default)]
struct Pending {
    stale: BTreeSet<Stale>,
    closed: bool,
}

/// See the module.
#[derive(Default)]
pub struct Invalidation {
    pending: Mutex<Pending>,
    work: Condvar,
    taken: Notify,
}

impl Invalidation {
    /// Returns once there is room for what another view makes stale. False if nobody is left to be told.
    pub async fn room(&self) -> bool {
        loop {
            let taken = self.taken.notified();
            tokio::pin!(taken);
            // From here on, it hears also of what happens before it is awaited.
            taken.as_mut().enable();
            {
                let pending = self.pending.lock();
                if pending.closed || pending.stale.len() < ROOM {
                    return !pending.closed;
                }
            }
            taken.await;
        }
    }

    /// To be told soon. What waits already is not told twice.
    pub fn add(&self, stale: Vec<Stale>) {
        self.pending.lock().stale.extend(stale);
        self.work.notify_one();
    }

    /// Nothing more comes, or nobody is told any more.
    pub fn close(&self) {
        self.pending.lock().closed = true;
        self.work.notify_one();
        self.taken.notify_waiters();
    }

    /// All that waits; blocks until there is something. `None` once it is closed.
    fn take(&self) -> Option<BTreeSet<Stale>> {
        let mut pending = self.pending.lock();
        while pending.stale.is_empty() && !pending.closed {
            self.work.wait(&mut pending);
        }
        let stale = std::mem::take(&mut pending.stale);
        let closed = pending.closed;
        drop(pending);
        self.taken.notify_waiters();
        (!closed).then_some(stale)
    }

    /// Tells the kernel, until it is closed. Blocks.
    pub fn tell(&self, notifier: &Notifier) {
        while let Some(stale) = self.take() {
            for stale in stale {
                // What the kernel does not remember it need not forget: ENOENT is as good.
                let _ = match stale {
                    Stale::Entry(folder, name) => {
                        notifier.inval_entry(INodeNo(folder), OsStr::from_bytes(name.as_bytes()))
                    }
                    // Negative: attributes only, the bytes are as they were.
                    Stale::Attributes(inode) => notifier.inval_inode(INodeNo(inode), -1, 0),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn attributes(range: std::ops::Range<u64>) -> Vec<Stale> {
        range.map(Stale::Attributes).collect()
    }

    #[tokio::test]
    async fn what_the_kernel_was_not_told_yet_piled_up() {
        let invalidation = Arc::new(Invalidation::default());
        for _ in 0..1000 {
            assert!(invalidation.room().await);
            invalidation.add(attributes(0..100));
        }
        assert_eq!(invalidation.pending.lock().stale.len(), 100);
        invalidation.add(attributes(0..ROOM as u64));
        let room = invalidation.room();
        tokio::pin!(room);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut room).await.is_err());
        let told = {
            let invalidation = Arc::clone(&invalidation);
            tokio::task::spawn_blocking(move || invalidation.take()).await.unwrap()
        };
        assert_eq!(told.map(|told| told.len()), Some(ROOM));
        assert!(tokio::time::timeout(Duration::from_secs(10), room).await.unwrap());
        // The end is told to both sides, whoever waits.
        invalidation.add(attributes(0..ROOM as u64));
        let waits = invalidation.room();
        tokio::pin!(waits);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut waits).await.is_err());
        invalidation.close();
        assert!(!tokio::time::timeout(Duration::from_secs(10), waits).await.unwrap());
        assert!(invalidation.take().is_none());
    }
}
