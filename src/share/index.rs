//! The index: what every shared file hashed to, so that a restart does not hash again. A redb database whose keys are
//! keyed hashes and whose values are sealed: it reveals neither names nor contents.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use super::scan::Stat;
use crate::base::chunks::chunk_count;
use crate::base::ids::{ContentId, SubtreeHash};
use crate::base::names::ValidPath;
use crate::base::tree::Manifest;
use crate::vault::sealer::Sealer;

/// By the keyed hash of share and path: the sealed [`Indexed`].
const FILES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("files");
/// By the keyed hash of the content: the sealed chunk hashes. Apart, so that a restart need not read them.
const HASHES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("hashes");
const FILE: &str = "index file";
const HASH: &str = "index hashes";
/// redb's own cache: the index is read once at the start and then written in batches.
const DB_CACHE: usize = 16 << 20;

/// The index failed.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The database.
    #[error("the index: {0}")]
    Database(#[from] redb::Error),
    /// A file operation.
    #[error("the index: {0}")]
    Io(#[from] std::io::Error),
}

macro_rules! from_redb {
    ($($kind:ident),*) => {
        $(impl From<redb::$kind> for IndexError {
            fn from(error: redb::$kind) -> Self {
                Self::Database(error.into())
            }
        })*
    };
}
from_redb!(DatabaseError, TransactionError, TableError, StorageError, CommitError);

/// How long a daemon that is ending may still have the database open.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What is known of one file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Indexed {
    /// Of which share.
    pub share: u32,
    /// Its path below the share.
    pub path: ValidPath,
    /// What it was when it was hashed.
    pub stat: Stat,
    /// What it hashed to.
    pub content: ContentId,
    /// It was changed so shortly before it was hashed that a further change might not show in its times.
    pub racy: bool,
}

/// A change of the index.
pub enum Change {
    /// A file was hashed.
    Put(Indexed, Manifest),
    /// A file is gone from its share.
    Remove(u32, ValidPath),
}

/// See the module.
pub struct Index {
    database: Database,
    sealer: Arc<Sealer>,
}

fn place(share: u32, path: &ValidPath) -> Vec<u8> {
    [&share.to_le_bytes()[..], path.as_bytes()].concat()
}

fn content_key(content: ContentId) -> [u8; 40] {
    let mut key = [0; 40];
    key[..32].copy_from_slice(&content.root.0);
    key[32..].copy_from_slice(&content.size.to_le_bytes());
    key
}

impl Index {
    /// Opens the database; one that is damaged is set aside and begun anew: everything in it can be hashed again. One that
    /// a daemon which is ending still has open is waited for. Blocks.
    pub fn open(file: &Path, sealer: Arc<Sealer>) -> Result<Self, IndexError> {
        let began = Instant::now();
        let create = || {
            loop {
                match Database::builder().set_cache_size(DB_CACHE).create(file) {
                    Err(redb::DatabaseError::DatabaseAlreadyOpen) if began.elapsed() < PATIENCE => {
                        std::thread::sleep(LOOK_AGAIN);
                    }
                    opened => return opened,
                }
            }
        };
        let database = match create() {
            Ok(database) => database,
            Err(
                error @ (redb::DatabaseError::DatabaseAlreadyOpen
                | redb::DatabaseError::Storage(redb::StorageError::Io(_))),
            ) if !is_damage(&error) => {
                return Err(error.into());
            }
            Err(error) => {
                tracing::warn!(%error, "the index is damaged: shares are hashed again");
                std::fs::rename(file, aside(file))?;
                create()?
            }
        };
        let index = Self { database, sealer };
        let begun = index.database.begin_write()?;
        begun.open_table(FILES)?;
        begun.open_table(HASHES)?;
        begun.commit()?;
        Ok(index)
    }

    /// Everything that is known. Records that do not open are left out: their files are hashed again.
    pub fn all(&self) -> Result<Vec<Indexed>, IndexError> {
        let read = self.database.begin_read()?;
        let mut all = Vec::new();
        for row in read.open_table(FILES)?.iter()? {
            let (key, value) = row?;
            if let Ok(plain) = self.sealer.open(FILE, key.value(), value.value())
                && let Ok(indexed) = rmp_serde::from_slice(&plain)
            {
                all.push(indexed);
            }
        }
        Ok(all)
    }

    /// Makes changes, all or none.
    pub fn change(&self, changes: &[Change]) -> Result<(), IndexError> {
        let write = self.database.begin_write()?;
        {
            let mut files = write.open_table(FILES)?;
            let mut hashes = write.open_table(HASHES)?;
            for change in changes {
                match change {
                    Change::Put(indexed, manifest) => {
                        let key = self.sealer.hash(FILE, &place(indexed.share, &indexed.path));
                        let plain = rmp_serde::to_vec(indexed).map_err(std::io::Error::other)?;
                        let sealed = self.sealer.seal(FILE, &key, &plain).map_err(std::io::Error::other)?;
                        files.insert(&key[..], &sealed[..])?;
                        // One chunk's hash is the root itself.
                        if manifest.chunks().len() > 1 {
                            let key = self.sealer.hash(HASH, &content_key(indexed.content));
                            let plain: Vec<u8> = manifest.chunks().iter().flat_map(|hash| hash.0).collect();
                            let sealed = self.sealer.seal(HASH, &key, &plain).map_err(std::io::Error::other)?;
                            hashes.insert(&key[..], &sealed[..])?;
                        }
                    }
                    Change::Remove(share, path) => {
                        files.remove(&self.sealer.hash(FILE, &place(*share, path))[..])?;
                    }
                }
            }
        }
        write.commit()?;
        Ok(())
    }

    /// Removes the chunk hashes of contents that no file has any more.
    pub fn sweep(&self, in_use: impl Iterator<Item = ContentId>) -> Result<(), IndexError> {
        let keep: std::collections::HashSet<[u8; 32]> =
            in_use.map(|content| self.sealer.hash(HASH, &content_key(content))).collect();
        let write = self.database.begin_write()?;
        write.open_table(HASHES)?.retain(|key, _| key.try_into().is_ok_and(|key: [u8; 32]| keep.contains(&key)))?;
        write.commit()?;
        Ok(())
    }

    /// The chunk hashes of a content that was indexed.
    pub fn manifest(&self, content: ContentId) -> Result<Option<Manifest>, IndexError> {
        if content.is_small() {
            let hashes = (0..chunk_count(content.size)).map(|_| SubtreeHash(content.root.0)).collect();
            return Ok(Manifest::new(content.size, hashes).ok());
        }
        let key = self.sealer.hash(HASH, &content_key(content));
        let read = self.database.begin_read()?;
        let Some(sealed) = read.open_table(HASHES)?.get(&key[..])? else { return Ok(None) };
        let Ok(plain) = self.sealer.open(HASH, &key, sealed.value()) else { return Ok(None) };
        let hashes = plain.chunks_exact(32).filter_map(|hash| hash.try_into().ok().map(SubtreeHash)).collect();
        Ok(Manifest::new(content.size, hashes).ok().filter(|manifest| manifest.content() == content))
    }
}

fn is_damage(error: &redb::DatabaseError) -> bool {
    match error {
        redb::DatabaseError::Storage(redb::StorageError::Io(error)) => {
            matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
        }
        redb::DatabaseError::DatabaseAlreadyOpen => false,
        _ => true,
    }
}

fn aside(file: &Path) -> PathBuf {
    file.with_extension("damaged")
}
