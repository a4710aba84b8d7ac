//! The transfer of one file: drives the section table over live sessions, verifies what comes, and hands it on.
//!
//! Every event (a chunk is there, a source came or went, a reader wants more) changes the state under one short lock
//! and then calls [`Transfer::pump`], which asks each source for as much as its pace allows. Nothing waits under the lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::pace::Pace;
use super::report::{SourceReport, TransferReport, TransferState};
use super::sections::SectionTable;
use super::swarm::Surroundings;
use crate::base::chunks::{chunk_count, group_chunks, group_of};
use crate::base::ids::{ContentId, NodeId, SubtreeHash};
use crate::base::ranges::Ranges;
use crate::base::tree::{BadProof, Proof, VerifiedChunk, verify_chunk};
use crate::net::link::{LinkError, PeerLink, RawChunk};
use crate::wire::message::{Opened, Request, Response};

/// How long a file that had a source and lost the last one waits for another before its reads fail: longer than a
/// session needs to be opened anew, shorter than a person waits.
const NO_SOURCE_GRACE: Duration = Duration::from_secs(3);
/// A control request (open, group) that takes longer than this is asked of another source.
const CONTROL_DEADLINE: Duration = Duration::from_secs(5);
/// A busy source is asked again after this.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

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

type Waiter = oneshot::Sender<Result<VerifiedChunk, FetchError>>;

/// What a source turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Asked what it holds.
    Opening,
    /// Brings chunks.
    Open,
    /// Its file has changed.
    Changed,
    /// Refuses, lies, or does not have it: not asked again in this session.
    Useless,
}

struct SourceState {
    link: Arc<dyn PeerLink>,
    phase: Phase,
    pace: Pace,
    /// Deadlines missed in a row; a source with any is asked for one chunk at a time.
    strikes: u32,
    busy_until: Option<Instant>,
    part: SourcePart,
}

/// What is told of a source, kept after it has gone.
#[derive(Clone, Default)]
struct SourcePart {
    name: String,
    bytes: u64,
    wire_bytes: u64,
    brought: Ranges,
    retries: u64,
    bad: u64,
}

struct State {
    table: SectionTable,
    proof: Option<Proof>,
    /// Wanted chunks whose group's hashes are not there yet, and whom each such group has been asked of.
    unproved: Ranges,
    groups_asked: BTreeMap<u64, NodeId>,
    waiters: HashMap<u64, Vec<Waiter>>,
    sources: BTreeMap<NodeId, SourceState>,
    parted: BTreeMap<NodeId, SourcePart>,
    had_source: bool,
    grace_running: bool,
    bytes: u64,
    last: Option<Instant>,
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

    /// These will probably be read soon.
    pub fn ahead(&self, chunks: &Ranges) {
        self.0.ahead(chunks);
    }

    /// How it stands.
    pub fn report(&self) -> TransferReport {
        self.0.report()
    }
}

impl Drop for TransferUse {
    fn drop(&mut self) {
        if self.0.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            let mut state = self.0.state.lock();
            state.table.unwant(&self.0.all());
            state.unproved = Ranges::new();
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let mut report = self.report();
        if report.bytes > 0 {
            report.state = TransferState::Ended;
            self.around.remember(report);
        }
    }
}

fn now() -> Instant {
    // Tokio's clock, so that tests can turn it.
    tokio::time::Instant::now().into_std()
}

impl Transfer {
    pub(super) fn new(content: ContentId, around: Arc<Surroundings>) -> Arc<Self> {
        let state = State {
            table: SectionTable::new(),
            proof: None,
            unproved: Ranges::new(),
            groups_asked: BTreeMap::new(),
            waiters: HashMap::new(),
            sources: BTreeMap::new(),
            parted: BTreeMap::new(),
            had_source: false,
            grace_running: false,
            bytes: 0,
            last: None,
        };
        Arc::new(Self { content, around, state: Mutex::new(state), users: AtomicUsize::new(0), began: Instant::now() })
    }

    fn all(&self) -> Ranges {
        Ranges::of(0..chunk_count(self.content.size))
    }

    async fn chunk(self: &Arc<Self>, index: u64) -> Result<VerifiedChunk, FetchError> {
        if index >= chunk_count(self.content.size) {
            return Err(FetchError::NoSource);
        }
        let arrives = {
            let mut state = self.state.lock();
            if state.table.done().contains(index) {
                // It came while the caller looked elsewhere, or it has left the cache since.
                if let Some(chunk) = self.around.keep.recall(self.content, index) {
                    return Ok(chunk);
                }
                state.table.forget(&Ranges::of(index..index + 1));
            }
            let (waiter, arrives) = oneshot::channel();
            state.waiters.entry(index).or_default().push(waiter);
            state.want(&Ranges::of(index..index + 1));
            arrives
        };
        self.pump();
        // The sender goes only together with the transfer.
        arrives.await.unwrap_or(Err(FetchError::NoSource))
    }

    fn ahead(self: &Arc<Self>, chunks: &Ranges) {
        {
            let mut state = self.state.lock();
            let mut new = chunks.intersection(&self.all());
            new.subtract(state.table.done());
            if new.is_empty() {
                return;
            }
            state.want(&new);
        }
        self.pump();
    }

    /// Brings the list of sources up to date and asks newcomers what they hold.
    pub(super) fn refresh(self: &Arc<Self>) {
        let links = self.around.finder.sources(&self.content);
        let mut fresh = Vec::new();
        {
            let mut state = self.state.lock();
            let gone: Vec<NodeId> = state
                .sources
                .iter()
                .filter(|(node, source)| source.link.is_closed() || !links.iter().any(|link| link.node() == **node))
                .map(|(node, _)| *node)
                .collect();
            for node in gone {
                state.source_gone(node);
            }
            for link in links {
                let node = link.node();
                if link.is_closed() || state.sources.contains_key(&node) {
                    continue;
                }
                let mut part = state.parted.remove(&node).unwrap_or_default();
                part.name = link.name().to_owned();
                let source = SourceState {
                    link: Arc::clone(&link),
                    phase: Phase::Opening,
                    pace: Pace::new(),
                    strikes: 0,
                    busy_until: None,
                    part,
                };
                state.sources.insert(node, source);
                fresh.push(link);
            }
        }
        for link in fresh {
            let transfer = Arc::clone(self);
            self.around.runtime.spawn(async move { transfer.open(link).await });
        }
        self.pump();
    }

    /// Asks a new source what it holds: the handshake of the transfer.
    async fn open(self: Arc<Self>, link: Arc<dyn PeerLink>) {
        let node = link.node();
        let answer = tokio::time::timeout(CONTROL_DEADLINE, link.request(Request::Open(self.content))).await;
        let mut inline = None;
        {
            let mut state = self.state.lock();
            let outcome = match answer {
                Ok(Ok(Response::Opened(opened))) => state.opened(self.content, node, opened, &mut inline),
                Ok(Err(LinkError::Changed)) => Err(Phase::Changed),
                Ok(Err(LinkError::NotHere(_))) => Err(Phase::Useless),
                Ok(Err(LinkError::Closed)) | Ok(Err(LinkError::Busy)) | Err(_) => {
                    // Might do better later: forgotten, and found anew at the next change of sources.
                    state.source_gone(node);
                    Ok(())
                }
                Ok(_) => Err(Phase::Useless),
            };
            if let Err(phase) = outcome {
                tracing::debug!(peer = %node.short(12), ?phase, "not a source of this file");
                state.set_aside(node, phase);
            }
        }
        if let Some((chunk, wire_len)) = inline {
            self.landed(node, &chunk, wire_len, now());
        }
        self.pump();
    }

    /// Asks every source for as much as its pace allows, and for the groups' hashes that are missing.
    pub(super) fn pump(self: &Arc<Self>) {
        let (mut chunks, mut groups) = (Vec::new(), Vec::new());
        {
            let mut state = self.state.lock();
            if self.users.load(Ordering::Acquire) > 0 {
                state.plan(now(), &mut chunks);
                state.plan_groups(self.content, &mut groups);
                self.watch_hopeless(&mut state);
            }
        }
        for (link, index, deadline) in chunks {
            let transfer = Arc::clone(self);
            self.around.runtime.spawn(async move { transfer.ask(link, index, deadline).await });
        }
        for (link, group) in groups {
            let transfer = Arc::clone(self);
            self.around.runtime.spawn(async move { transfer.ask_group(link, group).await });
        }
    }

    /// One chunk from one source, from the question to the verified bytes.
    async fn ask(self: Arc<Self>, link: Arc<dyn PeerLink>, index: u64, deadline: Duration) {
        let (node, asked) = (link.node(), now());
        let answer = with_progress(&*link, deadline, link.chunk(self.content, index)).await;
        match answer {
            Some(Ok(raw)) => match self.verify(index, raw) {
                Ok((chunk, wire_len)) => self.landed(node, &chunk, wire_len, asked),
                Err(BadProof::Bytes | BadProof::Hash | BadProof::Count) => {
                    tracing::warn!(peer = %node.short(12), "a peer sent bytes that do not match the file's hash");
                    let mut state = self.state.lock();
                    if let Some(source) = state.sources.get_mut(&node) {
                        source.part.bad += 1;
                    }
                    state.set_aside(node, Phase::Useless);
                }
            },
            Some(Err(error)) => self.not_brought(node, index, error),
            None => self.late(node, index),
        }
        self.pump();
    }

    fn verify(&self, index: u64, raw: RawChunk) -> Result<(VerifiedChunk, usize), BadProof> {
        let expected = self.state.lock().proof.as_ref().and_then(|proof| proof.chunk(index)).ok_or(BadProof::Hash)?;
        // Hashing happens outside of the lock.
        Ok((verify_chunk(self.content, index, expected, raw.bytes)?, raw.wire_len))
    }

    fn landed(&self, node: NodeId, chunk: &VerifiedChunk, wire_len: usize, asked: Instant) {
        self.around.keep.keep(chunk);
        let waiters = {
            let mut state = self.state.lock();
            let (index, len) = (chunk.index(), chunk.bytes().len());
            let now = now();
            let first = state.table.verified(index, node);
            if first {
                state.bytes += len as u64;
                state.last = Some(now);
            }
            let mut rate = None;
            if let Some(source) = state.sources.get_mut(&node) {
                source.pace.delivered(len, asked, now);
                source.strikes = 0;
                source.part.wire_bytes += wire_len as u64;
                if first {
                    source.part.bytes += len as u64;
                    source.part.brought.insert_one(index);
                }
                rate = Some(source.pace.rate());
            }
            if let Some(rate) = rate {
                state.table.rate(node, rate);
            }
            state.waiters.remove(&index).unwrap_or_default()
        };
        for waiter in waiters {
            // The reader may have gone.
            let _ = waiter.send(Ok(chunk.clone()));
        }
    }

    fn not_brought(self: &Arc<Self>, node: NodeId, index: u64, error: LinkError) {
        let mut state = self.state.lock();
        let urgent = state.waiters.contains_key(&index);
        state.table.failed(index, node, urgent);
        if let Some(source) = state.sources.get_mut(&node) {
            source.part.retries += 1;
        }
        match error {
            LinkError::NotHere(held) => {
                let rate = state.sources.get(&node).map_or(1.0, |source| source.pace.rate());
                let mut held = held.intersection(&self.all());
                // Whatever it says, it has just refused this one.
                held.remove(index..index + 1);
                state.table.source(node, Some(held), rate);
            }
            LinkError::Changed => state.set_aside(node, Phase::Changed),
            LinkError::Refused | LinkError::Protocol => state.set_aside(node, Phase::Useless),
            LinkError::Closed => state.source_gone(node),
            LinkError::Busy => {
                if let Some(source) = state.sources.get_mut(&node) {
                    source.busy_until = Some(now() + BUSY_PAUSE);
                }
                let transfer = Arc::clone(self);
                self.around.runtime.spawn(async move {
                    tokio::time::sleep(BUSY_PAUSE).await;
                    transfer.pump();
                });
            }
        }
    }

    /// Nothing at all came from this source for its deadline: it loses its section.
    fn late(&self, node: NodeId, index: u64) {
        let mut state = self.state.lock();
        let urgent = state.waiters.contains_key(&index);
        state.table.failed(index, node, urgent);
        state.table.release_section(node);
        if let Some(source) = state.sources.get_mut(&node) {
            source.strikes += 1;
            source.part.retries += 1;
        }
    }

    async fn ask_group(self: Arc<Self>, link: Arc<dyn PeerLink>, group: u64) {
        let node = link.node();
        let request = Request::Group { content: self.content, group };
        let answer = tokio::time::timeout(CONTROL_DEADLINE, link.request(request)).await;
        {
            let mut state = self.state.lock();
            state.groups_asked.remove(&group);
            match answer {
                Ok(Ok(Response::Group(hashes))) => {
                    if state.proved(self.content, group, hashes).is_err() {
                        tracing::warn!(peer = %node.short(12), "a peer sent hashes that do not match the file's hash");
                        state.set_aside(node, Phase::Useless);
                    } else if let Some(proof) = &state.proof {
                        self.around.keep.keep_proof(proof);
                    }
                }
                Ok(Err(LinkError::Changed)) => state.set_aside(node, Phase::Changed),
                Ok(Err(LinkError::Closed)) | Err(_) => state.source_gone(node),
                Ok(_) => state.set_aside(node, Phase::Useless),
            }
        }
        self.pump();
    }

    /// Readers that wait for what nobody can bring get an error: at once where there never was a source, after a
    /// grace where there was one.
    fn watch_hopeless(self: &Arc<Self>, state: &mut State) {
        if !state.hopeless() {
            return;
        }
        if !state.had_source {
            state.fail_hopeless();
        } else if !state.grace_running {
            state.grace_running = true;
            let transfer = Arc::clone(self);
            self.around.runtime.spawn(async move {
                tokio::time::sleep(NO_SOURCE_GRACE).await;
                let mut state = transfer.state.lock();
                state.grace_running = false;
                if state.hopeless() {
                    state.fail_hopeless();
                }
            });
        }
    }

    pub(super) fn report(&self) -> TransferReport {
        let state = self.state.lock();
        let live = state.sources.iter().map(|(node, source)| {
            let mut report = source.part.report(*node);
            report.live = matches!(source.phase, Phase::Open | Phase::Opening);
            report.section = state.table.section_of(*node);
            report.in_flight = state.table.in_flight_of(*node);
            report.rate = source.pace.measured().unwrap_or(0.0) as u64;
            report.rtt_micros = source.link.stats().rtt_micros;
            report
        });
        let parted = state.parted.iter().map(|(node, part)| part.report(*node));
        let busy = state.table.is_busy() || !state.unproved.is_empty();
        TransferReport {
            content: self.content,
            state: if busy { TransferState::Active } else { TransferState::Idle },
            bytes: state.bytes,
            done: state.table.done().clone(),
            age: self.began.elapsed(),
            quiet: state.last.map(|last| now().saturating_duration_since(last)),
            sources: live.chain(parted).collect(),
        }
    }
}

/// The answer, or `None` once nothing at all came over the link for `deadline`.
async fn with_progress<T>(link: &dyn PeerLink, deadline: Duration, answer: impl Future<Output = T>) -> Option<T> {
    let mut answer = std::pin::pin!(answer);
    let mut received = link.stats().received;
    loop {
        if let Ok(answer) = tokio::time::timeout(deadline, &mut answer).await {
            return Some(answer);
        }
        let now_received = link.stats().received;
        if now_received == received {
            return None;
        }
        received = now_received;
    }
}

impl SourcePart {
    fn report(&self, node: NodeId) -> SourceReport {
        SourceReport {
            node,
            name: self.name.clone(),
            live: false,
            bytes: self.bytes,
            wire_bytes: self.wire_bytes,
            chunks: self.brought.len(),
            section: Ranges::new(),
            brought: self.brought.clone(),
            in_flight: 0,
            rate: 0,
            rtt_micros: 0,
            retries: self.retries,
            bad: self.bad,
        }
    }
}

impl State {
    /// Wants chunks: those that can be verified go to the table, the others wait for their group's hashes.
    fn want(&mut self, chunks: &Ranges) {
        let mut provable = Ranges::new();
        for run in chunks.runs() {
            let mut at = run.start;
            while at < run.end {
                let group_end = (group_of(at) + 1) * crate::base::chunks::GROUP_CHUNKS;
                let part = at..run.end.min(group_end);
                at = part.end;
                if self.proof.as_ref().is_some_and(|proof| proof.has_group(group_of(part.start))) {
                    provable.insert(part);
                } else {
                    self.unproved.insert(part);
                }
            }
        }
        self.table.want(&provable);
        self.hurry();
    }

    /// What readers wait for goes first.
    fn hurry(&mut self) {
        for &index in self.waiters.keys() {
            if !self.unproved.contains(index) {
                self.table.want_now(index);
            }
        }
    }

    fn opened(
        &mut self,
        content: ContentId,
        node: NodeId,
        opened: Opened,
        inline: &mut Option<(VerifiedChunk, usize)>,
    ) -> Result<(), Phase> {
        if self.proof.is_none() {
            self.proof = Some(Proof::new(content, opened.groups).map_err(|_| Phase::Useless)?);
        }
        if !opened.first_group.is_empty() && self.proved(content, 0, opened.first_group).is_err() {
            return Err(Phase::Useless);
        }
        if let Some(bytes) = opened.content {
            let wire_len = bytes.len();
            let chunk = verify_chunk(content, 0, SubtreeHash(content.root.0), bytes.into_vec().into());
            *inline = Some((chunk.map_err(|_| Phase::Useless)?, wire_len));
        }
        let held = opened.held.intersection(&Ranges::of(0..chunk_count(content.size)));
        let Some(source) = self.sources.get_mut(&node) else { return Ok(()) };
        source.phase = Phase::Open;
        self.had_source = true;
        let rate = source.pace.rate();
        self.table.source(node, Some(held), rate);
        // A proof that came with this answer makes chunks askable.
        let unproved = std::mem::take(&mut self.unproved);
        self.want(&unproved);
        Ok(())
    }

    /// Adds a group's hashes, if they prove themselves.
    fn proved(&mut self, content: ContentId, group: u64, hashes: Vec<SubtreeHash>) -> Result<(), BadProof> {
        let proof = self.proof.as_mut().ok_or(BadProof::Hash)?;
        if !proof.has_group(group) {
            proof.add_group(group, hashes)?;
        }
        let ready = self.unproved.intersection(&Ranges::of(group_chunks(content.size, group)));
        self.unproved.subtract(&ready);
        self.want(&ready);
        Ok(())
    }

    /// Fills every source's pipeline.
    fn plan(&mut self, now: Instant, asks: &mut Vec<(Arc<dyn PeerLink>, u64, Duration)>) {
        let some_healthy = self.sources.values().any(|source| source.phase == Phase::Open && source.strikes == 0);
        // One chunk each in turn, so that the first source in the map is not always given the head.
        loop {
            let before = asks.len();
            for (node, source) in &mut self.sources {
                if source.phase != Phase::Open || source.busy_until.is_some_and(|until| until > now) {
                    continue;
                }
                let in_flight = self.table.in_flight_of(*node);
                let depth = match source.strikes {
                    0 => source.pace.depth(),
                    // A probe at a time, and only for what nobody waits for while others can bring it.
                    _ if some_healthy && !self.waiters.is_empty() => 0,
                    _ => 1,
                };
                if in_flight < depth
                    && let Some(index) = self.table.next(*node)
                {
                    asks.push((Arc::clone(&source.link), index, source.pace.deadline(in_flight)));
                }
            }
            if asks.len() == before {
                break;
            }
        }
    }

    /// Asks the quickest free source for the hashes of each group that something wanted waits for.
    fn plan_groups(&mut self, content: ContentId, asks: &mut Vec<(Arc<dyn PeerLink>, u64)>) {
        if self.proof.is_none() {
            return;
        }
        let groups: Vec<u64> = self
            .unproved
            .runs()
            .iter()
            .flat_map(|run| group_of(run.start)..=group_of(run.end - 1))
            .filter(|group| !self.groups_asked.contains_key(group))
            .collect();
        for group in groups {
            let chunks = group_chunks(content.size, group);
            let usable = self.sources.iter().filter(|(_, source)| source.phase == Phase::Open);
            let best =
                usable.min_by(|(_, a), (_, b)| a.strikes.cmp(&b.strikes).then(b.pace.rate().total_cmp(&a.pace.rate())));
            let Some((node, source)) = best else { break };
            debug_assert!(!chunks.is_empty());
            asks.push((Arc::clone(&source.link), group));
            self.groups_asked.insert(group, *node);
        }
    }

    /// The session is over, or may be worth another try later.
    fn source_gone(&mut self, node: NodeId) {
        self.table.source_gone(node);
        if let Some(source) = self.sources.remove(&node) {
            self.parted.insert(node, source.part);
        }
        self.hurry();
    }

    /// The source stays connected but is of no use for this file.
    fn set_aside(&mut self, node: NodeId, phase: Phase) {
        self.table.source_gone(node);
        if let Some(source) = self.sources.get_mut(&node) {
            source.phase = phase;
        }
        self.hurry();
    }

    /// True if a reader waits for what no source can bring and none is about to say whether it can.
    fn hopeless(&self) -> bool {
        !self.waiters.is_empty()
            && !self.sources.values().any(|source| source.phase == Phase::Opening)
            && (!self.sources.values().any(|source| source.phase == Phase::Open)
                || self.waiters.keys().any(|index| !self.table.can_come(*index)))
    }

    fn fail_hopeless(&mut self) {
        let open = self.sources.values().any(|source| source.phase == Phase::Open);
        let changed = self.sources.values().any(|source| source.phase == Phase::Changed);
        let error = if changed && !open { FetchError::Gone } else { FetchError::NoSource };
        let table = &self.table;
        let hopeless: Vec<u64> =
            self.waiters.keys().copied().filter(|index| !open || !table.can_come(*index)).collect();
        for index in hopeless {
            let one = Ranges::of(index..index + 1);
            self.table.unwant(&one);
            self.unproved.subtract(&one);
            for waiter in self.waiters.remove(&index).unwrap_or_default() {
                let _ = waiter.send(Err(error));
            }
        }
    }
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod tests;
