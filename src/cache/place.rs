//! The cache's folder: whose it is, and that one daemon alone works in it. What lies in a folder that is not marked as
//! this home's cache is never touched.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::vault::sealer::Sealer;
use crate::vault::store::write_in_place;

/// The file that says whose cache a folder is.
pub const MARKER: &str = "owner";
/// What a marker begins with; a keyed hash that only this home can make follows.
pub const MARKER_MAGIC: &[u8; 8] = b"FGCACHED";
/// Held while a daemon works in the folder.
const LOCK: &str = "lock";
const PURPOSE: &str = "cache folder";

/// Why the cache can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// There is something in the folder, and no cache.
    #[error("can't keep the cache in {}: files that are not flashget's lie there; empty it, or name another folder", .0.display())]
    Strange(PathBuf),
    /// Another home keeps its cache there.
    #[error("can't keep the cache in {}: it is another home's cache; remove it if nobody needs it, or name another folder", .0.display())]
    OfAnother(PathBuf),
    /// A daemon works in it.
    #[error("another flashget daemon is using the cache in {}", .0.display())]
    InUse(PathBuf),
    /// A file operation failed.
    #[error("the cache in {}: {source}", .dir.display())]
    Io {
        /// Where.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The folder, for as long as this is held.
#[derive(Debug)]
pub struct Place {
    _lock: File,
}

impl Place {
    /// Takes `dir`, which is made (mode 0700) where it is missing. An empty one is marked as the home's whose `sealer` it
    /// is; one that holds anything else is refused, untouched.
    pub fn take(dir: &Path, sealer: &Sealer) -> Result<Self, CacheError> {
        let wrong = |source| CacheError::Io { dir: dir.into(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(wrong)?;
        let mine = [&MARKER_MAGIC[..], &sealer.hash(PURPOSE, &[])].concat();
        // Before anything is written: a folder of somebody else's gets no lock file either.
        let marked = check(dir, &mine)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(dir.join(LOCK));
        let lock = lock.map_err(wrong)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(CacheError::InUse(dir.into())),
            Err(errno) => return Err(wrong(errno.into())),
        }
        // Two may have found it empty.
        if !marked && !check(dir, &mine)? {
            write_in_place(&dir.join(MARKER), &[&mine]).map_err(wrong)?;
        }
        Ok(Self { _lock: lock })
    }
}

/// True if `dir` has this home's marker, false if it is empty.
fn check(dir: &Path, mine: &[u8]) -> Result<bool, CacheError> {
    let wrong = |source| CacheError::Io { dir: dir.into(), source };
    match fs::read(dir.join(MARKER)) {
        Ok(there) if there == mine => return Ok(true),
        Ok(_) => return Err(CacheError::OfAnother(dir.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(wrong(error)),
    }
    let half_made = Path::new(MARKER).with_extension("new");
    for item in fs::read_dir(dir).map_err(wrong)? {
        let name = item.map_err(wrong)?.file_name();
        // Somebody who was about to mark it may have left these.
        if name != LOCK && name != *half_made {
            return Err(CacheError::Strange(dir.into()));
        }
    }
    Ok(false)
}

/// True if `dir` is some home's cache.
pub fn is_cache(dir: &Path) -> bool {
    use std::io::Read;
    let mut magic = [0; MARKER_MAGIC.len()];
    let marker = dir.join(MARKER);
    let is_file = fs::symlink_metadata(&marker).is_ok_and(|meta| meta.is_file());
    is_file && File::open(marker).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *MARKER_MAGIC
}
