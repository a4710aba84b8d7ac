//! This node's own catalog: publishing it, and beginning a new epoch of it where others know a newer one.
//!
//! Others know a newer one after this node's state was lost or restored from a backup. Then what it publishes would go
//! unheard, as something old; so it begins a new epoch, once. If its own catalog goes on elsewhere after that, another
//! daemon runs with the same identity. Two of them would overtake each other for ever: each does so once a minute at
//! most, and says what is wrong.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::membership::Membership;
use crate::base::clock::Timestamp;
use crate::catalog::copy::CatalogCopy;
use crate::catalog::entry::Entry;
use crate::catalog::own;
use crate::catalog::signed::CatalogError;

/// Between two new epochs.
const PAUSE: Duration = Duration::from_secs(60);
/// Overtaken again within this time of a new epoch: not a backup any more.
const CONTESTED: Duration = Duration::from_secs(10 * 60);

/// What to do about a newer catalog of this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// Begin a new epoch.
    Begin,
    /// The same; and the identity is in use elsewhere.
    Contest,
    /// The identity is in use elsewhere, and this much time must pass first.
    Wait(Duration),
}

/// How this node's own catalog stands. Locked for as long as it is changed and saved, so that two changes follow each other.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    /// What this node offers has been said since the start.
    published: bool,
    /// The epoch of a newer catalog that others have.
    ahead: Option<u64>,
    /// When this node last began an epoch because of that.
    begun: Option<Instant>,
    /// A new epoch waits for its time.
    waiting: bool,
}

impl Publishing {
    fn verdict(&self, now: Instant) -> Verdict {
        match self.begun.map(|begun| now.saturating_duration_since(begun)) {
            Some(since) if since < PAUSE => Verdict::Wait(PAUSE - since),
            Some(since) if since < CONTESTED => Verdict::Contest,
            _ => Verdict::Begin,
        }
    }
}

fn restored() {
    tracing::warn!(
        "others know a newer catalog of this node than it has: its state was lost, or restored from a backup. A new epoch \
         begins"
    );
}

fn in_use() {
    tracing::error!(
        "this identity is in use elsewhere: another daemon publishes with the same keys. Let one of the two homes make a \
         new vault, and join again"
    );
}

/// Of tokio's clock, so that tests can pass the time.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Membership {
    /// Publishes what this node offers: `entries` sorted by path, none twice. Blocks on the disk.
    pub fn publish(self: &Arc<Self>, entries: &[Entry]) -> Result<(), CatalogError> {
        let mut publishing = self.publishing.lock();
        publishing.published = true;
        if publishing.ahead.is_some() && !publishing.waiting {
            restored();
            return self.begin_epoch(&mut publishing, entries);
        }
        let identity = &self.around.identity;
        let sign = |message: &[u8]| (identity.sign)(message);
        let now = Timestamp::now();
        let before = self.book.lock().get(identity.node).cloned();
        let mut copy = match before {
            Some(copy) => (*copy).clone(),
            None if entries.is_empty() => return Ok(()),
            None => own::begin(self.id, identity.node, now, &sign)?,
        };
        if own::publish(&mut copy, entries, now, &sign)? {
            self.put_own(copy);
        }
        Ok(())
    }

    fn put_own(self: &Arc<Self>, copy: CatalogCopy) {
        let copy = Arc::new(copy);
        // On disk before anybody hears of it: a version that was told must not be forgotten.
        self.save_catalog(&copy);
        self.book.lock().put_own(Arc::clone(&copy));
        self.tell(&[copy.version()], None);
        self.view_now.notify_one();
    }

    fn begin_epoch(self: &Arc<Self>, publishing: &mut Publishing, entries: &[Entry]) -> Result<(), CatalogError> {
        let identity = &self.around.identity;
        let sign = |message: &[u8]| (identity.sign)(message);
        let beyond = publishing.ahead.unwrap_or_default();
        let copy = own::begin_beyond(self.id, identity.node, beyond, entries, Timestamp::now(), &sign)?;
        (publishing.ahead, publishing.begun) = (None, Some(now()));
        self.put_own(copy);
        Ok(())
    }

    /// Somebody has a catalog of this very node, signed by its key, that is newer than what it has itself. Blocks on the
    /// disk; needs tokio's context.
    pub(super) fn overtaken(self: &Arc<Self>, theirs: &CatalogCopy) {
        let mut publishing = self.publishing.lock();
        let ours = self.book.lock().get(theirs.node()).map(|copy| copy.place());
        if Some(theirs.place()) <= ours {
            return;
        }
        publishing.ahead = publishing.ahead.max(Some(theirs.version().epoch));
        // Before the first publication nobody here knows what the new epoch should begin with.
        if publishing.published {
            self.overtake(&mut publishing);
        }
    }

    fn overtake(self: &Arc<Self>, publishing: &mut Publishing) {
        match publishing.verdict(now()) {
            Verdict::Wait(_) if publishing.waiting => return,
            Verdict::Wait(pause) => {
                in_use();
                publishing.waiting = true;
                let weak = Arc::downgrade(self);
                tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    let Some(membership) = weak.upgrade() else { return };
                    let overtake = move || {
                        let mut publishing = membership.publishing.lock();
                        publishing.waiting = false;
                        if publishing.ahead.is_some() {
                            membership.overtake(&mut publishing);
                        }
                    };
                    // Nothing to tell anybody if the daemon ends meanwhile.
                    let _ = tokio::task::spawn_blocking(overtake).await;
                });
                return;
            }
            Verdict::Contest => in_use(),
            Verdict::Begin => restored(),
        }
        let own = self.book.lock().get(self.around.identity.node).cloned();
        let entries: Vec<Entry> =
            own.iter().flat_map(|copy| copy.entries().filter_map(|entry| entry.to_entry())).collect();
        if let Err(error) = self.begin_epoch(publishing, &entries) {
            tracing::error!(%error, "a new epoch can't be begun");
        }
    }
}

#[cfg(test)]
#[path = "publishing_tests.rs"]
mod tests;
