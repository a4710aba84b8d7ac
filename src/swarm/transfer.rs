//! The transfer of one file: drives the planner over live sessions, verifies what comes, and hands it on.
//!
//! Every event (a chunk is there, a source came or went, a reader wants more) changes the state under one short lock;
//! what the planner then wants done is taken out of it under the same lock and done after it. Nothing waits under the lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::download::Download;
use super::quarantine::Lie;
use super::report::{TransferReport, TransferState};
use super::source::Ticket;
use super::state::{Phase, State, Todo};
use super::swarm::Surroundings;
use crate::base::chunks::chunk_count;
use crate::base::ids::{ContentId, NodeId, SubtreeHash};
use crate::base::quiet::may_log;
use crate::base::ranges::Ranges;
use crate::base::tree::{VerifiedChunk, verify_chunk};
use crate::net::link::{LinkError, PeerLink, RawChunk};
use crate::wire::message::{Notice, Request, Response};

/// A control request (open, group) that takes longer than this has failed. Others are asked long before.
const CONTROL_DEADLINE: Duration = Duration::from_secs(5);
/// A source that can't say yet what it has, as it has only just begun, is asked again after this.
const BUSY_AGAIN: Duration = Duration::from_millis(200);

/// Why a chunk did not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Nobody that is live can bring it.
    #[error("no live peer has it")]
    NoSource,
    /// Every source says that its file has changed.
    #[error("every source has changed")]
    Gone,
}

/// See the module.
pub struct Transfer {
    content: ContentId,
    around: Arc<Surroundings>,
    state: Mutex<State>,
    users: AtomicUsize,
    began: Instant,
}

/// Somebody's use of a transfer: while any is held, it fetches.
pub struct TransferUse(Arc<Transfer>);

impl TransferUse {
    pub(super) fn new(transfer: Arc<Transfer>) -> Self {
        transfer.users.fetch_add(1, Ordering::AcqRel);
        Self(transfer)
    }

    pub(super) fn transfer(&self) -> &Arc<Transfer> {
        &self.0
    }

    /// Chunk `index`, fetched at once and before all else. Others who wait for it share the fetch.
    pub async fn chunk(&self, index: u64) -> Result<VerifiedChunk, FetchError> {
        self.0.chunk(index).await
    }

    /// These will probably be read soon, the first ones first.
    pub fn ahead(&self, chunks: &Ranges) {
        self.0.ahead(chunks);
    }

    /// All of these, in no particular order, as they arrive and as fast as they are taken. Readers of the same transfer
    /// go before it.
    pub fn download(&self, wanted: &Ranges) -> Download {
        Download::new(Self::new(Arc::clone(&self.0)), wanted)
    }

    /// Verified bytes that it has brought so far.
    pub fn bytes(&self) -> u64 {
        self.0.state.lock().fetched()
    }

    /// How it stands.
    pub fn report(&self) -> TransferReport {
        self.0.report()
    }
}

impl Drop for TransferUse {
    fn drop(&mut self) {
        if self.0.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.with(|state, _| state.unwant_all());
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let mut report = self.report();
        self.state.lock().remember_rates(&self.around);
        if report.bytes > 0 {
            report.state = TransferState::Ended;
            self.around.remember(report);
        }
    }
}

pub(super) fn now() -> Instant {
    // Tokio's clock, so that tests can turn it.
    tokio::time::Instant::now().into_std()
}

impl Transfer {
    pub(super) fn new(content: ContentId, around: Arc<Surroundings>) -> Arc<Self> {
        let (now, seed) = (now(), around.seed(&content));
        let state = Mutex::new(State::new(content, seed, now));
        Arc::new(Self { content, around, state, users: AtomicUsize::new(0), began: now })
    }

    /// Changes the state, then does what follows from it.
    fn with<R>(self: &Arc<Self>, change: impl FnOnce(&mut State, Instant) -> R) -> R {
        let (result, todo, timer) = {
            let mut state = self.state.lock();
            let now = now();
            let result = change(&mut state, now);
            let todo = state.todo(&self.around, now);
            let timer = !state.timer && state.planner.wake().is_some();
            state.timer |= timer;
            (result, todo, timer)
        };
        self.act(todo);
        if timer {
            let (weak, runtime) = (Arc::downgrade(self), self.around.runtime.clone());
            runtime.spawn(async move {
                while let Some(wake) = weak.upgrade().and_then(|transfer| transfer.wake()) {
                    tokio::time::sleep_until(wake.into()).await;
                    if let Some(transfer) = weak.upgrade() {
                        transfer.tick();
                    }
                }
            });
        }
        result
    }

    fn act(self: &Arc<Self>, todo: Todo) {
        todo.opens.into_iter().for_each(|link| self.open(link));
        for (link, ticket, cancelled) in todo.chunks {
            let transfer = Arc::clone(self);
            self.around.runtime.spawn(async move { transfer.ask(link, ticket, cancelled).await });
        }
        for (link, group) in todo.groups {
            let transfer = Arc::clone(self);
            self.around.runtime.spawn(async move { transfer.ask_group(link, group).await });
        }
        for (waiter, answer) in todo.answers {
            // The reader may have gone.
            let _ = waiter.send(answer);
        }
    }

    /// When to look again; `None`, and no more timer, when nothing is wanted.
    fn wake(&self) -> Option<Instant> {
        let mut state = self.state.lock();
        let wake = state.planner.wake();
        state.timer = wake.is_some();
        if wake.is_none() {
            self.tell(&mut state, true);
        }
        wake
    }

    fn tick(self: &Arc<Self>) {
        self.with(|state, now| {
            state.tick(now);
            self.tell(state, false);
        });
    }

    /// Tells other downloaders what has become available here.
    fn tell(&self, state: &mut State, all: bool) {
        let Some(held) = state.news(now(), all) else { return };
        let mut links = self.around.downloader_links(&self.content, now());
        links.extend(state.downloading().map(|(node, link)| (node, Arc::clone(link))));
        links.sort_unstable_by_key(|(node, _)| *node);
        links.dedup_by_key(|(node, _)| *node);
        for (_, link) in links {
            link.notify(Notice::Held { content: self.content, held: held.clone() });
        }
    }

    // ---- What is wanted.

    async fn chunk(self: &Arc<Self>, index: u64) -> Result<VerifiedChunk, FetchError> {
        if index >= chunk_count(self.content.size) {
            return Err(FetchError::NoSource);
        }
        // It may have come while the caller looked elsewhere.
        if self.state.lock().planner.table().done().contains(index)
            && let Some(chunk) = self.around.keep.recall(self.content, index)
        {
            return Ok(chunk);
        }
        if self.state.lock().is_deserted() {
            // The view may know of a source already of which this transfer is about to be told.
            self.refresh();
        }
        let (waiter, arrives) = oneshot::channel();
        self.with(|state, now| state.wait_for(index, waiter, now));
        // The sender goes only together with the transfer.
        arrives.await.unwrap_or(Err(FetchError::NoSource))
    }

    fn ahead(self: &Arc<Self>, chunks: &Ranges) {
        let chunks = chunks.intersection(&Ranges::of(0..chunk_count(self.content.size)));
        self.with(|state, _| state.planner.want_near(&chunks));
    }

    pub(super) fn begin_download(
        self: &Arc<Self>,
        wanted: &Ranges,
        chunks: mpsc::UnboundedSender<Result<VerifiedChunk, FetchError>>,
    ) -> u64 {
        let wanted = wanted.intersection(&Ranges::of(0..chunk_count(self.content.size)));
        self.with(|state, now| state.begin_download(wanted, chunks, now))
    }

    pub(super) fn end_download(self: &Arc<Self>, id: u64) {
        self.with(|state, _| state.end_download(id));
    }

    /// One chunk was taken out of a download's queue.
    pub(super) fn taken(self: &Arc<Self>, id: u64) {
        self.with(|state, _| state.taken(id));
    }

    /// A chunk that the download wants and that was verified before it began.
    pub(super) fn from_cache(self: &Arc<Self>, id: u64) -> Option<VerifiedChunk> {
        loop {
            // A statement of its own: the lock must be free again before the state is changed below.
            let next = self.state.lock().next_there(id);
            let index = next?;
            if let Some(chunk) = self.around.keep.recall(self.content, index) {
                return Some(chunk);
            }
            self.with(|state, now| state.want_again(id, index, now));
        }
    }

    pub(super) fn is_handed_over(&self, id: u64) -> bool {
        self.state.lock().is_handed_over(id)
    }

    // ---- Sources.

    /// Brings the list of sources up to date and asks newcomers what they hold; of a small file, the best one first.
    pub(super) fn refresh(self: &Arc<Self>) {
        let links = self.around.finder.sources(&self.content);
        let calling = self.around.finder.is_calling(&self.content);
        let fresh = self.with(|state, now| {
            state.calling = calling;
            state.keep_only(&links, now);
            let links = links.into_iter().filter(|link| !self.around.bars(link.node(), &self.content, now));
            if state.is_small() {
                links.for_each(|link| state.line_up(&link, None));
                return Vec::new();
            }
            let added = links.filter(|link| state.add(link, None, &self.around, now));
            added.collect::<Vec<_>>()
        });
        fresh.into_iter().for_each(|link| self.open(link));
    }

    /// A downloader of the same file: what it holds is not in any catalog, and grows. `held`: what it said so far.
    pub(super) fn add_downloader(self: &Arc<Self>, link: &Arc<dyn PeerLink>, held: &Ranges) {
        let held = held.intersection(&Ranges::of(0..chunk_count(self.content.size)));
        let node = link.node();
        let mut opens = false;
        let added = self.with(|state, now| {
            if link.is_closed() || self.around.bars(node, &self.content, now) {
                return false;
            }
            if state.knows(node) {
                state.holds_more(node, &held);
                return false;
            }
            if state.is_small() {
                state.line_up(link, Some(held));
                return true;
            }
            let added = state.add(link, Some(held), &self.around, now);
            opens = added;
            added
        });
        if !added {
            return;
        }
        if opens {
            self.open(Arc::clone(link));
        }
        let (transfer, link) = (Arc::downgrade(self), Arc::clone(link));
        self.around.runtime.spawn(async move {
            // No catalog tells when it goes.
            link.closed().await;
            if let Some(transfer) = transfer.upgrade() {
                transfer.with(|state, now| state.link_closed(&link, now));
            }
        });
    }

    /// True if `node` is a source of it already.
    pub(super) fn knows(&self, node: NodeId) -> bool {
        self.state.lock().knows(node)
    }

    /// Asks a new source what it holds: the handshake of the transfer.
    fn open(self: &Arc<Self>, link: Arc<dyn PeerLink>) {
        let transfer = Arc::clone(self);
        let node = link.node();
        let small = self.content.is_small().then(|| self.around.opens(node, self.content.size));
        self.around.runtime.spawn(async move {
            let answer = tokio::time::timeout(CONTROL_DEADLINE, link.request(Request::Open(transfer.content))).await;
            drop(small);
            let busy = matches!(answer, Ok(Err(LinkError::Busy)));
            let (inline, ready) = transfer.with(|state, now| {
                let outcome = match answer {
                    Ok(Ok(Response::Opened(opened))) => state.opened(node, opened, now),
                    Ok(Err(LinkError::NotHere(_))) if state.is_downloader(node) => state.opened_empty(node),
                    Ok(Err(LinkError::NotHere(_))) => Err(Phase::Useless),
                    Ok(Err(LinkError::Changed)) => Err(Phase::Changed),
                    Ok(Err(LinkError::Busy)) => {
                        state.not_ready(node, now);
                        Ok(None)
                    }
                    // Might do better later: forgotten, and found anew at the next change of sources.
                    Ok(Err(LinkError::Closed)) | Err(_) => {
                        state.source_gone(node, now);
                        Ok(None)
                    }
                    Ok(_) => Err(Phase::Useless),
                };
                let inline = outcome.unwrap_or_else(|phase| {
                    tracing::debug!(peer = %node.short(12), ?phase, "not a source of this file");
                    if phase == Phase::Lied {
                        self::caught(&transfer, node, Lie::Hashes, now);
                    }
                    state.set_aside(node, phase, now);
                    None
                });
                if let Some(proof) = state.proving.proof() {
                    transfer.around.keep.keep_proof(proof);
                }
                if let Some((chunk, wire_len)) = &inline {
                    // Under the same lock: nobody must be asked for it in between.
                    transfer.around.keep.keep(chunk);
                    state.landed(node, None, chunk, *wire_len, now);
                }
                (inline, state.proving.ready())
            });
            if let Some((chunk, _)) = inline {
                transfer.around.finder.brought(&node, chunk.bytes().len());
            }
            transfer.prove(ready);
            if busy {
                tokio::time::sleep(BUSY_AGAIN).await;
                // A statement of its own: refreshing takes the lock again.
                let wanted = transfer.state.lock().is_wanted();
                if wanted {
                    transfer.refresh();
                }
            }
        });
    }

    // ---- Answers.

    /// One chunk from one source, from the question to the verified bytes. Ends at once when it is cancelled.
    async fn ask(self: Arc<Self>, link: Arc<dyn PeerLink>, ticket: Ticket, cancelled: oneshot::Receiver<()>) {
        let answer = tokio::select! {
            answer = link.chunk(self.content, ticket.chunk) => answer,
            _ = cancelled => return,
        };
        match answer {
            Ok(raw) => {
                let proved = self.with(|state, now| state.brought(ticket, raw, now));
                if let Some((raw, expected)) = proved {
                    self.verify(ticket, raw, expected);
                }
            }
            Err(error) => {
                let node = link.node();
                self.with(|state, now| {
                    if error == LinkError::Protocol {
                        caught(&self, node, Lie::Protocol, now);
                    }
                    state.not_brought(ticket, node, error, now);
                });
            }
        }
    }

    fn verify(self: &Arc<Self>, ticket: Ticket, raw: RawChunk, expected: SubtreeHash) {
        let wire_len = raw.wire_len;
        // Hashing happens outside of the lock.
        let Ok(chunk) = verify_chunk(self.content, ticket.chunk, expected, raw.bytes) else {
            self.with(|state, now| {
                let Some(node) = state.node_of(ticket) else { return };
                caught(self, node, Lie::Chunk, now);
                state.sent_wrong_bytes(node, now);
            });
            return;
        };
        // Before it counts as verified: who looks for it then must find it.
        self.around.keep.keep(&chunk);
        let node = self.with(|state, now| {
            let node = state.node_of(ticket)?;
            state.landed(node, Some(ticket), &chunk, wire_len, now);
            Some(node)
        });
        if let Some(node) = node {
            self.around.finder.brought(&node, chunk.bytes().len());
        }
    }

    fn prove(self: &Arc<Self>, ready: Vec<(Ticket, RawChunk, SubtreeHash)>) {
        for (ticket, raw, expected) in ready {
            self.verify(ticket, raw, expected);
        }
    }

    async fn ask_group(self: Arc<Self>, link: Arc<dyn PeerLink>, group: u64) {
        let node = link.node();
        let request = Request::Group { content: self.content, group };
        let answer = tokio::time::timeout(CONTROL_DEADLINE, link.request(request)).await;
        let ready = self.with(|state, now| {
            match answer {
                Ok(Ok(Response::Group(hashes))) => {
                    if state.proving.group(group, hashes).is_err() {
                        caught(&self, node, Lie::Hashes, now);
                        state.set_aside(node, Phase::Lied, now);
                    } else if let Some(proof) = state.proving.proof() {
                        self.around.keep.keep_proof(proof);
                    }
                }
                Ok(Err(LinkError::Changed)) => state.set_aside(node, Phase::Changed, now),
                Ok(Err(LinkError::Closed)) => state.source_gone(node, now),
                // A downloader may lack what it has not needed yet.
                Ok(Err(LinkError::NotHere(_) | LinkError::Busy)) | Err(_) => {}
                Ok(_) => state.set_aside(node, Phase::Useless, now),
            }
            state.proving.failed(group, node);
            state.proving.ready()
        });
        self.prove(ready);
    }

    pub(super) fn report(&self) -> TransferReport {
        self.state.lock().report(self.content, self.began, now())
    }
}

/// Puts a liar's deed on record. What it was about is told only to who debugs.
fn caught(transfer: &Transfer, node: NodeId, lie: Lie, now: Instant) {
    if let Some(held_back) = may_log(node, "lie") {
        let peer = node.short(12);
        tracing::warn!(%peer, ?lie, held_back, "a peer sent what an honest one can't send; it is not asked for this file again");
    }
    tracing::debug!(peer = %node.short(12), root = %transfer.content.root, "it was about this file");
    transfer.around.quarantine.lock().caught(node, transfer.content, lie, now);
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod tests;
