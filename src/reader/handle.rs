//! Open handles: RAM, then the sealed cache, then the swarm; and the window that asks ahead.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use tokio::runtime::Handle as Runtime;

use super::ahead::Ahead;
use super::contents::{ContentHandle, Contents, ReadBytes, ReadError};
use super::flight::Flights;
use super::window::Window;
use crate::base::chunks::{chunk_start, chunks_of};
use crate::base::ids::{ContentId, NetworkId};
use crate::base::ranges::Ranges;
use crate::base::tree::VerifiedChunk;
use crate::cache::Cache;
use crate::share::source::Sources;
use crate::swarm::swarm::Swarm;
use crate::swarm::transfer::{FetchError, TransferUse};

/// How reads behave; from the settings and the mount's options.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// A soft read that has brought nothing by then ends with [`ReadError::TimedOut`]. `None`: a hard mount, which waits.
    pub timeout: Option<Duration>,
    /// Bytes that one handle asks ahead at most.
    pub window: u64,
}

/// What readers of one network share.
#[derive(Clone)]
pub struct Origins {
    /// The network whose view is read.
    pub network: NetworkId,
    /// Fetches from peers.
    pub swarm: Arc<Swarm>,
    /// Keeps what was fetched.
    pub cache: Arc<Cache>,
    /// What this node shares itself is read from where it lies.
    pub own: Arc<Sources>,
    /// Loads under way.
    pub flights: Arc<Flights>,
}

/// Opens contents for reading.
pub struct Reader {
    shared: Arc<Shared>,
}

struct Shared {
    ahead: Ahead,
    origins: Origins,
    runtime: Runtime,
    limits: ReadLimits,
}

impl Reader {
    /// A reader over `origins`.
    pub fn new(origins: Origins, runtime: &Runtime, limits: ReadLimits) -> Self {
        let ahead = Ahead::new(&origins, runtime);
        Self { shared: Arc::new(Shared { ahead, origins, runtime: runtime.clone(), limits }) }
    }
}

impl Contents for Reader {
    fn open(&self, content: ContentId) -> Arc<dyn ContentHandle> {
        Arc::new(Handle {
            content,
            window: Mutex::new(Window::new(content.size, self.shared.limits.window)),
            transfer: OnceLock::new(),
            timed_out_at: Mutex::new(None),
            shared: Arc::clone(&self.shared),
        })
    }

    fn ahead(&self, contents: &[ContentId]) {
        self.shared.ahead.fetch(contents);
    }
}

struct Handle {
    content: ContentId,
    window: Mutex<Window>,
    /// Joined at the first chunk that is not in the cache: what is whole here never asks the network.
    transfer: OnceLock<TransferUse>,
    /// Bytes that the transfer had brought when a read timed out.
    timed_out_at: Mutex<Option<u64>>,
    shared: Arc<Shared>,
}

impl Handle {
    fn transfer(&self) -> &TransferUse {
        self.transfer.get_or_init(|| self.shared.origins.swarm.join(self.content))
    }

    /// Tells the swarm what will probably be read next, and the cache what a sequential reader has passed.
    fn ask_ahead(&self, offset: u64, len: usize) {
        let (ahead, passed) = {
            let mut window = self.window.lock();
            let ahead = window.read(offset, len as u64);
            (ahead, window.passed())
        };
        for index in passed {
            self.shared.origins.cache.let_go(self.content, index);
        }
        if ahead.is_empty() || self.is_own() {
            return;
        }
        let missing: Ranges = self.shared.origins.cache.missing(self.content, ahead);
        if !missing.is_empty() {
            self.transfer().ahead(&missing);
        }
    }

    fn is_locked(&self) -> bool {
        self.shared.origins.cache.is_locked()
    }

    /// True if this node shares the file itself.
    fn is_own(&self) -> bool {
        self.shared.origins.own.offers(self.shared.origins.network, self.content)
    }

    async fn chunk(&self, index: u64) -> Result<VerifiedChunk, ReadError> {
        let origins = &self.shared.origins;
        if let Some(chunk) = origins.cache.ram_get(self.content, index) {
            return Ok(chunk);
        }
        let is_own = self.is_own();
        if is_own || origins.cache.has(self.content, index) {
            let (origins, content) = (origins.clone(), self.content);
            let flights = Arc::clone(&origins.flights);
            let load = move || {
                if is_own && let Ok(chunk) = origins.own.chunk(origins.network, content, index) {
                    origins.cache.put_ram(&chunk);
                    return Some(chunk);
                }
                origins.cache.load(content, index)
            };
            if let Some(chunk) = flights.join(&self.shared.runtime, (content, index), load).await {
                return Ok(chunk);
            }
        }
        self.transfer().chunk(index).await.map_err(|error| match error {
            FetchError::NoSource => ReadError::NoSource,
            FetchError::Gone => ReadError::Gone,
        })
    }

    /// The part of `chunk` that lies in `offset..end`.
    fn piece(chunk: &VerifiedChunk, offset: u64, end: u64) -> bytes::Bytes {
        let start = chunk_start(chunk.index());
        let len = chunk.bytes().len() as u64;
        let from = offset.saturating_sub(start).min(len);
        let to = end.saturating_sub(start).min(len);
        chunk.bytes().slice(from as usize..to as usize)
    }
}

/// After a read has timed out, the next ones wait only for this long until something has come: the kernel asks once more
/// for each page of what failed, and nobody should wait for each of them in turn.
const AFTER_TIMEOUT: Duration = Duration::from_millis(200);
/// A hard read that has no source looks again after this long, or when sources change.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

impl Handle {
    /// How long a read may take: `None` for ever.
    fn patience(&self) -> Option<Duration> {
        let limit = self.shared.limits.timeout?;
        let stuck = self.timed_out_at.lock().is_some_and(|bytes| bytes == self.fetched());
        Some(if stuck { limit.min(AFTER_TIMEOUT) } else { limit })
    }

    /// Bytes that the transfer has brought so far.
    fn fetched(&self) -> u64 {
        self.transfer.get().map_or(0, TransferUse::bytes)
    }

    async fn chunks(&self, offset: u64, len: usize) -> Result<Vec<VerifiedChunk>, ReadError> {
        let chunks = chunks_of(self.content.size, offset, len as u64);
        let all = try_join_all(chunks.map(|index| self.chunk(index)));
        // What is needed now is asked for (at the first poll) before what may be needed next.
        self.ask_ahead(offset, len);
        all.await
    }

    /// For a mount that waits: goes on when a peer returns.
    async fn chunks_at_last(&self, offset: u64, len: usize) -> Result<Vec<VerifiedChunk>, ReadError> {
        let mut changes = self.shared.origins.swarm.changes();
        loop {
            match self.chunks(offset, len).await {
                Err(ReadError::NoSource | ReadError::TimedOut) => {
                    // Its sender lives as long as the swarm.
                    let _ = tokio::time::timeout(LOOK_AGAIN, changes.changed()).await;
                }
                other => return other,
            }
        }
    }
}

#[async_trait]
impl ContentHandle for Handle {
    async fn read(&self, offset: u64, len: usize) -> Result<ReadBytes, ReadError> {
        if chunks_of(self.content.size, offset, len as u64).is_empty() {
            return Ok(ReadBytes::default());
        }
        if self.is_locked() {
            return Err(ReadError::Locked);
        }
        let chunks = match self.patience() {
            None => self.chunks_at_last(offset, len).await?,
            Some(limit) => match tokio::time::timeout(limit, self.chunks(offset, len)).await {
                Ok(chunks) => chunks?,
                Err(_) => {
                    *self.timed_out_at.lock() = Some(self.fetched());
                    return Err(ReadError::TimedOut);
                }
            },
        };
        // Meanwhile: nothing leaves here any more.
        if self.is_locked() {
            return Err(ReadError::Locked);
        }
        let end = offset.saturating_add(len as u64);
        Ok(ReadBytes::new(chunks.iter().map(|chunk| Self::piece(chunk, offset, end)).collect()))
    }

    fn read_now(&self, offset: u64, len: usize) -> Option<ReadBytes> {
        if self.is_locked() {
            return None;
        }
        let chunks = chunks_of(self.content.size, offset, len as u64);
        let end = offset.saturating_add(len as u64);
        let mut pieces = Vec::with_capacity((chunks.end - chunks.start) as usize);
        for index in chunks {
            pieces.push(Self::piece(&self.shared.origins.cache.ram_get(self.content, index)?, offset, end));
        }
        self.ask_ahead(offset, len);
        Some(ReadBytes::new(pieces))
    }
}
