//! What the user does with the cache: looking at it, pinning, evicting, checking, changing its size, locking it.

use std::collections::HashSet;
use std::io;
use std::time::SystemTime;

use super::large::Record;
use super::layout::{Layout, PAGE};
use super::store::Cache;
use crate::base::chunks::chunk_count;
use crate::base::ids::ContentId;
use crate::base::ranges::Ranges;
use crate::vault::keys::ContentKey;

/// One cached content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cached {
    /// Which.
    pub content: ContentId,
    /// Chunks with a sealed record.
    pub chunks: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it was last read or written; of small ones: when their pack was.
    pub used: SystemTime,
    /// It is never evicted.
    pub pinned: bool,
}

/// What a check of all records found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checked {
    /// Records that were read and opened.
    pub records: u64,
    /// Bytes of plaintext in them.
    pub bytes: u64,
    /// Records that did not open: they are gone now, and fetched again when needed.
    pub damaged: u64,
}

/// Bytes that `contents` take on disk when they are whole.
pub fn disk_cost<'a>(contents: impl IntoIterator<Item = &'a ContentId>) -> u64 {
    let cost = |content: &ContentId| match chunk_count(content.size) {
        0 => 0,
        // With its identity, sealed.
        1 => content.size + PAGE,
        chunks => Layout::new(content.size).chunk_at(chunks),
    };
    contents.into_iter().fold(0, |sum, content| sum.saturating_add(cost(content)))
}

impl Cache {
    /// Everything that is kept or pinned, what was used longest ago first.
    pub fn list(&self) -> Vec<Cached> {
        let mut pins = self.inner.pins.all();
        let large = self.inner.large.list().into_iter();
        let small = self.inner.packs.contents().into_iter().map(|(content, bytes, used)| (content, 1, bytes, used));
        let kept = large.chain(small);
        let kept = kept.map(|(content, chunks, bytes, used)| {
            let pinned = pins.remove(&content);
            Cached { content, chunks, bytes, used, pinned }
        });
        let mut all: Vec<Cached> = kept.collect();
        let nothing = |content| Cached { content, chunks: 0, bytes: 0, used: SystemTime::UNIX_EPOCH, pinned: true };
        all.extend(pins.into_iter().map(nothing));
        all.sort_by_key(|cached| (cached.used, cached.content.root.0));
        all
    }

    /// Pins or unpins. Blocks on the disk.
    pub fn set_pinned(&self, contents: &[ContentId], pinned: bool) -> io::Result<()> {
        self.inner.pins.set(contents, pinned)
    }

    /// Everything that is pinned.
    pub fn pinned(&self) -> HashSet<ContentId> {
        self.inner.pins.all()
    }

    /// True if it is never evicted.
    pub fn is_pinned(&self, content: ContentId) -> bool {
        self.inner.pins.contains(content)
    }

    /// Lets go of a content on disk and in RAM, pinned or not. Returns by how much the disk is less full now: of a small one
    /// by nothing, for its pack stays until it leaves as a whole. `None` if there was nothing of it. Blocks.
    pub fn evict(&self, content: ContentId) -> io::Result<Option<u64>> {
        // What waits to be written would come back.
        self.flush();
        let held = self.held(content);
        let freed = if content.is_small() {
            self.inner.packs.erase(content)?.then_some(0)
        } else {
            let freed = self.inner.large.remove(content)?;
            self.inner.freed(freed);
            (freed > 0).then_some(freed)
        };
        held.iter().for_each(|index| self.let_go(content, index));
        self.inner.tell();
        Ok(freed)
    }

    /// Lets go of everything that is not pinned; returns how many contents and bytes that were. Blocks.
    pub fn clear(&self) -> io::Result<(u64, u64)> {
        self.flush();
        self.ram.invalidate_all();
        let (mut contents, mut bytes) = (0, 0);
        for cached in self.list().into_iter().filter(|cached| cached.chunks > 0 && !self.is_pinned(cached.content)) {
            contents += 1;
            if !cached.content.is_small() {
                let freed = self.inner.large.remove(cached.content)?;
                self.inner.freed(freed);
                bytes += freed;
            }
        }
        let pins = self.pinned();
        for (number, ..) in self.inner.packs.list() {
            let freed = self.inner.packs.repack(number, &pins, 1)?;
            self.inner.freed(freed);
            bytes += freed;
        }
        self.inner.tell();
        Ok((contents, bytes))
    }

    /// Reads and opens every record. `on_progress` hears how far it is, and says whether to go on. Blocks for as long as
    /// the disk takes.
    pub fn verify(&self, on_progress: &mut dyn FnMut(&Checked) -> bool) -> io::Result<Checked> {
        self.flush();
        let mut checked = Checked::default();
        for cached in self.list() {
            for index in self.held(cached.content).iter() {
                match self.inner.record(cached.content, index)? {
                    Record::Plain(bytes) => {
                        checked.records += 1;
                        checked.bytes += bytes.len() as u64;
                    }
                    Record::Absent => {}
                    Record::Damaged => checked.damaged += 1,
                }
                if !on_progress(&checked) {
                    return Ok(checked);
                }
            }
        }
        if checked.damaged > 0 {
            self.inner.tell();
        }
        Ok(checked)
    }

    /// Changes how much it may take on disk, and evicts what does not fit any more. Blocks.
    pub fn resize(&self, limit: u64) -> io::Result<()> {
        self.inner.set_limit(limit);
        self.make_room()
    }

    /// The chunks that can be served: those with a sealed record, none while it is locked.
    pub fn offered(&self, content: ContentId) -> Ranges {
        if self.is_locked() { Ranges::new() } else { self.held(content) }
    }

    /// Evicts what does not fit. Blocks.
    pub fn make_room(&self) -> io::Result<()> {
        self.inner.make_room(0, None).map(drop)
    }

    /// True while contents can't be opened.
    pub fn is_locked(&self) -> bool {
        self.inner.key.is_locked()
    }

    /// Wipes the key, those derived from it, and all plaintext in RAM. From now on contents neither open nor are kept.
    pub fn lock(&self) {
        self.inner.key.lock();
        self.inner.large.forget_keys();
        self.ram.invalidate_all();
        self.ram.run_pending_tasks();
        crate::base::pool::clear();
    }

    /// Brings the key back.
    pub fn unlock(&self, key: ContentKey) {
        self.inner.key.unlock(key);
    }
}
