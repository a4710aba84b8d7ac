//! What a transfer knows, behind its lock: the planner, the sources' sessions, who waits for what. No I/O and no waiting
//! in here; what is to be done comes out as a [`Todo`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::download::{Demand, ROOM};
use super::planner::{Act, Planner};
use super::proving::Proving;
use super::report::{Limit, SourceReport, TransferReport, TransferState};
use super::sections::Slot;
use super::small::{Turns, cost};
use super::source::Ticket;
use super::swarm::Surroundings;
use super::transfer::FetchError;
use crate::base::chunks::chunk_count;
use crate::base::ids::{ContentId, NodeId, SubtreeHash};
use crate::base::ranges::Ranges;
use crate::base::tree::{VerifiedChunk, verify_chunk};
use crate::net::link::{LinkError, PeerLink, RawChunk};
use crate::wire::message::Opened;

/// How long a file that had a source and lost the last one waits for another before its reads fail: longer than a
/// session needs to be opened anew, shorter than a person waits.
const NO_SOURCE_GRACE: Duration = Duration::from_secs(3);
/// Until a source says what it allows: what every source must allow.
const FIRST_REQUESTS: usize = 64;
/// News of what this node holds go out when there are this many chunks of them, or after this long...
const NEWS_CHUNKS: u64 = 16;
const NEWS_AGE: Duration = Duration::from_millis(200);
/// ...but not more often than this.
const NEWS_PAUSE: Duration = Duration::from_millis(50);
/// Runs in what a peer says that it holds: what would be more is not believed.
const MAX_RUNS: usize = 65_536;

pub(super) type Answer = Result<VerifiedChunk, FetchError>;
type Waiter = oneshot::Sender<Answer>;

/// What a source turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Asked what it holds.
    Opening,
    /// Brings chunks.
    Open,
    /// Its file has changed.
    Changed,
    /// Refuses, or does not have it: not asked again in this session.
    Useless,
    /// Sent what is not the file's.
    Lied,
}

struct SourceState {
    link: Arc<dyn PeerLink>,
    phase: Phase,
    /// Its place in the planner, while it is of use.
    slot: Option<Slot>,
    part: SourcePart,
}

/// What is told of a source, kept after it has gone.
#[derive(Clone, Default)]
struct SourcePart {
    name: String,
    downloader: bool,
    bytes: u64,
    wire_bytes: u64,
    brought: Ranges,
    retries: u64,
    hedges: u64,
    bad: u64,
}

/// What is to be done once the lock is free.
#[derive(Default)]
pub(super) struct Todo {
    pub opens: Vec<Arc<dyn PeerLink>>,
    pub chunks: Vec<(Arc<dyn PeerLink>, Ticket, oneshot::Receiver<()>)>,
    pub groups: Vec<(Arc<dyn PeerLink>, u64)>,
    pub answers: Vec<(Waiter, Answer)>,
}

/// See the module.
pub(super) struct State {
    content: ContentId,
    pub planner: Planner,
    pub proving: Proving,
    sources: BTreeMap<NodeId, SourceState>,
    slots: HashMap<Slot, NodeId>,
    /// Of a small file: sources that have not been opened.
    turns: Turns,
    /// By serial: dropping the sender cancels the request.
    open: HashMap<u64, oneshot::Sender<()>>,
    waiters: HashMap<u64, Vec<Waiter>>,
    downloads: BTreeMap<u64, Demand>,
    next_download: u64,
    parted: BTreeMap<NodeId, SourcePart>,
    answers: Vec<(Waiter, Answer)>,
    had_source: bool,
    /// A session to a source is being opened: nothing is hopeless yet.
    pub calling: bool,
    hopeless_since: Option<Instant>,
    /// Verified and not told to other downloaders yet.
    news: Ranges,
    told: Instant,
    /// True while a task waits for the planner's next tick.
    pub timer: bool,
    bytes: u64,
    last: Option<Instant>,
}

impl State {
    pub fn new(content: ContentId, seed: u64, now: Instant) -> Self {
        Self {
            content,
            planner: Planner::new(chunk_count(content.size), seed, now),
            proving: Proving::new(content),
            sources: BTreeMap::new(),
            slots: HashMap::new(),
            turns: Turns::new(now),
            open: HashMap::new(),
            waiters: HashMap::new(),
            downloads: BTreeMap::new(),
            next_download: 0,
            parted: BTreeMap::new(),
            answers: Vec::new(),
            had_source: false,
            calling: false,
            hopeless_since: None,
            news: Ranges::new(),
            told: now,
            timer: false,
            bytes: 0,
            last: None,
        }
    }

    fn all(&self) -> Ranges {
        Ranges::of(0..chunk_count(self.content.size))
    }

    /// Takes out what is to be done.
    pub fn todo(&mut self, around: &Surroundings, now: Instant) -> Todo {
        let mut todo = Todo { opens: self.next_to_open(around, now), ..Todo::default() };
        for act in self.planner.acts(now) {
            match act {
                Act::Ask(ticket) => {
                    let Some(source) = self.slots.get(&ticket.slot).and_then(|node| self.sources.get(node)) else {
                        continue;
                    };
                    self.proving.need(ticket.chunk, now);
                    let (cancel, cancelled) = oneshot::channel();
                    self.open.insert(ticket.serial, cancel);
                    todo.chunks.push((Arc::clone(&source.link), ticket, cancelled));
                }
                Act::Cancel(ticket) => {
                    self.open.remove(&ticket.serial);
                    self.proving.cancel(ticket);
                }
            }
        }
        let (sources, planner) = (&self.sources, &self.planner);
        let groups = self.proving.plan(now, || {
            let open = sources.iter().filter(|(_, source)| source.phase == Phase::Open);
            let mut open: Vec<_> =
                open.filter_map(|(node, source)| Some((planner.account(source.slot?, now)?, *node))).collect();
            let rate = |account: &super::planner::Account| account.measured.unwrap_or(0.0);
            open.sort_by(|(a, _), (b, _)| {
                (a.limit == Limit::Stalled).cmp(&(b.limit == Limit::Stalled)).then(rate(b).total_cmp(&rate(a)))
            });
            open.into_iter().map(|(_, node)| node).collect()
        });
        todo.groups.extend(
            groups.into_iter().filter_map(|(group, node)| Some((Arc::clone(&self.sources.get(&node)?.link), group))),
        );
        self.watch_hopeless(now);
        todo.answers = std::mem::take(&mut self.answers);
        todo
    }

    pub fn tick(&mut self, now: Instant) {
        let (slots, sources) = (&self.slots, &self.sources);
        let received = |slot: Slot| Some(sources.get(slots.get(&slot)?)?.link.stats().received);
        self.planner.tick(now, received);
        for source in self.sources.values() {
            if let Some(slot) = source.slot {
                self.planner.round_trip(slot, Duration::from_micros(source.link.stats().rtt_micros));
            }
        }
    }

    // ---- What is wanted.

    pub fn wait_for(&mut self, index: u64, waiter: Waiter, now: Instant) {
        // If it was verified before, it has left the cache since.
        if self.planner.table().done().contains(index) {
            self.planner.forget(&Ranges::of(index..index + 1));
        }
        self.wants_anew(now);
        let waiters = self.waiters.entry(index).or_default();
        waiters.retain(|waiter| !waiter.is_closed());
        waiters.push(waiter);
        self.planner.want_now(index);
    }

    pub fn unwant_all(&mut self) {
        self.planner.unwant(&self.all());
    }

    pub fn begin_download(&mut self, wanted: Ranges, chunks: mpsc::UnboundedSender<Answer>, now: Instant) -> u64 {
        let there = wanted.intersection(self.planner.table().done());
        let mut missing = wanted;
        missing.subtract(&there);
        let id = self.next_download;
        self.next_download += 1;
        self.downloads.insert(id, Demand { wanted: missing.clone(), there, queued: 0, chunks });
        self.give_credit();
        self.wants_anew(now);
        self.planner.want(&missing);
        id
    }

    /// Ends a download: what neither another one nor a reader wants is wanted no more.
    pub fn end_download(&mut self, id: u64) {
        let Some(ended) = self.downloads.remove(&id) else { return };
        let mut unwanted = ended.wanted;
        self.downloads.values().for_each(|other| unwanted.subtract(&other.wanted));
        unwanted.subtract(self.planner.table().soon());
        self.planner.unwant(&unwanted);
        self.give_credit();
    }

    pub fn taken(&mut self, id: u64) {
        if let Some(download) = self.downloads.get_mut(&id) {
            download.queued = download.queued.saturating_sub(1);
        }
        self.give_credit();
    }

    fn give_credit(&mut self) {
        let queued = self.downloads.values().map(|download| download.queued).max().unwrap_or(0);
        self.planner.credit(ROOM.saturating_sub(queued));
    }

    pub fn next_there(&mut self, id: u64) -> Option<u64> {
        let download = self.downloads.get_mut(&id)?;
        let index = download.there.first()?;
        download.there.remove(index..index + 1);
        Some(index)
    }

    /// It was verified once, and has left the cache.
    pub fn want_again(&mut self, id: u64, index: u64, now: Instant) {
        let one = Ranges::of(index..index + 1);
        if let Some(download) = self.downloads.get_mut(&id) {
            download.wanted.union_with(&one);
        }
        self.planner.forget(&one);
        self.wants_anew(now);
        self.planner.want(&one);
    }

    pub fn is_handed_over(&self, id: u64) -> bool {
        self.downloads
            .get(&id)
            .is_none_or(|download| download.wanted.is_empty() && download.there.is_empty() && download.queued == 0)
    }

    // ---- Sources.

    pub fn knows(&self, node: NodeId) -> bool {
        self.sources.contains_key(&node) || self.turns.knows(node)
    }

    /// Comes whole with the opening.
    pub fn is_small(&self) -> bool {
        self.content.is_small()
    }

    /// A source of a small file, to be opened when its turn comes. `held`: as of [`State::add`].
    pub fn line_up(&mut self, link: &Arc<dyn PeerLink>, held: Option<Ranges>) {
        if !link.is_closed() && !self.sources.contains_key(&link.node()) {
            self.turns.add(link, held);
        }
    }

    /// Before something is wanted: if nothing was, nobody is late with it.
    fn wants_anew(&mut self, now: Instant) {
        if !self.planner.table().is_busy() {
            self.turns.begin(now);
        }
    }

    /// Sources of a small file whose turn it is.
    fn next_to_open(&mut self, around: &Surroundings, now: Instant) -> Vec<Arc<dyn PeerLink>> {
        self.turns.retain(|_| true);
        if self.turns.is_empty() || self.planner.table().done().contains(0) {
            return Vec::new();
        }
        let wanted = self.planner.table().is_busy();
        let asked = || self.sources.values().filter(|source| source.phase == Phase::Opening || source.slot.is_some());
        let received = asked().map(|source| source.link.stats().received).sum();
        let hope = asked().any(|source| source.phase == Phase::Opening) || self.planner.table().can_come(0);
        let due = if hope {
            let rtt = asked().map(|source| source.link.stats().rtt_micros).max().unwrap_or(0);
            wanted && self.turns.are_late(received, Duration::from_micros(rtt), now)
        } else {
            wanted || self.turns.is_fresh()
        };
        if !due {
            return Vec::new();
        }
        let size = self.content.size;
        let next =
            self.turns.take(now, |link| cost(link, size, around.rate(link.node()), around.opening(&link.node())));
        let added = next.into_iter().filter(|next| self.add(&next.link, next.held.clone(), around, now));
        added.map(|next| next.link).collect()
    }

    pub fn is_downloader(&self, node: NodeId) -> bool {
        self.sources.get(&node).is_some_and(|source| source.part.downloader)
    }

    /// Sources that hold a part and may hold more soon.
    pub fn downloading(&self) -> impl Iterator<Item = (NodeId, &Arc<dyn PeerLink>)> {
        let downloading = self.sources.iter().filter(|(_, source)| source.part.downloader && source.slot.is_some());
        downloading.map(|(node, source)| (*node, &source.link))
    }

    /// Who is in no catalog any more, or whose session is over, is gone.
    pub fn keep_only(&mut self, links: &[Arc<dyn PeerLink>], now: Instant) {
        let listed = |node: &NodeId| links.iter().any(|link| link.node() == *node);
        let gone: Vec<NodeId> = self
            .sources
            .iter()
            .filter(|(node, source)| source.link.is_closed() || !(source.part.downloader || listed(node)))
            .map(|(node, _)| *node)
            .collect();
        gone.into_iter().for_each(|node| self.source_gone(node, now));
        self.turns.retain(|candidate| candidate.held.is_some() || listed(&candidate.link.node()));
    }

    /// A new source. `held`: what a downloader holds; `None` for a source from a catalog, which has all of the file, and
    /// is asked for chunks right behind the handshake. False if it is known already.
    pub fn add(&mut self, link: &Arc<dyn PeerLink>, held: Option<Ranges>, around: &Surroundings, now: Instant) -> bool {
        let node = link.node();
        if link.is_closed() || self.sources.contains_key(&node) {
            return false;
        }
        let mut part = self.parted.remove(&node).unwrap_or_default();
        part.name = link.name().to_owned();
        part.downloader = held.is_some();
        // The handshake brings a file of one chunk with it.
        let slot = (part.downloader || !self.is_small()).then(|| {
            if part.downloader {
                self.planner.scatter();
            }
            let slot = self.planner.arrives(held, around.rate(node), FIRST_REQUESTS, now);
            self.planner.round_trip(slot, Duration::from_micros(link.stats().rtt_micros));
            self.slots.insert(slot, node);
            slot
        });
        self.sources.insert(node, SourceState { link: Arc::clone(link), phase: Phase::Opening, slot, part });
        true
    }

    pub fn holds_more(&mut self, node: NodeId, held: &Ranges) {
        if held.runs().len() <= MAX_RUNS
            && let Some(slot) = self.sources.get(&node).and_then(|source| source.slot)
        {
            self.planner.holds_more(slot, &held.intersection(&self.all()));
        }
    }

    /// A downloader that holds nothing yet.
    pub fn opened_empty(&mut self, node: NodeId) -> Result<Option<(VerifiedChunk, usize)>, Phase> {
        if let Some(source) = self.sources.get_mut(&node) {
            source.phase = Phase::Open;
        }
        Ok(None)
    }

    /// What a source answered to the handshake. Returns the file's only chunk if it came with it.
    pub fn opened(
        &mut self,
        node: NodeId,
        opened: Opened,
        now: Instant,
    ) -> Result<Option<(VerifiedChunk, usize)>, Phase> {
        self.proving.first_level(opened.groups).map_err(|_| Phase::Lied)?;
        if !opened.first_group.is_empty() {
            self.proving.group(0, opened.first_group).map_err(|_| Phase::Lied)?;
        }
        let inline = match opened.content {
            Some(bytes) => {
                let wire_len = bytes.len();
                let chunk = verify_chunk(self.content, 0, SubtreeHash(self.content.root.0), bytes.into_vec().into());
                Some((chunk.map_err(|_| Phase::Lied)?, wire_len))
            }
            None => None,
        };
        if opened.held.runs().len() > MAX_RUNS {
            return Err(Phase::Useless);
        }
        let all = self.all();
        let held = opened.held.intersection(&all);
        let held = (held != all).then_some(held);
        let requests = opened.max_requests as usize;
        let Some(source) = self.sources.get_mut(&node) else { return Ok(inline) };
        source.phase = Phase::Open;
        self.had_source = true;
        match source.slot {
            Some(slot) => self.planner.opened(slot, held, requests, now),
            // It is asked for nothing more until what it brought has landed.
            None if inline.is_some() => {}
            None => {
                let slot = self.planner.arrives(held, None, requests, now);
                self.slots.insert(slot, node);
                source.slot = Some(slot);
            }
        }
        Ok(inline)
    }

    pub fn link_closed(&mut self, link: &Arc<dyn PeerLink>, now: Instant) {
        // Another session may have taken its place.
        if self.sources.get(&link.node()).is_some_and(|source| Arc::ptr_eq(&source.link, link)) {
            self.source_gone(link.node(), now);
        }
    }

    /// The session is over, or may be worth another try later.
    pub fn source_gone(&mut self, node: NodeId, now: Instant) {
        self.release(node, now);
        if let Some(source) = self.sources.remove(&node) {
            self.parted.insert(node, source.part);
        }
    }

    /// A source can't say yet what it has: it is asked again, and until then the file is not without a source.
    pub fn not_ready(&mut self, node: NodeId, now: Instant) {
        self.source_gone(node, now);
        self.had_source = true;
    }

    /// True if anybody waits for something.
    pub fn is_wanted(&self) -> bool {
        !self.waiters.is_empty() || !self.downloads.is_empty()
    }

    /// The source stays connected but is of no use for this file.
    pub fn set_aside(&mut self, node: NodeId, phase: Phase, now: Instant) {
        self.release(node, now);
        if let Some(source) = self.sources.get_mut(&node) {
            source.phase = phase;
        }
    }

    /// Verified bytes so far.
    pub fn fetched(&self) -> u64 {
        self.bytes
    }

    pub fn sent_wrong_bytes(&mut self, node: NodeId, now: Instant) {
        if let Some(source) = self.sources.get_mut(&node) {
            source.part.bad += 1;
        }
        self.set_aside(node, Phase::Lied, now);
    }

    fn release(&mut self, node: NodeId, now: Instant) {
        let Some(source) = self.sources.get_mut(&node) else { return };
        let Some(slot) = source.slot.take() else { return };
        if let Some(account) = self.planner.account(slot, now) {
            source.part.retries += account.retries;
            source.part.hedges += account.hedges;
        }
        self.slots.remove(&slot);
        self.planner.gone(slot);
    }

    pub fn remember_rates(&self, around: &Surroundings) {
        for (node, source) in &self.sources {
            if let Some(rate) = source.slot.and_then(|slot| self.planner.account(slot, self.told)?.measured) {
                around.remember_rate(*node, rate);
            }
        }
    }

    // ---- Answers.

    /// Who was asked by `ticket`, if it is still a source.
    pub fn node_of(&self, ticket: Ticket) -> Option<NodeId> {
        self.slots.get(&ticket.slot).copied()
    }

    /// Bytes came. Returns them with what proves them, if that is known.
    pub fn brought(&mut self, ticket: Ticket, raw: RawChunk, now: Instant) -> Option<(RawChunk, SubtreeHash)> {
        self.open.remove(&ticket.serial)?;
        self.planner.brought(ticket, raw.bytes.len(), now);
        match self.proving.expected(ticket.chunk) {
            Some(expected) => Some((raw, expected)),
            None => {
                self.proving.keep(ticket, raw);
                None
            }
        }
    }

    pub fn not_brought(&mut self, ticket: Ticket, node: NodeId, error: LinkError, now: Instant) {
        if self.open.remove(&ticket.serial).is_none() {
            return;
        }
        match error {
            LinkError::NotHere(held) if held.runs().len() <= MAX_RUNS => {
                let held = held.intersection(&self.all());
                self.planner.lacks(ticket, held, now);
            }
            LinkError::Busy => self.planner.busy(ticket, now),
            LinkError::Changed => self.set_aside(node, Phase::Changed, now),
            LinkError::Closed => self.source_gone(node, now),
            LinkError::NotHere(_) | LinkError::Refused | LinkError::Protocol => {
                self.set_aside(node, Phase::Useless, now)
            }
        }
    }

    /// A verified chunk is here. `ticket`: the request that brought it; `None` if the handshake did.
    pub fn landed(
        &mut self,
        node: NodeId,
        ticket: Option<Ticket>,
        chunk: &VerifiedChunk,
        wire_len: usize,
        now: Instant,
    ) {
        let (index, len) = (chunk.index(), chunk.bytes().len() as u64);
        let with_handshake = ticket.is_none();
        let ticket = ticket.unwrap_or(Ticket { slot: Slot(u32::MAX), chunk: index, serial: 0 });
        let first = self.planner.verified(ticket);
        let Some(source) = self.sources.get_mut(&node) else { return };
        if with_handshake && source.slot.is_none() {
            let slot = self.planner.arrives(None, None, FIRST_REQUESTS, now);
            self.slots.insert(slot, node);
            source.slot = Some(slot);
        }
        source.part.wire_bytes += wire_len as u64;
        if first {
            source.part.bytes += len;
            source.part.brought.insert_one(index);
            self.bytes += len;
            self.last = Some(now);
            self.news.insert_one(index);
        }
        for waiter in self.waiters.remove(&index).unwrap_or_default() {
            self.answers.push((waiter, Ok(chunk.clone())));
        }
        let mut queued = false;
        for download in self.downloads.values_mut().filter(|download| download.wanted.contains(index)) {
            download.wanted.remove(index..index + 1);
            if download.chunks.send(Ok(chunk.clone())).is_ok() {
                download.queued += 1;
                queued = true;
            }
        }
        if queued {
            self.give_credit();
        }
    }

    /// What to tell other downloaders now: what has become available here since they were told.
    pub fn news(&mut self, now: Instant, all: bool) -> Option<Ranges> {
        let age = now.saturating_duration_since(self.told);
        let due = all || age >= NEWS_AGE || (age >= NEWS_PAUSE && self.news.len() >= NEWS_CHUNKS);
        if self.news.is_empty() || !due {
            return None;
        }
        self.told = now;
        Some(std::mem::take(&mut self.news))
    }

    // ---- When nobody can bring it.

    /// True if nobody is asked, and nobody has been asked whether it can be.
    pub fn is_deserted(&self) -> bool {
        !self.sources.values().any(|source| matches!(source.phase, Phase::Open | Phase::Opening))
    }

    fn is_hopeless(&self) -> bool {
        let opening = || self.sources.values().any(|source| source.phase == Phase::Opening);
        if self.calling || opening() || !self.turns.is_empty() {
            return false;
        }
        let nobody = self.slots.is_empty();
        let table = self.planner.table();
        let lost = |chunk: u64| nobody || !table.can_come(chunk);
        // By runs: a large file has millions of chunks, and this is asked at every step.
        let stuck = |download: &Demand| {
            !download.wanted.is_empty() && table.in_flight() == 0 && (nobody || !table.any_can_come(&download.wanted))
        };
        self.waiters.keys().any(|index| lost(*index)) || self.downloads.values().any(stuck)
    }

    /// Who waits for what nobody can bring gets an error: at once where there never was a source, after a grace where
    /// there was one.
    fn watch_hopeless(&mut self, now: Instant) {
        if !self.is_wanted() || !self.is_hopeless() {
            self.hopeless_since = None;
            return;
        }
        let since = *self.hopeless_since.get_or_insert(now);
        if !self.had_source || now >= since + NO_SOURCE_GRACE {
            self.fail_hopeless();
            self.hopeless_since = None;
        }
    }

    fn fail_hopeless(&mut self) {
        let changed = self.sources.values().any(|source| source.phase == Phase::Changed);
        let error = if changed && self.slots.is_empty() { FetchError::Gone } else { FetchError::NoSource };
        let nobody = self.slots.is_empty();
        let table = self.planner.table();
        let hopeless: Vec<u64> =
            self.waiters.keys().copied().filter(|index| nobody || !table.can_come(*index)).collect();
        for index in hopeless {
            for waiter in self.waiters.remove(&index).unwrap_or_default() {
                self.answers.push((waiter, Err(error)));
            }
            if !self.downloads.values().any(|download| download.wanted.contains(index)) {
                self.planner.unwant(&Ranges::of(index..index + 1));
            }
        }
        let table = self.planner.table();
        for download in self.downloads.values_mut() {
            let stuck = !download.wanted.is_empty() && table.in_flight() == 0;
            if stuck && (nobody || !table.any_can_come(&download.wanted)) && download.queued == 0 {
                download.queued += usize::from(download.chunks.send(Err(error)).is_ok());
            }
        }
    }

    // ---- What is told.

    pub fn report(&self, content: ContentId, began: Instant, now: Instant) -> TransferReport {
        let mut rate = 0.0;
        let live: Vec<SourceReport> = self
            .sources
            .iter()
            .map(|(node, source)| {
                let mut report = source.part.report(*node);
                report.live = matches!(source.phase, Phase::Open | Phase::Opening);
                report.rtt_micros = source.link.stats().rtt_micros;
                report.limit = match source.phase {
                    Phase::Opening => Limit::Starting,
                    Phase::Open => Limit::Reader,
                    Phase::Changed | Phase::Useless => Limit::Useless,
                    Phase::Lied => Limit::Quarantined,
                };
                if let Some((slot, account)) =
                    source.slot.and_then(|slot| Some((slot, self.planner.account(slot, now)?)))
                {
                    rate += account.rate;
                    report.section = self.planner.table().section_of(slot);
                    report.in_flight = account.in_flight;
                    report.rate = account.measured.unwrap_or(0.0) as u64;
                    report.retries += account.retries;
                    report.hedges += account.hedges;
                    report.limit = account.limit;
                }
                report
            })
            .collect();
        let busy = self.planner.table().is_busy();
        TransferReport {
            content,
            state: if busy { TransferState::Active } else { TransferState::Idle },
            bytes: self.bytes,
            done: self.planner.table().done().clone(),
            rate: rate as u64,
            age: now.saturating_duration_since(began),
            quiet: self.last.map(|last| now.saturating_duration_since(last)),
            hedges: self.planner.hedges(),
            limit: self.limit(busy, &live),
            sources: live.into_iter().chain(self.parted.iter().map(|(node, part)| part.report(*node))).collect(),
        }
    }

    /// What keeps the whole from being faster: what its best source is kept by.
    fn limit(&self, busy: bool, sources: &[SourceReport]) -> Limit {
        let usable = sources.iter().filter(|source| source.live);
        if !busy {
            Limit::Reader
        } else if self.proving.is_waiting() && self.planner.table().in_flight() == 0 {
            Limit::Proof
        } else {
            usable
                .max_by_key(|source| (source.in_flight > 0, source.rate))
                .map_or(Limit::NoSource, |source| source.limit)
        }
    }
}

impl SourcePart {
    fn report(&self, node: NodeId) -> SourceReport {
        SourceReport {
            node,
            name: self.name.clone(),
            live: false,
            downloader: self.downloader,
            bytes: self.bytes,
            wire_bytes: self.wire_bytes,
            chunks: self.brought.len(),
            section: Ranges::new(),
            brought: self.brought.clone(),
            in_flight: 0,
            rate: 0,
            rtt_micros: 0,
            retries: self.retries,
            hedges: self.hedges,
            bad: self.bad,
            limit: Limit::NoSource,
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
