//! Contents that are never evicted, as the user has said: a sealed list beside what it is about.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::ids::ContentId;
use crate::vault::sealer::Sealer;
use crate::vault::store::write_in_place;

const PURPOSE: &str = "cache pins";

/// See the module.
pub struct Pins {
    file: PathBuf,
    sealer: Arc<Sealer>,
    pinned: Mutex<HashSet<ContentId>>,
    /// One at a time changes them: looking at them never waits for the disk.
    writing: Mutex<()>,
}

impl Pins {
    /// Those that `file` lists; none if it is not there. One that does not open is set aside with a warning: losing pins
    /// loses no data.
    pub fn load(file: &Path, sealer: Arc<Sealer>) -> io::Result<Self> {
        let pinned = match std::fs::read(file) {
            Ok(sealed) => {
                let plain = sealer.open(PURPOSE, &[], &sealed).ok();
                plain.and_then(|plain| rmp_serde::from_slice(&plain).ok()).unwrap_or_else(|| {
                    tracing::warn!("the list of pinned files does not open: nothing is pinned");
                    HashSet::new()
                })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => HashSet::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { file: file.into(), sealer, pinned: Mutex::new(pinned), writing: Mutex::default() })
    }

    /// All of them.
    pub fn all(&self) -> HashSet<ContentId> {
        self.pinned.lock().clone()
    }

    /// True if it is one.
    pub fn contains(&self, content: ContentId) -> bool {
        self.pinned.lock().contains(&content)
    }

    /// Pins or unpins. Blocks on the disk.
    pub fn set(&self, contents: &[ContentId], pinned: bool) -> io::Result<()> {
        let _one = self.writing.lock();
        let mut new = self.all();
        for content in contents {
            if pinned {
                new.insert(*content)
            } else {
                new.remove(content)
            };
        }
        let plain = rmp_serde::to_vec(&new).map_err(io::Error::other)?;
        let sealed = self.sealer.seal(PURPOSE, &[], &plain).map_err(io::Error::other)?;
        write_in_place(&self.file, &[&sealed])?;
        *self.pinned.lock() = new;
        Ok(())
    }
}
