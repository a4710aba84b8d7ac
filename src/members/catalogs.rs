//! Replication of catalogs: peers tell each other where theirs stand, and fetch what they lack from whoever has it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::comparing::{Comparison, Learned, ahead, answer_sums, news};
use super::known::Known;
use super::membership::{Around, Membership};
use crate::base::clock::Timestamp;
use crate::base::ids::{NetworkId, NodeId};
use crate::base::limits::{CATALOG_PART, CATALOGS_UNDER_WAY};
use crate::base::quiet::may_log;
use crate::catalog::book::CatalogBook;
use crate::catalog::copy::CatalogCopy;
use crate::catalog::room::{Worth, is_forgotten, worth};
use crate::catalog::signed::CatalogError;
use crate::net::link::{LinkError, PeerLink};
use crate::vault::store::write_in_place;
use crate::wire::message::{CatalogAnswer, CatalogRequest, CatalogVersion, Request, Response};

const PURPOSE: &str = "catalog";
/// How long a large catalog waits until others have been fetched.
const ROOM: Duration = Duration::from_secs(60);

/// A peer that was asked for a part and brings nothing on its session for this long is asked no more...
const SILENCE: Duration = Duration::from_secs(15);
/// ...nothing meaning less than this: what keeps a session alive is no part of a catalog.
const LEAST: u64 = 16 * 1024;
/// No part takes longer than this, whatever else the peer brings meanwhile.
const PART: Duration = Duration::from_secs(120);
/// Somebody else is asked instead, if there is anybody, when a catalog takes longer than this to begin...
const PATIENCE: Duration = Duration::from_secs(60);
/// ...and this much more for each part: 64 KiB/s.
const PATIENCE_PER_PART: Duration = Duration::from_millis((CATALOG_PART / 64) as u64 * 1000 / 1024);
/// Versions are exchanged anew with one peer each time that so many seconds have passed, drawn at random between these two:
/// a notice that was lost, or not acted upon, heals.
pub(super) const EXCHANGE_EVERY: (u64, u64) = (20, 40);
/// For the answer to that.
const EXCHANGE: Duration = Duration::from_secs(15);

pub(super) fn draw() -> u64 {
    let mut bytes = [0; 8];
    // Without random numbers it is always the same peer: better than none.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

#[derive(Debug, thiserror::Error)]
enum CatchUpError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("an answer that makes no sense")]
    Answer,
    #[error("no answer in time")]
    Silent,
    #[error("there is no room for it beside the others")]
    Room,
    #[error("its owner was not seen for too long")]
    Forgotten,
}

/// One answer, for as long as the peer brings anything.
async fn ask(link: &Arc<dyn PeerLink>, request: CatalogRequest) -> Result<CatalogAnswer, CatchUpError> {
    let began = Instant::now();
    let answer = link.request(Request::Catalog(request));
    tokio::pin!(answer);
    loop {
        let received = link.stats().received;
        if let Ok(answer) = tokio::time::timeout(SILENCE, &mut answer).await {
            let Response::Catalog(answer) = answer? else { return Err(CatchUpError::Answer) };
            return Ok(answer);
        }
        if link.stats().received < received.saturating_add(LEAST) || began.elapsed() >= PART {
            return Err(CatchUpError::Silent);
        }
    }
}

impl Membership {
    /// Answers what a peer asks of catalogs; `None` if it asks for something else.
    pub fn answer(self: &Arc<Self>, link: &Arc<dyn PeerLink>, request: &Request) -> Option<Response> {
        match request {
            Request::Sums(theirs) => {
                let records = self.member_records();
                let (catalogs, members) = answer_sums(self.book.lock().sums(), &records, *theirs);
                if catalogs.is_empty() {
                    self.heard_all(link);
                }
                Some(Response::Sums { catalogs, members })
            }
            Request::Versions { buckets, versions } => {
                let ours = self.book.lock().versions();
                let ahead = ahead(ours, (*buckets).into(), versions);
                self.heard_versions(link, versions);
                self.heard_all(link);
                Some(Response::Versions(ahead))
            }
            Request::Members { buckets, members } => {
                let ours = news(self.member_records(), (*buckets).into(), members);
                self.learn_members(members);
                Some(Response::Members(ours))
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
        let own = self.around.identity.node;
        let wanted: Vec<CatalogVersion> = {
            let book = self.book.lock();
            let mut wanted = book.lacks(versions);
            if book.own_elsewhere(versions) {
                // Fetched like another's: only what this node once signed is to be believed.
                wanted.insert(own);
            }
            versions.iter().filter(|told| wanted.contains(&told.node)).copied().collect()
        };
        for told in wanted {
            if self.fetching.lock().begin(link, told, Instant::now().into_std()) {
                let pending = self.pending.guard();
                let fetch = Arc::clone(self).fetch(told.node, Arc::clone(link));
                tokio::spawn(async move {
                    fetch.await;
                    drop(pending);
                });
            }
        }
    }

    /// A peer has said where its catalogs stand. After what it said was looked at: what is to be fetched counts as under way
    /// before the greeting counts as heard.
    pub(super) fn heard_all(&self, link: &Arc<dyn PeerLink>) {
        if self.greeted.send_if_modified(|greeted| greeted.insert(link.node())) {
            self.view_now.notify_one();
        }
    }

    /// Finds out, together with a peer, in what its knowledge and ours differ: of catalogs, and of who is alive.
    pub(super) async fn exchange(self: &Arc<Self>, link: &Arc<dyn PeerLink>) {
        match tokio::time::timeout(EXCHANGE, self.exchange_all(link)).await {
            Ok(Ok(())) => self.heard_all(link),
            // Who does not answer is not worth a word: there is a next time.
            Err(_)
            | Ok(Err(CatchUpError::Link(_) | CatchUpError::Silent | CatchUpError::Room | CatchUpError::Forgotten)) => {}
            Ok(Err(_)) => link.close(),
        }
    }

    async fn exchange_all(self: &Arc<Self>, link: &Arc<dyn PeerLink>) -> Result<(), CatchUpError> {
        let table = self.book.lock().sums().clone();
        let mut comparison = Comparison::new(table, self.member_records());
        while let Some(request) = comparison.request(|| self.book.lock().versions()) {
            let answer = link.request(request).await?;
            match comparison.take(answer).map_err(|_| CatchUpError::Answer)? {
                Learned::Sums => {}
                Learned::Versions(theirs) => self.heard_versions(link, &theirs),
                Learned::Members(theirs) => self.learn_members(&theirs),
            }
        }
        Ok(())
    }

    /// Fetches one catalog, of one peer after the other until nobody is known to have more.
    async fn fetch(self: Arc<Self>, node: NodeId, first: Arc<dyn PeerLink>) {
        let mut next = Some(first);
        while let Some(link) = next {
            if let Err(error) = self.catch_up(node, &link).await {
                if let Some(held_back) = may_log(link.node(), "catalog") {
                    let (of, from) = (node.short(12), link.node().short(12));
                    tracing::warn!(%of, %from, %error, held_back, "a catalog did not come");
                }
                match error {
                    // Its owner's fault, or nobody's, and not the peer's.
                    CatchUpError::Room | CatchUpError::Forgotten => {
                        self.fetching.lock().has_no_room(node, Instant::now().into_std())
                    }
                    CatchUpError::Catalog(CatalogError::Chain | CatalogError::Endless)
                    | CatchUpError::Link(_)
                    | CatchUpError::Silent => {}
                    CatchUpError::Catalog(_) | CatchUpError::Answer => link.close(),
                }
            }
            next = self.fetching.lock().next(node, |told| {
                let (book, told) = (self.book.lock(), std::slice::from_ref(told));
                !book.lacks(told).is_empty() || book.own_elsewhere(told)
            });
        }
    }

    /// Compares notes with one peer after the other, now and then.
    pub(super) async fn exchange_loop(self: Arc<Self>) {
        loop {
            let (from, to) = EXCHANGE_EVERY;
            tokio::time::sleep(Duration::from_secs(from + draw() % (to - from + 1))).await;
            let links = self.links();
            let Some(link) = links.get((draw() % links.len().max(1) as u64) as usize) else { continue };
            self.exchange(link).await;
        }
    }

    async fn catch_up(self: &Arc<Self>, node: NodeId, link: &Arc<dyn PeerLink>) -> Result<(), CatchUpError> {
        let mut catch_up = self.book.lock().catch_up(node);
        let began = Instant::now();
        // Of catalogs that come in several parts, so many bytes are under way as memory is to be had for.
        let mut room = None;
        loop {
            let answer = ask(link, catch_up.request()).await?;
            let patience = PATIENCE + PATIENCE_PER_PART.saturating_mul(catch_up.answers() as u32);
            if began.elapsed() > patience && self.fetching.lock().has_next(node) {
                return Err(CatchUpError::Silent);
            }
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
            // Nothing goes yet: a peer that never brings the rest would cost others their places.
            self.with_room(node, catch_up.expects(), Timestamp::now(), |_, _| ())?;
            if room.is_none() && catch_up.expects() > CATALOG_PART {
                let kib = catch_up.expects().div_ceil(1024).min(CATALOGS_UNDER_WAY / 1024) as u32;
                let got = tokio::time::timeout(ROOM, self.catalog_room.acquire_many(kib)).await;
                room = got.map_err(|_| CatchUpError::Room)?.ok();
            }
        }
        let Some(copy) = catch_up.finish() else { return Ok(()) };
        if node == self.around.identity.node {
            let membership = Arc::clone(self);
            return tokio::task::spawn_blocking(move || membership.overtaken(&copy))
                .await
                .map_err(|_| CatchUpError::Answer);
        }
        let seen = copy.alive_at(Timestamp::now());
        let (had, put, gone) = self.with_room(node, copy.kept(), seen, |book, gone| {
            let had = book.get(node).is_some();
            let put = book.put(Arc::clone(&copy));
            if put {
                gone.iter().for_each(|gone| book.drop_of(*gone));
            }
            (had, put, gone)
        })?;
        if put {
            self.known.lock().seen(node, seen);
            if had {
                // By the owner's clock and this one's: what is negative is no time.
                let ms = Timestamp::now().millis_since(copy.at());
                self.lag.lock().note(Duration::from_millis(ms));
            }
            let membership = Arc::clone(self);
            let stored = Arc::clone(&copy);
            if !gone.is_empty() {
                let mut fetching = self.fetching.lock();
                // Peers go on offering them.
                gone.iter().for_each(|gone| fetching.has_no_room(*gone, Instant::now().into_std()));
                tracing::debug!(count = gone.len(), "catalogs of nodes that are not there made room for another");
            }
            tokio::task::spawn_blocking(move || {
                membership.save_catalog(&stored);
                membership.erase_catalogs(&gone);
            });
            self.tell(&[copy.version()], Some(link.node()));
            self.view_now.notify_one();
        }
        Ok(())
    }

    /// Does something with the catalogs once there is room for one of `node`, whose owner was `seen` at that time if not later:
    /// it is handed those whose catalogs must go for that.
    fn with_room<T>(
        &self,
        node: NodeId,
        bytes: usize,
        seen: Timestamp,
        then: impl FnOnce(&mut CatalogBook, Vec<NodeId>) -> T,
    ) -> Result<T, CatchUpError> {
        let (wall, now) = (Timestamp::now(), std::time::Instant::now());
        let roster = self.roster.lock();
        let known = self.known.lock();
        let mut book = self.book.lock();
        let worth_of = |node: &NodeId, seen: Option<Timestamp>| {
            worth(roster.standing(node, seen, wall, now), seen, known.has_lived(node))
        };
        let seen = Some(seen).max(known.last_seen(&node));
        let own = worth_of(&node, seen);
        if own != Worth::Kept && is_forgotten(seen, wall) {
            return Err(CatchUpError::Forgotten);
        }
        let gone = book.room_for(node, bytes, own, |other| worth_of(other, known.last_seen(other)));
        Ok(then(&mut book, gone.ok_or(CatchUpError::Room)?))
    }

    /// Drops catalogs of owners that were not seen for too long. Blocks on the disk.
    pub(super) fn forget_catalogs(&self, nodes: &[NodeId]) {
        {
            let mut book = self.book.lock();
            nodes.iter().for_each(|node| book.drop_of(*node));
        }
        self.erase_catalogs(nodes);
    }

    /// Takes catalogs that were dropped off the disk. Blocks on it.
    fn erase_catalogs(&self, nodes: &[NodeId]) {
        for node in nodes {
            // It may be back.
            if self.book.lock().get(*node).is_none() {
                let _ = std::fs::remove_file(self.catalog_file(*node));
            }
        }
    }

    fn catalog_file(&self, node: NodeId) -> std::path::PathBuf {
        let place = [self.id.0, node.0].concat();
        let name = data_encoding::HEXLOWER.encode(&self.around.sealer.hash(PURPOSE, &place)[..16]);
        Self::catalog_dir(&self.around, self.id).join(name)
    }

    fn catalog_dir(around: &Around, network: NetworkId) -> std::path::PathBuf {
        let name = data_encoding::HEXLOWER.encode(&around.sealer.hash(PURPOSE, &network.0)[..16]);
        around.state_dir.join("catalogs").join(name)
    }

    /// Blocks on the disk. A failure costs nothing but fetching it again.
    pub(super) fn save_catalog(&self, copy: &CatalogCopy) {
        let dir = Self::catalog_dir(&self.around, self.id);
        let saved = copy.store().map_err(std::io::Error::other).and_then(|plain| {
            let sealed = self.around.sealer.seal(PURPOSE, &self.id.0, &plain).map_err(std::io::Error::other)?;
            std::fs::create_dir_all(&dir)?;
            write_in_place(&self.catalog_file(copy.node()), &[&sealed])
        });
        if let Err(error) = saved {
            tracing::warn!(%error, "a catalog can't be saved");
        }
    }

    /// Every catalog of `network` on disk that opens and whose node was seen, or which was made, not too long ago. Blocks on the
    /// disk.
    pub(super) fn load_catalogs(
        around: &Around,
        network: NetworkId,
        known: &Known,
        wall: Timestamp,
    ) -> Vec<CatalogCopy> {
        let Ok(files) = std::fs::read_dir(Self::catalog_dir(around, network)) else { return Vec::new() };
        let mut copies = Vec::new();
        for file in files.flatten() {
            let load = || {
                let sealed = std::fs::read(file.path()).ok()?;
                let plain = around.sealer.open(PURPOSE, &network.0, &sealed).ok()?;
                CatalogCopy::load(network, &plain).ok()
            };
            match load() {
                Some(copy) if copy.node() == around.identity.node => copies.push(copy),
                Some(copy) if !is_forgotten(known.last_seen(&copy.node()).max(Some(copy.alive_at(wall))), wall) => {
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
