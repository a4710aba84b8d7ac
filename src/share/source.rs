//! Reading chunks to serve: opened below their share, read by `pread`, verified before they leave. What has changed is
//! said to have changed, and indexed again.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::index::Index;
use super::scan::Stat;
use crate::base::chunks::{chunk_len, chunk_start};
use crate::base::ids::{ContentId, NetworkId};
use crate::base::names::ValidPath;
use crate::base::pool::Buffer;
use crate::base::tree::{Manifest, VerifiedChunk, verify_chunk};

/// Files that are kept open between chunks, and how long without use: a deleted file must get its space back soon.
const OPEN_FILES: u64 = 256;
const OPEN_IDLE: Duration = Duration::from_secs(10);
/// Manifests in RAM, in bytes: those of a terabyte or so of files in use.
const MANIFESTS: u64 = 128 << 20;

/// Why a source does not bring a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Not shared with that network.
    #[error("not shared")]
    NotShared,
    /// The file is not what was published.
    #[error("the file has changed")]
    Changed,
    /// It can't be read right now: no descriptors, a broken disk, or this node has only begun and does not know yet what it
    /// shares. The file may be what it was.
    #[error("the file can't be read")]
    Failed,
}

/// True if what went wrong tells that the file is not there any more as it was published. Anything else tells nothing of
/// it.
fn is_change(error: &io::Error) -> bool {
    // A symlink or a file in the place of a folder of its path, or of the file itself.
    let replaced = [rustix::io::Errno::LOOP, rustix::io::Errno::NOTDIR, rustix::io::Errno::XDEV];
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
        || rustix::io::Errno::from_io_error(error).is_some_and(|errno| replaced.contains(&errno))
}

/// Opens `path` below `dir`: no symlink, no `..`, no other way out (openat2(2)).
pub fn open_beneath(dir: &Path, path: &ValidPath) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let root = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = File::from(openat2(root, path.as_bytes(), flags, Mode::empty(), resolve)?);
    // A FIFO or a device in the file's place is not the file.
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// Where a content can be read.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    /// Which share.
    pub share: u32,
    /// To whom it is offered.
    pub network: NetworkId,
    /// The share's folder.
    pub dir: Arc<PathBuf>,
    /// The file's path below it.
    pub path: ValidPath,
}

/// Hears of a file that is not what was published.
type Stale = Box<dyn Fn(&Place) + Send>;

/// Everything that this node can serve from its shares.
pub struct Sources {
    places: RwLock<HashMap<ContentId, Vec<Place>>>,
    index: Arc<Index>,
    manifests: moka::sync::Cache<ContentId, Arc<Manifest>>,
    open: moka::sync::Cache<(u32, ValidPath, ContentId), Arc<File>>,
    stale: Mutex<Stale>,
    begun: AtomicBool,
}

impl Sources {
    /// Over what `index` knows; nothing is offered yet. `stale` hears of files that are not what was published.
    pub fn new(index: Arc<Index>, stale: Stale) -> Self {
        let weigh = |_: &ContentId, manifest: &Arc<Manifest>| (manifest.chunks().len() * 32 + 128) as u32;
        Self {
            places: RwLock::default(),
            index,
            manifests: moka::sync::Cache::builder().max_capacity(MANIFESTS).weigher(weigh).build(),
            open: moka::sync::Cache::builder().max_capacity(OPEN_FILES).time_to_idle(OPEN_IDLE).build(),
            stale: Mutex::new(stale),
            begun: AtomicBool::new(true),
        }
    }

    /// What is offered is not known yet, or is now: until then nobody is told that something is not shared.
    pub fn set_begun(&self, begun: bool) {
        self.begun.store(begun, Ordering::Release);
    }

    /// Offers a place.
    pub fn add(&self, content: ContentId, place: Place) {
        let mut places = self.places.write();
        let known = places.entry(content).or_default();
        if !known.contains(&place) {
            known.push(place);
        }
    }

    /// Takes a place back.
    pub fn remove(&self, content: ContentId, share: u32, path: &ValidPath) {
        let mut places = self.places.write();
        if let Some(known) = places.get_mut(&content) {
            known.retain(|place| place.share != share || place.path != *path);
            if known.is_empty() {
                places.remove(&content);
            }
        }
    }

    /// True if some share offers `content` to `network`.
    pub fn offers(&self, network: NetworkId, content: ContentId) -> bool {
        self.places.read().get(&content).is_some_and(|places| places.iter().any(|place| place.network == network))
    }

    /// The manifest of a content that is offered. Blocks on the disk.
    pub fn manifest(&self, network: NetworkId, content: ContentId) -> Result<Arc<Manifest>, SourceError> {
        // Before it is looked up: what is offered meanwhile counts.
        let begun = self.begun.load(Ordering::Acquire);
        if !self.offers(network, content) {
            return Err(if begun { SourceError::NotShared } else { SourceError::Failed });
        }
        if let Some(manifest) = self.manifests.get(&content) {
            return Ok(manifest);
        }
        match self.index.manifest(content) {
            Ok(Some(manifest)) => {
                let manifest = Arc::new(manifest);
                self.manifests.insert(content, Arc::clone(&manifest));
                Ok(manifest)
            }
            Ok(None) => Err(SourceError::Changed),
            Err(_) => Err(SourceError::Failed),
        }
    }

    /// Chunk `index`, verified. Blocks on the disk.
    pub fn chunk(&self, network: NetworkId, content: ContentId, index: u64) -> Result<VerifiedChunk, SourceError> {
        let manifest = self.manifest(network, content)?;
        let expected = *manifest.chunks().get(index as usize).ok_or(SourceError::NotShared)?;
        let places: Vec<Place> = self.places.read().get(&content).cloned().unwrap_or_default();
        let mut why = SourceError::Changed;
        for place in places.into_iter().filter(|place| place.network == network) {
            let error = match self.read(content, index, &place) {
                Ok(bytes) => match verify_chunk(content, index, expected, bytes) {
                    Ok(chunk) => return Ok(chunk),
                    Err(_) => None,
                },
                Err(error) => Some(error).filter(|error| !is_change(error)),
            };
            self.open.invalidate(&(place.share, place.path.clone(), content));
            if let Some(error) = error {
                tracing::debug!(share = place.share, %error, "a shared file can't be read right now");
                why = SourceError::Failed;
                continue;
            }
            self.remove(content, place.share, &place.path);
            (self.stale.lock())(&place);
        }
        Err(why)
    }

    fn read(&self, content: ContentId, index: u64, place: &Place) -> io::Result<Bytes> {
        let key = (place.share, place.path.clone(), content);
        let file = match self.open.get(&key) {
            Some(file) => file,
            None => {
                let file = Arc::new(open_beneath(&place.dir, &place.path)?);
                if Stat::from(&file.metadata()?).size != content.size {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.open.insert(key, Arc::clone(&file));
                file
            }
        };
        let len = chunk_len(content.size, index);
        let mut buffer = Buffer::new(len);
        file.read_exact_at(buffer.as_mut(), chunk_start(index))?;
        Ok(buffer.share(0..len))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::base::tree::manifest_of;
    use crate::share::index::{Change, Indexed};
    use crate::vault::keys::NameKey;
    use crate::vault::sealer::Sealer;

    #[test]
    fn a_file_that_could_not_be_read_for_a_moment_was_told_to_have_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = ValidPath::new(b"f").unwrap();
        std::fs::write(dir.path().join("f"), "content").unwrap();
        let stat = Stat::from(&std::fs::metadata(dir.path().join("f")).unwrap());
        let manifest = manifest_of(b"content");
        let content = manifest.content();
        let index =
            Index::open(&dir.path().join("index"), Arc::new(Sealer::new(&NameKey::from_bytes([1; 32])))).unwrap();
        let indexed = Indexed { share: 1, path: path.clone(), stat, content, racy: false };
        index.change(&[Change::Put(indexed, manifest)]).unwrap();
        let stale = Arc::new(AtomicUsize::new(0));
        let told = Arc::clone(&stale);
        let hears = Box::new(move |_: &Place| {
            told.fetch_add(1, Ordering::Relaxed);
        });
        let sources = Sources::new(Arc::new(index), hears);
        let network = NetworkId([1; 32]);
        let place = |dir: PathBuf| Place { share: 1, network, dir: Arc::new(dir), path: path.clone() };
        // A daemon that has only begun does not know yet what it shares: others know its catalog from before.
        sources.set_begun(false);
        assert_eq!(sources.chunk(network, content, 0).err(), Some(SourceError::Failed));
        sources.set_begun(true);
        assert_eq!(sources.chunk(network, content, 0).err(), Some(SourceError::NotShared));
        // Any error but those that tell of the file itself: here, that a name is too long.
        let broken = place(dir.path().join("x".repeat(300)));
        sources.add(content, broken);
        assert_eq!(sources.chunk(network, content, 0).err(), Some(SourceError::Failed));
        assert!(sources.offers(network, content) && stale.load(Ordering::Relaxed) == 0);
        // Another place has it.
        sources.add(content, place(dir.path().into()));
        assert_eq!(sources.chunk(network, content, 0).unwrap().bytes(), &b"content"[..]);
        // Other bytes, too few of them, none at all.
        for now in [Some("CONTENT"), Some("con"), None] {
            let sources = Sources::new(Arc::clone(&sources.index), Box::new(|_| {}));
            sources.add(content, place(dir.path().into()));
            match now {
                Some(now) => std::fs::write(dir.path().join("f"), now).unwrap(),
                None => std::fs::remove_file(dir.path().join("f")).unwrap(),
            }
            assert_eq!(sources.chunk(network, content, 0).err(), Some(SourceError::Changed));
            assert!(!sources.offers(network, content));
        }
    }
}
