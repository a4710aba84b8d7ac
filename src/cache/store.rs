//! The cache: plaintext chunks in RAM, sealed ones on disk, one thread that writes and evicts.
//!
//! A record that does not open is a miss: counted, logged, fetched again. A disk that is full or broken makes the
//! cache smaller, never a read fail.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::large::{LargeFiles, Record};
use super::layout::{OVERHEAD, PAGE, SLOT};
use super::packs::Packs;
use super::pins::Pins;
use super::place::{CacheError, Place};
use super::queue::Queue;
use crate::base::chunks::{CHUNK, chunk_count, group_count};
use crate::base::ids::{ContentId, SubtreeHash};
use crate::base::ranges::Ranges;
use crate::base::tree::{Proof, VerifiedChunk};
use crate::vault::content_lock::ContentLock;
use crate::vault::keys::ContentKey;
use crate::vault::sealer::Sealer;

/// Plaintext that may wait to be sealed and written: a disk that stalls for a tenth of a second loses nothing.
const QUEUE: usize = 128 << 20;
/// By default the disk part takes this fraction of the file system...
const DISK_PART: u64 = 10;
/// ...and at most this.
const DISK_MOST: u64 = 20 << 30;
/// Pinned small files are moved out of a pack only if that frees so many bytes: others wait until more of it is dead.
const REPACKED: u64 = 1 << 20;
/// After an error of the disk, writing pauses for this long.
const PAUSE: Duration = Duration::from_secs(10);

/// Bounds, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheLimits {
    /// On disk; `None`: 10 % of the file system, at most 20 GiB.
    pub disk: Option<u64>,
    /// Of plaintext in RAM.
    pub ram: u64,
}

/// Counters since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct CacheStats {
    /// Bytes on disk now.
    pub disk_bytes: u64,
    /// Bytes that it may take on disk.
    pub disk_limit: u64,
    /// Bytes of plaintext in RAM now.
    pub ram_bytes: u64,
    /// Chunks read from disk.
    pub loads: u64,
    /// Chunks sealed and written.
    pub writes: u64,
    /// Chunks that were not written because the disk could not keep up, was full or failed.
    pub dropped: u64,
    /// Records that did not open.
    pub damaged: u64,
    /// Contents (or packs of small ones) that were evicted.
    pub evicted: u64,
}

#[derive(Default)]
struct Counters {
    disk_bytes: AtomicU64,
    loads: AtomicU64,
    writes: AtomicU64,
    dropped: AtomicU64,
    damaged: AtomicU64,
    evicted: AtomicU64,
}

enum Job {
    Chunk(VerifiedChunk),
    Proof(Box<Proof>),
}

/// Writing rests for a while after an error of the disk.
#[derive(Default)]
struct Pause(Mutex<Option<Instant>>);

impl Pause {
    fn begin(&self, now: Instant) {
        *self.0.lock() = Some(now + PAUSE);
    }

    fn is_on(&self, now: Instant) -> bool {
        self.0.lock().is_some_and(|until| now < until)
    }
}

pub(super) struct Inner {
    pub large: LargeFiles,
    pub packs: Packs,
    queue: Queue<Job>,
    limit: AtomicU64,
    pub key: Arc<ContentLock>,
    pub pins: Pins,
    counters: Counters,
    pause: Pause,
    /// One at a time makes room.
    evicting: Mutex<()>,
    whole: watch::Sender<u64>,
}

/// See the module.
pub struct Cache {
    pub(super) inner: Arc<Inner>,
    pub(super) ram: moka::sync::Cache<(ContentId, u64), VerifiedChunk>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Until it is closed.
    place: Mutex<Option<Place>>,
}

impl Cache {
    /// Opens (or makes) the cache in `dir`, which must be this home's or empty, and starts its writer. Blocks for the
    /// time that listing `dir` takes.
    pub fn open(
        dir: &Path,
        key: &ContentKey,
        sealer: Arc<Sealer>,
        limits: CacheLimits,
    ) -> Result<Arc<Self>, CacheError> {
        let wrong = |source| CacheError::Io { dir: dir.into(), source };
        let place = Place::take(dir, &sealer)?;
        let key = ContentLock::new(key.clone());
        let pins = Pins::load(&dir.join("pins"), Arc::clone(&sealer)).map_err(wrong)?;
        let large = LargeFiles::open(&dir.join("files"), Arc::clone(&sealer), Arc::clone(&key)).map_err(wrong)?;
        let packs = Packs::open(&dir.join("packs"), sealer, Arc::clone(&key)).map_err(wrong)?;
        let limit = match limits.disk {
            Some(limit) => limit,
            None => {
                let fs = rustix::fs::statvfs(dir).map_err(|errno| wrong(errno.into()))?;
                (fs.f_blocks * fs.f_frsize / DISK_PART).min(DISK_MOST)
            }
        };
        let used = large.list().iter().map(|(_, _, bytes, _)| bytes).sum::<u64>()
            + packs.list().iter().map(|(_, bytes, _)| bytes).sum::<u64>();
        let counters = Counters { disk_bytes: AtomicU64::new(used), ..Counters::default() };
        let inner = Arc::new(Inner {
            large,
            packs,
            queue: Queue::new(QUEUE),
            limit: AtomicU64::new(limit),
            key,
            pins,
            counters,
            pause: Pause::default(),
            evicting: Mutex::default(),
            whole: watch::channel(0).0,
        });
        let writer = {
            let inner = Arc::clone(&inner);
            std::thread::Builder::new().name("fg-cache".into()).spawn(move || inner.write()).map_err(wrong)?
        };
        // Plain LRU: the policy that moka prefers would refuse new chunks in favour of often used ones, and a streamed
        // file consists of new chunks only.
        let ram = moka::sync::Cache::builder()
            .eviction_policy(moka::policy::EvictionPolicy::lru())
            .weigher(|_, chunk: &VerifiedChunk| chunk.bytes().len() as u32 + 256)
            .max_capacity(limits.ram)
            .build();
        Ok(Arc::new(Self { inner, ram, writer: Mutex::new(Some(writer)), place: Mutex::new(Some(place)) }))
    }

    /// The chunk, if its plaintext is in RAM.
    pub fn ram_get(&self, content: ContentId, index: u64) -> Option<VerifiedChunk> {
        self.ram.get(&(content, index))
    }

    /// Keeps a chunk in RAM alone: one that this node shares itself need not be on disk twice.
    pub fn put_ram(&self, chunk: &VerifiedChunk) {
        let key = (chunk.content(), chunk.index());
        self.ram.insert(key, chunk.clone());
        if self.is_locked() {
            self.ram.invalidate(&key);
        }
    }

    /// Lets go of a chunk's plaintext: its reader has passed it.
    pub fn let_go(&self, content: ContentId, index: u64) {
        self.ram.invalidate(&(content, index));
    }

    /// Keeps a chunk: in RAM at once, sealed on disk soon, unless the disk can't keep up. Never blocks.
    pub fn put(&self, chunk: &VerifiedChunk) {
        self.put_ram(chunk);
        let len = chunk.bytes().len();
        let closed = self.inner.limit() == 0 || self.is_locked() || self.inner.pause.is_on(Instant::now());
        if closed
            || (!self.has(chunk.content(), chunk.index()) && !self.inner.queue.offer(Job::Chunk(chunk.clone()), len))
        {
            self.inner.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Keeps what proves a file. Never blocks.
    pub fn put_proof(&self, proof: &Proof) {
        if self.inner.limit() > 0 && !self.is_locked() && !proof.content().is_small() {
            // A proof that is dropped is asked of a source again.
            let _ = self.inner.queue.offer(Job::Proof(Box::new(proof.clone())), 32 * proof.groups().len());
        }
    }

    /// True if there is a sealed record of the chunk.
    pub fn has(&self, content: ContentId, index: u64) -> bool {
        if content.is_small() {
            return self.inner.packs.has(content);
        }
        self.inner.large.with(content, |kept| kept.present.contains(index)).unwrap_or(false)
    }

    /// Reads and opens the sealed record of a chunk; the plaintext stays in RAM for a while. Blocks on the disk.
    pub fn load(&self, content: ContentId, index: u64) -> Option<VerifiedChunk> {
        match self.inner.record(content, index) {
            Ok(Record::Plain(bytes)) => {
                let chunk = VerifiedChunk::from_sealed(content, index, bytes)?;
                self.inner.counters.loads.fetch_add(1, Ordering::Relaxed);
                self.ram.insert((content, index), chunk.clone());
                Some(chunk)
            }
            Ok(Record::Absent) => None,
            Ok(Record::Damaged) => {
                self.inner.counters.damaged.fetch_add(1, Ordering::Relaxed);
                // Which one is told only to who debugs: a log is not sealed.
                tracing::warn!("a sealed record does not open: fetched again");
                tracing::debug!(content = %content.root.short(12), chunk = index, "that was this one");
                self.inner.tell();
                None
            }
            Err(_) if self.is_locked() => None,
            Err(error) => {
                tracing::warn!(%error, "reading the cache failed: fetched again");
                None
            }
        }
    }

    /// Which of `chunks` are neither in RAM nor on disk.
    pub fn missing(&self, content: ContentId, chunks: std::ops::Range<u64>) -> Ranges {
        let mut missing = Ranges::of(chunks);
        if content.is_small() {
            return if self.inner.packs.has(content) { Ranges::new() } else { missing };
        }
        self.inner.large.with(content, |kept| missing.subtract(&kept.present));
        missing.iter().filter(|index| !self.ram.contains_key(&(content, *index))).collect()
    }

    /// The chunks with a sealed record.
    pub fn held(&self, content: ContentId) -> Ranges {
        if content.is_small() {
            return if self.inner.packs.has(content) { Ranges::of(0..1) } else { Ranges::new() };
        }
        self.inner.large.with(content, |kept| kept.present.clone()).unwrap_or_default()
    }

    /// True if every chunk has a sealed record.
    pub fn is_whole(&self, content: ContentId) -> bool {
        match chunk_count(content.size) {
            0 => true,
            1 => self.inner.packs.has(content),
            _ => self.inner.large.is_whole(content),
        }
    }

    /// Changes whenever the answer of [`Cache::is_whole`] may have changed for some content.
    pub fn whole_changes(&self) -> watch::Receiver<u64> {
        self.inner.whole.subscribe()
    }

    /// The groups' hashes of a file and, where they are known, the chunk hashes of each group in `groups`. Blocks on
    /// the disk.
    pub fn load_proof(&self, content: ContentId, groups: std::ops::Range<u64>) -> Option<Proof> {
        if content.is_small() {
            let root = crate::base::ids::SubtreeHash(content.root.0);
            return Proof::new(content, if content.size == 0 { Vec::new() } else { vec![root] }).ok();
        }
        let mut proof = Proof::new(content, self.inner.large.hashes(content, None)?).ok()?;
        for group in groups.start..groups.end.min(group_count(content.size)) {
            if let Some(hashes) = self.inner.large.hashes(content, Some(group)) {
                // Hashes that don't fit are as good as none.
                let _ = proof.add_group(group, hashes);
            }
        }
        Some(proof)
    }

    /// Counters.
    pub fn stats(&self) -> CacheStats {
        let counters = &self.inner.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.ram.run_pending_tasks();
        CacheStats {
            disk_bytes: get(&counters.disk_bytes),
            disk_limit: self.inner.limit(),
            ram_bytes: self.ram.weighted_size(),
            loads: get(&counters.loads),
            writes: get(&counters.writes),
            dropped: get(&counters.dropped),
            damaged: get(&counters.damaged),
            evicted: get(&counters.evicted),
        }
    }

    /// Waits until what was put has been written. Blocks.
    pub fn flush(&self) {
        self.inner.queue.drain();
    }

    /// Writes what waits, then ends the writer. Blocks.
    pub fn close(&self) {
        self.inner.queue.close();
        if let Some(writer) = self.writer.lock().take() {
            // A writer that panicked has nothing left to save.
            let _ = writer.join();
            self.inner.large.save_use();
        }
        self.place.lock().take();
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Reads and opens a record.
    pub fn record(&self, content: ContentId, index: u64) -> io::Result<Record> {
        if content.is_small() { self.packs.read(content) } else { self.large.chunk(content, index) }
    }

    /// So many bytes are no longer on disk.
    pub fn freed(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        // The closure always says yes.
        let _ = self.counters.disk_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    pub fn tell(&self) {
        self.whole.send_modify(|version| *version += 1);
    }

    /// The writer's thread.
    fn write(&self) {
        let mut buffer = Vec::with_capacity(SLOT as usize);
        while let Some(job) = self.queue.take() {
            // What was put before the error, or before it was locked.
            if self.pause.is_on(Instant::now()) || self.key.is_locked() {
                self.counters.dropped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let written = match &job {
                Job::Chunk(chunk) => self.write_chunk(chunk, &mut buffer),
                Job::Proof(proof) => self.write_proof(proof),
            };
            if let Err(error) = written {
                tracing::warn!(%error, "writing the cache failed: files are read without it for a while");
                self.counters.dropped.fetch_add(1, Ordering::Relaxed);
                self.pause.begin(Instant::now());
            }
        }
    }

    fn write_chunk(&self, chunk: &VerifiedChunk, buffer: &mut Vec<u8>) -> io::Result<()> {
        let (content, index) = (chunk.content(), chunk.index());
        let small = content.is_small();
        // With the first page of a file that is begun.
        if !self.make_room(SLOT + PAGE, Some(content))? {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let bytes = if small {
            self.packs.put(content, chunk.bytes(), buffer)?
        } else {
            self.large.put(content, index, chunk.bytes(), buffer)?
        };
        self.counters.writes.fetch_add(1, Ordering::Relaxed);
        self.counters.disk_bytes.fetch_add(bytes, Ordering::Relaxed);
        if small || self.large.is_whole(content) {
            self.tell();
        }
        Ok(())
    }

    fn write_proof(&self, proof: &Proof) -> io::Result<()> {
        let content = proof.content();
        self.write_hashes(content, None, proof.groups())?;
        for group in 0..group_count(content.size) {
            if let Some(hashes) = proof.group(group)
                && self.large.hashes(content, Some(group)).is_none()
            {
                self.write_hashes(content, Some(group), hashes)?;
            }
        }
        Ok(())
    }

    fn write_hashes(&self, content: ContentId, group: Option<u64>, hashes: &[SubtreeHash]) -> io::Result<()> {
        let room = (32 * hashes.len() as u64 + OVERHEAD).next_multiple_of(PAGE) + PAGE;
        if self.make_room(room, Some(content))? {
            let bytes = self.large.put_hashes(content, group, hashes)?;
            self.counters.disk_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Evicts what was used longest ago until `bytes` fit; never what is pinned, nor `content`, which is being written.
    /// False if there is no room.
    pub fn make_room(&self, bytes: u64, content: Option<ContentId>) -> io::Result<bool> {
        enum Unit {
            Large(ContentId),
            Pack(u32),
        }
        let (used, limit) = (|| self.counters.disk_bytes.load(Ordering::Relaxed), self.limit());
        if used() + bytes <= limit {
            return Ok(true);
        }
        let _one = self.evicting.lock();
        let pins = self.pins.all();
        let mut units: Vec<(SystemTime, Unit)> = Vec::new();
        let large = self.large.list().into_iter().filter(|unit| Some(unit.0) != content && !pins.contains(&unit.0));
        units.extend(large.map(|unit| (unit.3, Unit::Large(unit.0))));
        units.extend(self.packs.list().into_iter().map(|(number, _, used)| (used, Unit::Pack(number))));
        units.sort_by_key(|(used, _)| *used);
        // A little more than needed, so that the next chunks don't evict one by one.
        let target = limit.saturating_sub(bytes).min(limit - limit / 32);
        for (_, unit) in units {
            if used() <= target {
                break;
            }
            let freed = match unit {
                Unit::Large(content) => self.large.remove(content)?,
                Unit::Pack(number) => self.packs.repack(number, &pins, REPACKED)?,
            };
            if freed == 0 {
                continue;
            }
            self.freed(freed);
            self.counters.evicted.fetch_add(1, Ordering::Relaxed);
            self.tell();
        }
        Ok(used() + bytes <= limit)
    }
}

/// The most chunks of plaintext that may wait for the writer.
pub const QUEUED_CHUNKS: usize = QUEUE / CHUNK as usize;

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
