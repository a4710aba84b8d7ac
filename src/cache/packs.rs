//! Contents of at most one chunk, many to a file: a pack is appended to until it is full, and leaves as a whole.
//!
//! An item: magic (4), u32 LE length of what follows, u16 LE length of the sealed identity, the sealed identity
//! (`ContentId` under the name key), the sealed record of chunk 0.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::large::Record;
use crate::base::ids::ContentId;
use crate::vault::block::{HEADER, TAG};
use crate::vault::content_lock::ContentLock;
use crate::vault::sealer::Sealer;

const MAGIC: &[u8; 4] = b"FGI1";
const ITEM_HEAD: usize = 10;
/// The longest sealed identity that is believed.
const MAX_IDENTITY: usize = 256;
/// A pack is full at this size: small enough to be evicted as a whole, large enough that they stay few.
const PACK: u64 = 16 << 20;
const PURPOSE: &str = "cache pack item";

#[derive(Clone, Copy)]
struct Spot {
    pack: u32,
    /// Where the sealed record begins, and its length.
    at: u64,
    len: u32,
    /// Bytes of the sealed identity just before it.
    identity: u16,
}

impl Spot {
    /// Bytes of the whole item.
    fn item_len(self) -> u64 {
        ITEM_HEAD as u64 + u64::from(self.identity) + u64::from(self.len)
    }
}

struct Pack {
    len: u64,
    used: SystemTime,
}

#[derive(Default)]
struct Inner {
    spots: HashMap<ContentId, Spot>,
    packs: HashMap<u32, Pack>,
    /// The pack that is appended to. The others are opened for each read: their number has no bound but the cache's size,
    /// and that of descriptors has.
    open: Option<(u32, Arc<File>)>,
    next: u32,
}

impl Inner {
    fn open_file(&self, pack: u32) -> Option<Arc<File>> {
        self.open.as_ref().filter(|(number, _)| *number == pack).map(|(_, file)| Arc::clone(file))
    }
}

/// All small cached contents.
pub struct Packs {
    dir: PathBuf,
    sealer: Arc<Sealer>,
    key: Arc<ContentLock>,
    inner: Mutex<Inner>,
    /// One at a time appends.
    appending: Mutex<()>,
}

/// The number that a pack's name says, if it is one: digits as this module writes them.
fn number_of(name: &OsStr) -> Option<u32> {
    let name = name.to_str()?;
    name.parse().ok().filter(|number: &u32| number.to_string() == name)
}

impl Packs {
    /// Opens what `dir` holds. The rest of a pack from its first unreadable item on is not used (a torn write).
    pub fn open(dir: &Path, sealer: Arc<Sealer>, key: Arc<ContentLock>) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let packs = Self { dir: dir.into(), sealer, key, inner: Mutex::default(), appending: Mutex::default() };
        for file in fs::read_dir(dir)? {
            let file = file?;
            let Some(number) = number_of(&file.file_name()) else { continue };
            // Whatever it is, a pack can't be made there.
            let mut inner = packs.inner.lock();
            inner.next = inner.next.max(number.saturating_add(1));
            if !file.file_type()?.is_file() {
                continue;
            }
            let read = || {
                let file = File::open(file.path())?;
                let (len, used) = (file.metadata()?.len(), file.metadata()?.modified()?);
                let mut spots = HashMap::new();
                packs.scan(number, &file, len, &mut spots)?;
                Ok::<_, io::Error>((spots, Pack { len, used }))
            };
            match read() {
                Ok((spots, pack)) => {
                    inner.spots.extend(spots);
                    inner.packs.insert(number, pack);
                }
                // It may be readable the next time; what is in it is fetched again meanwhile.
                Err(error) => tracing::warn!(%error, "a cache pack can't be read now"),
            }
        }
        Ok(packs)
    }

    fn scan(&self, pack: u32, file: &File, end: u64, spots: &mut HashMap<ContentId, Spot>) -> io::Result<()> {
        let mut at = 0;
        let mut head = [0; ITEM_HEAD + MAX_IDENTITY];
        while at + (ITEM_HEAD as u64) < end {
            let got = file.read_at(&mut head, at)?;
            let len = u64::from(u32::from_le_bytes([head[4], head[5], head[6], head[7]]));
            let identity = u16::from_le_bytes([head[8], head[9]]) as usize;
            let fits = identity <= MAX_IDENTITY && ITEM_HEAD + identity <= got && at + 8 + len <= end;
            if got < ITEM_HEAD || &head[..4] != MAGIC || !fits || len < 2 + identity as u64 {
                tracing::warn!("the rest of a cache pack can't be used");
                break;
            }
            let sealed = &head[ITEM_HEAD..ITEM_HEAD + identity];
            if let Ok(plain) = self.sealer.open(PURPOSE, &[], sealed)
                && let Ok(content) = rmp_serde::from_slice::<ContentId>(&plain)
                && content.is_small()
            {
                let at = at + (ITEM_HEAD + identity) as u64;
                let record = len - 2 - identity as u64;
                if record == content.size + (HEADER + TAG) as u64 {
                    spots.insert(content, Spot { pack, at, len: record as u32, identity: identity as u16 });
                }
            }
            at += 8 + len;
        }
        Ok(())
    }

    /// True if there is an item of `content`.
    pub fn has(&self, content: ContentId) -> bool {
        self.inner.lock().spots.contains_key(&content)
    }

    fn path(&self, pack: u32) -> PathBuf {
        self.dir.join(pack.to_string())
    }

    /// The content, opened.
    pub fn read(&self, content: ContentId) -> io::Result<Record> {
        let (spot, open) = {
            let mut inner = self.inner.lock();
            let Some(spot) = inner.spots.get(&content).copied() else { return Ok(Record::Absent) };
            let Some(pack) = inner.packs.get_mut(&spot.pack) else { return Ok(Record::Absent) };
            pack.used = SystemTime::now();
            (spot, inner.open_file(spot.pack))
        };
        let file = match open {
            Some(file) => file,
            None => match File::open(self.path(spot.pack)) {
                // Evicted meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Record::Absent),
                file => Arc::new(file?),
            },
        };
        let mut record = vec![0; spot.len as usize];
        let key = self.key.block_key(content)?;
        let opened = file.read_exact_at(&mut record, spot.at).ok().and_then(|()| key.open(0, &mut record).ok());
        match opened {
            Some(len) => Ok(Record::Plain(bytes::Bytes::from(record).slice(HEADER..HEADER + len))),
            None => {
                self.inner.lock().spots.remove(&content);
                Ok(Record::Damaged)
            }
        }
    }

    /// Appends a content; returns the bytes that this takes, 0 if it is there already.
    pub fn put(&self, content: ContentId, plain: &[u8], buffer: &mut Vec<u8>) -> io::Result<u64> {
        if self.has(content) {
            return Ok(0);
        }
        let identity = rmp_serde::to_vec(&content).map_err(io::Error::other)?;
        let identity = self.sealer.seal(PURPOSE, &[], &identity).map_err(io::Error::other)?;
        let key = self.key.block_key(content)?;
        key.seal(0, plain, buffer).map_err(io::Error::other)?;
        let len = (2 + identity.len() + buffer.len()) as u32;
        let mut item = Vec::with_capacity(8 + len as usize);
        item.extend_from_slice(MAGIC);
        item.extend_from_slice(&len.to_le_bytes());
        item.extend_from_slice(&(identity.len() as u16).to_le_bytes());
        item.extend_from_slice(&identity);
        item.extend_from_slice(buffer);

        self.append(content, &item, identity.len() as u16, buffer.len() as u32)?;
        Ok(item.len() as u64)
    }

    /// Appends an item to the pack that is open.
    fn append(&self, content: ContentId, item: &[u8], identity: u16, len: u32) -> io::Result<()> {
        let _one = self.appending.lock();
        let (number, file, at) = self.open_pack()?;
        file.write_all_at(item, at)?;
        let spot = Spot { pack: number, at: at + ITEM_HEAD as u64 + u64::from(identity), len, identity };
        let mut inner = self.inner.lock();
        if let Some(pack) = inner.packs.get_mut(&number) {
            pack.len = at + item.len() as u64;
            pack.used = SystemTime::now();
            inner.spots.insert(content, spot);
        }
        Ok(())
    }

    /// Removes a pack; what of it is in `keep` is moved to another one before, as it is, unless that would free less than
    /// `least` bytes: then all stays. Returns by how much the disk is less full now.
    pub fn repack(&self, number: u32, keep: &HashSet<ContentId>, least: u64) -> io::Result<u64> {
        let moving: Vec<(ContentId, Spot)> = {
            let mut inner = self.inner.lock();
            let here = inner.spots.iter().filter(|(content, spot)| spot.pack == number && keep.contains(content));
            let here: Vec<(ContentId, Spot)> = here.map(|(content, spot)| (*content, *spot)).collect();
            let kept: u64 = here.iter().map(|(_, spot)| spot.item_len()).sum();
            if kept > 0 && inner.packs.get(&number).is_none_or(|pack| pack.len < kept + least) {
                return Ok(0);
            }
            // Nothing is added to it any more.
            inner.open.take_if(|(open, _)| *open == number);
            here
        };
        if moving.is_empty() {
            return self.remove(number);
        }
        let file = File::open(self.path(number))?;
        let mut moved = 0;
        for (content, spot) in moving {
            let mut item = vec![0; spot.item_len() as usize];
            file.read_exact_at(&mut item, spot.at - u64::from(spot.identity) - ITEM_HEAD as u64)?;
            self.append(content, &item, spot.identity, spot.len)?;
            moved += item.len() as u64;
        }
        Ok(self.remove(number)?.saturating_sub(moved))
    }

    fn open_pack(&self) -> io::Result<(u32, Arc<File>, u64)> {
        let mut inner = self.inner.lock();
        if let Some((number, file)) = &inner.open
            && let Some(pack) = inner.packs.get(number)
            && pack.len < PACK
        {
            return Ok((*number, Arc::clone(file), pack.len));
        }
        let number = inner.next;
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(self.path(number))?;
        let file = Arc::new(file);
        inner.packs.insert(number, Pack { len: 0, used: SystemTime::now() });
        inner.open = Some((number, Arc::clone(&file)));
        inner.next = number.saturating_add(1);
        Ok((number, file, 0))
    }

    /// Every content with the bytes of its record and the last use of its pack.
    pub fn contents(&self) -> Vec<(ContentId, u64, SystemTime)> {
        let inner = self.inner.lock();
        let used = |spot: &Spot| inner.packs.get(&spot.pack).map_or(SystemTime::UNIX_EPOCH, |pack| pack.used);
        inner.spots.iter().map(|(content, spot)| (*content, u64::from(spot.len), used(spot))).collect()
    }

    /// Forgets a content: its item is overwritten where it lies, and the pack stays as large as it was. False if there was
    /// none.
    pub fn erase(&self, content: ContentId) -> io::Result<bool> {
        let Some(spot) = self.inner.lock().spots.remove(&content) else { return Ok(false) };
        let file = match OpenOptions::new().write(true).open(self.path(spot.pack)) {
            // Evicted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        // The identity before it too: what does not open is passed over when the pack is read again.
        let identity = spot.at - u64::from(spot.identity);
        file.write_all_at(&vec![0; (u32::from(spot.identity) + spot.len) as usize], identity)?;
        Ok(true)
    }

    /// Packs with their bytes and last use.
    pub fn list(&self) -> Vec<(u32, u64, SystemTime)> {
        self.inner.lock().packs.iter().map(|(number, pack)| (*number, pack.len, pack.used)).collect()
    }

    /// Removes a pack and all that is in it; returns the bytes that it took.
    pub fn remove(&self, number: u32) -> io::Result<u64> {
        let bytes = {
            let mut inner = self.inner.lock();
            inner.spots.retain(|_, spot| spot.pack != number);
            inner.open.take_if(|(open, _)| *open == number);
            inner.packs.remove(&number).map_or(0, |pack| pack.len)
        };
        match fs::remove_file(self.path(number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(bytes),
        }
    }
}
