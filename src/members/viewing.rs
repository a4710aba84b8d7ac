//! Merging: whenever a catalog, a session or the cache changed, the view is made anew, off tokio's workers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::membership::Membership;
use crate::base::clock::Timestamp;
use crate::catalog::claims::Party;
use crate::catalog::merge::merge;
use crate::catalog::room::{Worth, is_forgotten, worth};

/// Changes within this time are merged together.
const GATHER: Duration = Duration::from_millis(30);
/// Merging pauses for this many times what it took, so that it takes a tenth of one core at most, however large the network
/// is: a million entries take a good part of a second.
const PAUSE: u32 = 9;
/// The same of contents that have become whole in the cache, or are so no more. That changes only what is shown of files that
/// have no live source, which may be a moment late; and a copy of many small files would otherwise have the whole view
/// merged over and over (measured: 10,000 files, a sixth of all processor time).
const GATHER_WHOLE: Duration = Duration::from_secs(1);
/// The view is made anew at least this often: claims lapse with time alone.
const AT_LEAST: Duration = Duration::from_secs(600);
/// Known peers are saved this often while there are any.
const SAVE_KNOWN: Duration = Duration::from_secs(60);

impl Membership {
    pub(super) async fn view_loop(self: Arc<Self>) {
        let mut whole = self.around.whole_changes.clone();
        let mut pending = self.pending.watch();
        let mut saved = Instant::now();
        loop {
            // What arrives while the view is made leads to another one.
            let complete = self.pending.count() == 0;
            let membership = Arc::clone(&self);
            let save = saved.elapsed() > SAVE_KNOWN;
            let made = tokio::task::spawn_blocking(move || {
                let began = Instant::now();
                membership.make_view();
                let took = began.elapsed();
                if save {
                    membership.save_known();
                }
                took
            });
            let took = made.await.unwrap_or_else(|_| {
                tracing::error!("merging the catalogs failed");
                Duration::ZERO
            });
            if save {
                saved = Instant::now();
            }
            if complete && !*self.settled.borrow() {
                self.settled.send_replace(true);
                self.save_soon();
            }
            let lingering = self.roster.lock().next_change(Instant::now());
            let whole_changed = async {
                let _ = whole.changed().await;
                tokio::time::sleep(GATHER_WHOLE).await;
            };
            let wake = lingering.map_or(Instant::now() + AT_LEAST, |at| at + GATHER);
            tokio::select! {
                () = self.view_now.notified() => {}
                () = tokio::time::sleep_until(wake.into()) => {}
                () = whole_changed => {}
                _ = pending.wait_for(|count| *count == 0), if !*self.settled.borrow() => {}
            }
            tokio::time::sleep(GATHER).await;
            // The first complete view is waited for by whoever mounts.
            tokio::select! {
                () = tokio::time::sleep(took.saturating_mul(PAUSE)) => {}
                _ = pending.wait_for(|count| *count == 0), if !*self.settled.borrow() => {}
            }
        }
    }

    fn save_soon(self: &Arc<Self>) {
        let membership = Arc::clone(self);
        tokio::task::spawn_blocking(move || membership.save_known());
    }

    fn make_view(&self) {
        let copies: Vec<_> = self.book.lock().all().cloned().collect();
        let (wall, now) = (Timestamp::now(), Instant::now());
        let (mut parties, mut idle, mut forgotten) = (Vec::with_capacity(copies.len()), Vec::new(), Vec::new());
        {
            let roster = self.roster.lock();
            let known = self.known.lock();
            for copy in copies {
                let node = copy.node();
                let seen = known.last_seen(&node);
                let standing = roster.standing(&node, seen, wall, now);
                if let Worth::Idle(at) = worth(standing, seen, known.has_lived(&node)) {
                    if is_forgotten(seen.max(Some(copy.alive_at(wall))), wall) {
                        forgotten.push(node);
                        continue;
                    }
                    idle.push((at, node));
                }
                parties.push(Party { copy, standing });
            }
        }
        self.book.lock().set_idle(idle);
        self.forget_catalogs(&forgotten);
        let old = Arc::clone(&self.view.borrow());
        let tree = merge(&old, parties, &*self.around.whole);
        self.view.send_if_modified(|shown| {
            let changed = !shown.is_like(&tree);
            if changed {
                *shown = Arc::new(tree);
            }
            changed
        });
        self.holders.send_modify(|made| *made = made.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tree::TREE_ROOT;
    use crate::members::pair::{entries, member_around, member_with};
    use crate::members::pending::Pending;

    #[tokio::test(start_paused = true)]
    async fn the_first_view_is_not_complete_before_this_nodes_own_files_are_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let pending = Pending::default();
        let looks = pending.guard();
        let member = member_with(1, dir.path(), pending);
        let mut settled = member.settled();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!*settled.borrow());
        member.publish(&entries(&["a"])).unwrap();
        drop(looks);
        settled.wait_for(|settled| *settled).await.unwrap();
        assert_eq!(member.view().borrow().files(TREE_ROOT).count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_of_many_small_files_had_the_view_made_over_and_over() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, changes) = tokio::sync::watch::channel(0);
        let member = member_around(1, dir.path(), Pending::default(), changes);
        member.settled().wait_for(|settled| *settled).await.unwrap();
        // It is told each time.
        let mut made = member.holders();
        made.mark_unchanged();
        let mut times = 0;
        for _ in 0..500 {
            whole.send_modify(|number| *number += 1);
            tokio::time::sleep(Duration::from_millis(10)).await;
            if made.has_changed().unwrap() {
                made.mark_unchanged();
                times += 1;
            }
        }
        // In five seconds.
        assert!((3..=6).contains(&times), "{times}");
    }
}
