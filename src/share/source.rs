//! Reading chunks to serve: opened below their share, read by `pread`, verified before they leave. What has changed is
//! said to have changed, and indexed again.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
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
        }
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
        if !self.offers(network, content) {
            return Err(SourceError::NotShared);
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
            _ => Err(SourceError::Changed),
        }
    }

    /// Chunk `index`, verified. Blocks on the disk.
    pub fn chunk(&self, network: NetworkId, content: ContentId, index: u64) -> Result<VerifiedChunk, SourceError> {
        let manifest = self.manifest(network, content)?;
        let expected = *manifest.chunks().get(index as usize).ok_or(SourceError::NotShared)?;
        let places: Vec<Place> = self.places.read().get(&content).cloned().unwrap_or_default();
        for place in places.into_iter().filter(|place| place.network == network) {
            if let Ok(bytes) = self.read(content, index, &place)
                && let Ok(chunk) = verify_chunk(content, index, expected, bytes)
            {
                return Ok(chunk);
            }
            self.open.invalidate(&(place.share, place.path.clone(), content));
            self.remove(content, place.share, &place.path);
            (self.stale.lock())(&place);
        }
        Err(SourceError::Changed)
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
