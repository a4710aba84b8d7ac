//! Cache files of contents of more than one chunk: one sparse file each, named by a keyed hash.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use rustix::fs::{SeekFrom, Timestamps, futimens, seek};

use super::layout::{GROUP_BASE, GROUP_LIST, Layout, OVERHEAD, PAGE};
use crate::base::chunks::{chunk_count, chunk_len, group_chunks};
use crate::base::clock::Timestamp;
use crate::base::ids::{ContentId, SubtreeHash};
use crate::base::pool::Buffer;
use crate::base::ranges::Ranges;
use crate::vault::block::{BlockKey, sealed_len};
use crate::vault::content_lock::ContentLock;
use crate::vault::sealer::Sealer;

const PURPOSE: &str = "cache file";
const MAGIC: &[u8; 8] = b"FGCACHE1";
/// Files that are kept open: more than the files that are read at once, far fewer than descriptors.
const OPEN_FILES: u64 = 128;

/// What reading a record came to.
#[derive(Debug)]
pub enum Record {
    /// It opened.
    Plain(bytes::Bytes),
    /// There is none.
    Absent,
    /// There is one, and it does not open.
    Damaged,
}

/// One cached content.
#[derive(Debug)]
pub struct Kept {
    /// Chunks with a record, as far as known.
    pub present: Ranges,
    /// What takes space: chunks with a record, also with one that does not open.
    chunks: Ranges,
    /// And hashes: 0 is the list of groups, each group's number is one more than its own.
    hashes: Ranges,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it was last read or written.
    pub used: SystemTime,
}

impl Kept {
    /// A file with nothing but its first page.
    fn begun() -> Self {
        Self {
            present: Ranges::new(),
            chunks: Ranges::new(),
            hashes: Ranges::new(),
            bytes: PAGE,
            used: SystemTime::now(),
        }
    }
}

struct Opened {
    file: File,
    key: BlockKey,
}

/// All large cached contents.
pub struct LargeFiles {
    dir: PathBuf,
    sealer: Arc<Sealer>,
    key: Arc<ContentLock>,
    kept: Mutex<HashMap<ContentId, Kept>>,
    opened: moka::sync::Cache<ContentId, Arc<Opened>>,
}

/// True if `name` consists of exactly so many digits, as in the names of cache files.
fn is_hex(name: &OsStr, digits: usize) -> bool {
    let name = name.as_encoded_bytes();
    name.len() == digits && name.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn identity(content: ContentId) -> [u8; 40] {
    let mut id = [0; 40];
    id[..32].copy_from_slice(&content.root.0);
    id[32..].copy_from_slice(&content.size.to_le_bytes());
    id
}

impl LargeFiles {
    /// Opens what `dir` holds. Cache files that can't be read (damaged first page, another key) are removed: nobody could
    /// ever use them. What is not called as a cache file is, is left alone.
    pub fn open(dir: &Path, sealer: Arc<Sealer>, key: Arc<ContentLock>) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let files =
            Self { dir: dir.into(), sealer, key, kept: Mutex::default(), opened: moka::sync::Cache::new(OPEN_FILES) };
        for folder in fs::read_dir(dir)? {
            let folder = folder?;
            // The type of the entry itself, without following a symlink.
            if !is_hex(&folder.file_name(), 2) || !folder.file_type()?.is_dir() {
                continue;
            }
            for file in fs::read_dir(folder.path())? {
                let file = file?;
                if !is_hex(&file.file_name(), 62) || !file.file_type()?.is_file() {
                    continue;
                }
                let path = file.path();
                match files.inspect(&path) {
                    Ok((content, kept)) if files.path(content) == path => {
                        files.kept.lock().insert(content, kept);
                    }
                    Ok(_) => fs::remove_file(&path)?,
                    Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                        tracing::warn!(%error, "a cache file can't be used and is removed");
                        fs::remove_file(&path)?;
                    }
                    // It may be readable the next time; it is fetched again meanwhile.
                    Err(error) => tracing::warn!(%error, "a cache file can't be read now"),
                }
            }
        }
        Ok(files)
    }

    fn path(&self, content: ContentId) -> PathBuf {
        let hash = self.sealer.hash(PURPOSE, &identity(content));
        let name = data_encoding::HEXLOWER.encode(&hash);
        self.dir.join(&name[..2]).join(&name[2..])
    }

    fn inspect(&self, path: &Path) -> io::Result<(ContentId, Kept)> {
        let file = File::open(path)?;
        let content = self.read_first_page(&file)?;
        let layout = Layout::new(content.size);
        let mut present = Ranges::new();
        let mut hashes = Ranges::new();
        let mut at = layout.group_list_at();
        // ENXIO: no data from here on.
        while let Ok(from) = seek(&file, SeekFrom::Data(at)) {
            let to = seek(&file, SeekFrom::Hole(from))?;
            present.insert(layout.chunks_in(from, to));
            hashes.insert(layout.hashes_in(from, to));
            at = to;
        }
        let meta = file.metadata()?;
        let used = meta.accessed()?.max(meta.modified()?);
        let chunks = present.clone();
        Ok((content, Kept { present, chunks, hashes, bytes: meta.blocks() * 512, used }))
    }

    /// Page 0: magic, u16 LE length, the sealed identity.
    fn read_first_page(&self, file: &File) -> io::Result<ContentId> {
        let bad = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut page = [0; PAGE as usize];
        file.read_exact_at(&mut page, 0)?;
        let (magic, rest) = page.split_at(MAGIC.len());
        let len = u16::from_le_bytes([rest[0], rest[1]]) as usize;
        let sealed = rest[2..].get(..len).ok_or_else(|| bad("length"))?;
        if magic != MAGIC {
            return Err(bad("not a cache file"));
        }
        let plain = self.sealer.open(PURPOSE, &[], sealed).map_err(|_| bad("the identity does not open"))?;
        rmp_serde::from_slice(&plain).map_err(|_| bad("identity"))
    }

    fn make(&self, content: ContentId) -> io::Result<File> {
        let path = self.path(content);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        let plain = rmp_serde::to_vec(&content).map_err(io::Error::other)?;
        let sealed = self.sealer.seal(PURPOSE, &[], &plain).map_err(io::Error::other)?;
        let mut page = vec![0; PAGE as usize];
        page[..8].copy_from_slice(MAGIC);
        page[8..10].copy_from_slice(&(sealed.len() as u16).to_le_bytes());
        page[10..10 + sealed.len()].copy_from_slice(&sealed);
        file.write_all_at(&page, 0)?;
        Ok(file)
    }

    fn opened(&self, content: ContentId, make: bool) -> io::Result<Arc<Opened>> {
        if let Some(opened) = self.opened.get(&content) {
            return Ok(opened);
        }
        let file = match OpenOptions::new().read(true).write(true).open(self.path(content)) {
            Err(error) if make && error.kind() == io::ErrorKind::NotFound => self.make(content)?,
            other => other?,
        };
        let key = self.key.block_key(content)?;
        let opened = Arc::new(Opened { file, key });
        self.opened.insert(content, Arc::clone(&opened));
        if self.key.is_locked() {
            // Meanwhile.
            self.forget_keys();
        }
        Ok(opened)
    }

    /// Wipes the keys that have been derived.
    pub fn forget_keys(&self) {
        self.opened.invalidate_all();
        self.opened.run_pending_tasks();
    }

    /// Reads one record of at most `len` sealed bytes.
    fn read(&self, content: ContentId, at: u64, len: u64, index: u64) -> io::Result<Record> {
        let opened = match self.opened(content, false) {
            // Nothing of it is kept: no fault, and nothing to tell.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Record::Absent),
            opened => opened?,
        };
        let mut buffer = Buffer::new(len as usize);
        let mut got = 0;
        while got < len as usize {
            match rustix::io::pread(&opened.file, &mut buffer.as_mut()[got..], at + got as u64)? {
                0 => break,
                more => got += more,
            }
        }
        let record = &mut buffer.as_mut()[..got];
        if record.is_empty() || record.iter().take(OVERHEAD as usize).all(|&byte| byte == 0) {
            return Ok(Record::Absent);
        }
        let Some(plain_len) = sealed_len(record) else { return Ok(Record::Damaged) };
        match opened.key.open(index, record) {
            Ok(opened_len) if opened_len == plain_len => {
                let from = crate::vault::block::HEADER;
                Ok(Record::Plain(buffer.share(from..from + opened_len)))
            }
            _ => Ok(Record::Damaged),
        }
    }

    /// Chunk `index`, opened. Takes it off the record of what is present if it isn't, so that it is fetched again.
    pub fn chunk(&self, content: ContentId, index: u64) -> io::Result<Record> {
        let len = OVERHEAD + chunk_len(content.size, index) as u64;
        let record = self.read(content, Layout::new(content.size).chunk_at(index), len, index);
        let mut kept = self.kept.lock();
        if let Some(kept) = kept.get_mut(&content) {
            match &record {
                Ok(Record::Plain(_)) => kept.used = SystemTime::now(),
                // It is there.
                Err(_) if self.key.is_locked() => {}
                _ => kept.present.remove(index..index + 1),
            }
        }
        record
    }

    /// Counts a record of `len` bytes that was written, unless its place was `taken` already. Returns by how much the disk
    /// is fuller now.
    fn count(&self, content: ContentId, len: usize, taken: impl FnOnce(&mut Kept) -> bool) -> u64 {
        let mut all = self.kept.lock();
        let mut more = 0;
        let kept = all.entry(content).or_insert_with(|| {
            more += PAGE;
            Kept::begun()
        });
        kept.used = SystemTime::now();
        if !taken(kept) {
            let len = (len as u64).next_multiple_of(PAGE);
            kept.bytes += len;
            more += len;
        }
        more
    }

    /// Seals and writes a chunk; returns the bytes that this takes. `buffer` is reused from call to call.
    pub fn put(&self, content: ContentId, index: u64, plain: &[u8], buffer: &mut Vec<u8>) -> io::Result<u64> {
        let opened = self.opened(content, true)?;
        opened.key.seal(index, plain, buffer).map_err(io::Error::other)?;
        opened.file.write_all_at(buffer, Layout::new(content.size).chunk_at(index))?;
        let bytes = self.count(content, buffer.len(), |kept| {
            kept.present.insert_one(index);
            !kept.chunks.insert_one(index)
        });
        if opened.file.metadata()?.nlink() == 0 {
            // Removed meanwhile: nobody will find it again.
            self.kept.lock().remove(&content);
            self.opened.invalidate(&content);
            return Ok(0);
        }
        Ok(bytes)
    }

    /// Writes the hashes of groups: `None` stands for the list of groups itself. Returns the bytes that this takes.
    pub fn put_hashes(&self, content: ContentId, group: Option<u64>, hashes: &[SubtreeHash]) -> io::Result<u64> {
        let opened = self.opened(content, true)?;
        let layout = Layout::new(content.size);
        let (at, index) = match group {
            None => (layout.group_list_at(), GROUP_LIST),
            Some(group) => (layout.group_at(group), GROUP_BASE + group),
        };
        let plain: Vec<u8> = hashes.iter().flat_map(|hash| hash.0).collect();
        let mut record = Vec::new();
        opened.key.seal(index, &plain, &mut record).map_err(io::Error::other)?;
        opened.file.write_all_at(&record, at)?;
        let number = group.map_or(0, |group| group + 1);
        Ok(self.count(content, record.len(), |kept| !kept.hashes.insert_one(number)))
    }

    /// Reads what [`LargeFiles::put_hashes`] wrote, if it is there and opens.
    pub fn hashes(&self, content: ContentId, group: Option<u64>) -> Option<Vec<SubtreeHash>> {
        let layout = Layout::new(content.size);
        let (at, len, index) = match group {
            None => (layout.group_list_at(), layout.group_list_len(), GROUP_LIST),
            Some(group) => {
                let chunks = group_chunks(content.size, group);
                (layout.group_at(group), OVERHEAD + 32 * (chunks.end - chunks.start), GROUP_BASE + group)
            }
        };
        match self.read(content, at, len, index) {
            Ok(Record::Plain(bytes)) => {
                Some(bytes.chunks_exact(32).filter_map(|hash| hash.try_into().ok().map(SubtreeHash)).collect())
            }
            _ => None,
        }
    }

    /// Runs `look` on what is kept of `content`.
    pub fn with<T>(&self, content: ContentId, look: impl FnOnce(&Kept) -> T) -> Option<T> {
        self.kept.lock().get(&content).map(look)
    }

    /// True if every chunk is there.
    pub fn is_whole(&self, content: ContentId) -> bool {
        self.with(content, |kept| kept.present.len() == chunk_count(content.size)).unwrap_or(false)
    }

    /// Everything that is kept: content, chunks present, bytes on disk, last use.
    pub fn list(&self) -> Vec<(ContentId, u64, u64, SystemTime)> {
        self.kept.lock().iter().map(|(id, kept)| (*id, kept.present.len(), kept.bytes, kept.used)).collect()
    }

    /// Removes a content; returns the bytes that it took.
    pub fn remove(&self, content: ContentId) -> io::Result<u64> {
        let bytes = self.kept.lock().remove(&content).map_or(0, |kept| kept.bytes);
        self.opened.invalidate(&content);
        match fs::remove_file(self.path(content)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(bytes),
        }
    }

    /// Writes the times of last use to the files, so that a restart evicts in the same order.
    pub fn save_use(&self) {
        let used: Vec<(ContentId, SystemTime)> =
            self.kept.lock().iter().map(|(content, kept)| (*content, kept.used)).collect();
        for (content, used) in used {
            let used = Timestamp::from(used);
            let stamp = rustix::fs::Timespec { tv_sec: used.secs, tv_nsec: used.nanos.into() };
            if let Ok(file) = File::open(self.path(content)) {
                // Only the order of eviction depends on it.
                let _ = futimens(&file, &Timestamps { last_access: stamp, last_modification: stamp });
            }
        }
    }
}
