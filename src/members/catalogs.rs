//! Replication of catalogs: peers tell each other where theirs stand, and fetch what they lack from whoever has it.

use std::sync::Arc;

use super::known::Known;
use super::membership::{Around, Membership};
use crate::base::clock::Timestamp;
use crate::base::ids::{NetworkId, NodeId};
use crate::catalog::copy::CatalogCopy;
use crate::catalog::signed::CatalogError;
use crate::net::link::{LinkError, PeerLink};
use crate::vault::store::write_in_place;
use crate::wire::message::{CatalogAnswer, CatalogVersion, Request, Response};

const PURPOSE: &str = "catalog";
/// Catalogs of nodes that were not seen for 30 days are dropped.
const FORGET: i64 = 30 * 24 * 3600;
/// Catalogs of one network that are kept: as many as nodes that one membership can sensibly have.
const MAX_CATALOGS: usize = 100_000;

#[derive(Debug, thiserror::Error)]
enum CatchUpError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("an answer that makes no sense")]
    Answer,
}

impl Membership {
    /// Answers what a peer asks of catalogs; `None` if it asks for something else.
    pub fn answer(self: &Arc<Self>, link: &Arc<dyn PeerLink>, request: &Request) -> Option<Response> {
        match request {
            Request::Versions(theirs) => {
                self.heard_versions(link, theirs);
                Some(Response::Versions(self.book.lock().versions()))
            }
            Request::Catalog(request) => {
                let copy = self.book.lock().get(request.node).cloned();
                Some(Response::Catalog(copy.map_or(CatalogAnswer::UpToDate, |copy| copy.answer(request))))
            }
            _ => None,
        }
    }

    /// A peer says where its catalogs stand.
    pub(super) fn heard_versions(self: &Arc<Self>, link: &Arc<dyn PeerLink>, versions: &[CatalogVersion]) {
        let wanted = {
            let book = self.book.lock();
            let mut wanted = book.lacks(versions);
            if book.own_elsewhere(versions) {
                // Fetched like another's: only what this node once signed is to be believed.
                wanted.insert(self.around.identity.node);
            }
            wanted
        };
        for node in wanted {
            if !self.catching_up.lock().insert(node) {
                continue;
            }
            let (membership, link) = (Arc::clone(self), Arc::clone(link));
            let pending = self.pending.guard();
            tokio::spawn(async move {
                if let Err(error) = membership.catch_up(node, &link).await {
                    tracing::warn!(of = %node.short(12), from = %link.node().short(12), %error, "a catalog did not come");
                    match error {
                        // Its owner's fault, not the peer's.
                        CatchUpError::Catalog(CatalogError::Chain) | CatchUpError::Link(_) => {}
                        CatchUpError::Catalog(_) | CatchUpError::Answer => link.close(),
                    }
                }
                membership.catching_up.lock().remove(&node);
                drop(pending);
            });
        }
        // After the guards: what is to be fetched counts as under way before the greeting counts as heard.
        self.greeted.send_if_modified(|greeted| greeted.insert(link.node()));
        self.view_now.notify_one();
    }

    async fn catch_up(self: &Arc<Self>, node: NodeId, link: &Arc<dyn PeerLink>) -> Result<(), CatchUpError> {
        let mut catch_up = self.book.lock().catch_up(node);
        loop {
            let answer = link.request(Request::Catalog(catch_up.request())).await?;
            let Response::Catalog(answer) = answer else { return Err(CatchUpError::Answer) };
            // Verifying and decoding a large catalog takes a while: not on this thread.
            let taken = tokio::task::spawn_blocking(move || {
                let more = catch_up.take(answer);
                more.map(|more| (catch_up, more))
            });
            let (next, more) = taken.await.map_err(|_| CatchUpError::Answer)??;
            catch_up = next;
            if !more {
                break;
            }
        }
        let Some(copy) = catch_up.finish() else { return Ok(()) };
        if node == self.around.identity.node {
            let membership = Arc::clone(self);
            return tokio::task::spawn_blocking(move || membership.overtaken(&copy))
                .await
                .map_err(|_| CatchUpError::Answer);
        }
        let put = {
            let mut book = self.book.lock();
            (book.get(node).is_some() || book.all().count() < MAX_CATALOGS) && book.put(Arc::clone(&copy))
        };
        if put {
            let membership = Arc::clone(self);
            let stored = Arc::clone(&copy);
            tokio::task::spawn_blocking(move || membership.save_catalog(&stored));
            // The owner was alive when it made this, by its own clock; not in the future by ours.
            let seen = copy.at().min(Timestamp::now());
            self.known.lock().seen(node, seen);
            self.tell(&[copy.version()], Some(link.node()));
            self.view_now.notify_one();
        }
        Ok(())
    }

    fn catalog_dir(around: &Around, network: NetworkId) -> std::path::PathBuf {
        let name = data_encoding::HEXLOWER.encode(&around.sealer.hash(PURPOSE, &network.0)[..16]);
        around.state_dir.join("catalogs").join(name)
    }

    /// Blocks on the disk. A failure costs nothing but fetching it again.
    pub(super) fn save_catalog(&self, copy: &CatalogCopy) {
        let place = [self.id.0, copy.node().0].concat();
        let dir = Self::catalog_dir(&self.around, self.id);
        let name = data_encoding::HEXLOWER.encode(&self.around.sealer.hash(PURPOSE, &place)[..16]);
        let saved = copy.store().map_err(std::io::Error::other).and_then(|plain| {
            let sealed = self.around.sealer.seal(PURPOSE, &self.id.0, &plain).map_err(std::io::Error::other)?;
            std::fs::create_dir_all(&dir)?;
            write_in_place(&dir.join(name), &[&sealed])
        });
        if let Err(error) = saved {
            tracing::warn!(%error, "a catalog can't be saved");
        }
    }

    /// Every catalog of `network` on disk that opens and whose node was seen, or which was written, not too long ago. Blocks
    /// on the disk.
    pub(super) fn load_catalogs(
        around: &Around,
        network: NetworkId,
        known: &Known,
        wall: Timestamp,
    ) -> Vec<CatalogCopy> {
        let Ok(files) = std::fs::read_dir(Self::catalog_dir(around, network)) else { return Vec::new() };
        let mut copies = Vec::new();
        for file in files.flatten() {
            let written = file.metadata().and_then(|meta| meta.modified()).map(Timestamp::from).ok();
            let load = || {
                let sealed = std::fs::read(file.path()).ok()?;
                let plain = around.sealer.open(PURPOSE, &network.0, &sealed).ok()?;
                CatalogCopy::load(network, &plain).ok()
            };
            match load() {
                Some(copy) if copy.node() == around.identity.node => copies.push(copy),
                Some(copy)
                    if written.max(known.last_seen(&copy.node())).is_some_and(|at| at.secs + FORGET > wall.secs) =>
                {
                    copies.push(copy);
                }
                _ => {
                    tracing::debug!("a catalog on disk is too old or damaged, and is dropped");
                    // It is fetched again if somebody still has it.
                    let _ = std::fs::remove_file(file.path());
                }
            }
        }
        copies
    }
}

#[cfg(test)]
#[path = "catalogs_tests.rs"]
mod tests;
