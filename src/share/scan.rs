//! Walking a share: which of its files are offered. Regular files only; no symlinks, no other file systems, nothing that
//! `.flashgetignore` names, hidden files only where asked for, and never a flashget home.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ignore::{DirEntry, WalkBuilder};
use serde::{Deserialize, Serialize};

use super::list::Share;
use crate::base::clock::Timestamp;
use crate::base::limits::MAX_FILE_SIZE;
use crate::base::names::ValidPath;
use crate::cache::place::is_cache;

/// The file that says what is not shared, with gitignore's syntax.
pub const IGNORE_FILE: &str = ".flashgetignore";
const VAULT_MAGIC: &[u8] = b"FGVAULT";

/// What tells whether a file is the one that was hashed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stat {
    /// Device and inode.
    pub inode: (u64, u64),
    /// Bytes.
    pub size: u64,
    /// Last modification.
    pub mtime: Timestamp,
    /// Last change of the inode: can't be set back.
    pub ctime: Timestamp,
    /// The owner may execute it.
    pub executable: bool,
}

impl From<&Metadata> for Stat {
    fn from(meta: &Metadata) -> Self {
        let time = |secs, nanos: i64| Timestamp { secs, nanos: nanos as u32 };
        Self {
            inode: (meta.dev(), meta.ino()),
            size: meta.size(),
            mtime: time(meta.mtime(), meta.mtime_nsec()),
            ctime: time(meta.ctime(), meta.ctime_nsec()),
            executable: meta.mode() & 0o100 != 0,
        }
    }
}

/// What a walk found.
#[derive(Debug, Default)]
pub struct Found {
    /// Files, by their path below the share.
    pub files: BTreeMap<ValidPath, Stat>,
    /// Folders and files that could not be read, or whose path is too long.
    pub skipped: u64,
}

/// Walks `share`; with `only`, no further than to these paths (relative to the share) and what is below them.
/// `never`: folders that are left out.
pub fn scan(share: &Share, only: Option<&[PathBuf]>, never: &[PathBuf]) -> std::io::Result<Found> {
    // The walk would report a missing folder as one more unreadable entry.
    std::fs::read_dir(&share.dir)?;
    if never.iter().any(|never| share.dir.starts_with(never)) || is_ours(&share.dir) {
        return Err(std::io::Error::other("flashget keeps its own files there"));
    }
    let targets: Option<Vec<PathBuf>> = only.map(|only| only.iter().map(|path| share.dir.join(path)).collect());
    let never = never.to_vec();
    let root = share.dir.clone();
    let wanted = move |entry: &DirEntry| {
        let path = entry.path();
        if path == root {
            return true;
        }
        let on_the_way = |target: &PathBuf| path.starts_with(target) || target.starts_with(path);
        if !targets.as_ref().is_none_or(|targets| targets.iter().any(on_the_way))
            || never.iter().any(|never| path == never)
        {
            return false;
        }
        !(entry.file_type().is_some_and(|kind| kind.is_dir()) && is_ours(path))
    };
    let walk = WalkBuilder::new(&share.dir)
        .standard_filters(false)
        .hidden(!share.hidden)
        .follow_links(false)
        .same_file_system(true)
        .add_custom_ignore_filename(IGNORE_FILE)
        .filter_entry(wanted)
        .build();
    let mut found = Found::default();
    for entry in walk {
        let Ok(entry) = entry else {
            found.skipped += 1;
            continue;
        };
        if !entry.file_type().is_some_and(|kind| kind.is_file()) || entry.file_name() == IGNORE_FILE {
            continue;
        }
        let path = entry.path().strip_prefix(&share.dir).map(|path| ValidPath::new(path.as_os_str().as_bytes()));
        match (path, entry.metadata()) {
            // Nobody would take in a catalog with a file that is larger.
            (Ok(Ok(path)), Ok(meta)) if published_path(share, &path).is_some() && meta.len() <= MAX_FILE_SIZE => {
                found.files.insert(path, Stat::from(&meta));
            }
            _ => found.skipped += 1,
        }
    }
    Ok(found)
}

/// Where a share's file appears in the view; `None` if that path is too long.
pub fn published_path(share: &Share, path: &ValidPath) -> Option<ValidPath> {
    match &share.at {
        None => Some(path.clone()),
        Some(at) => at.join(path).ok(),
    }
}

/// True if a folder is a flashget home (or its state folder), or a cache: nobody means to publish keys, or sealed chunks.
fn is_ours(dir: &Path) -> bool {
    is_cache(dir) || is_home(dir)
}

fn is_home(dir: &Path) -> bool {
    [dir.join("vault"), dir.join("state/vault")].iter().any(|vault| {
        let mut magic = [0; VAULT_MAGIC.len()];
        let mut read = |path: &PathBuf| std::fs::File::open(path)?.read_exact(&mut magic);
        vault.is_file() && read(vault).is_ok() && magic == VAULT_MAGIC
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::NetworkId;

    fn tree(dir: &Path, files: &[&str]) {
        for file in files {
            let path = dir.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
    }

    fn names(share: &Share, only: Option<&[PathBuf]>, never: &[PathBuf]) -> Vec<String> {
        scan(share, only, never).unwrap().files.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn offers_what_should_be_offered_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        tree(&root, &["a", "sub/b", "sub/c.log", "sub/deep/d.tmp", ".ssh/key", "sub/.hidden", "keep.log", "private/x"]);
        tree(&root, &["home/state/cache", "node_modules/y", ".gitignore"]);
        std::fs::write(root.join("home/state/vault"), b"FGVAULT1...").unwrap();
        tree(&root, &["sealed/files/ab/cdef"]);
        std::fs::write(root.join("sealed/owner"), b"FGCACHED...").unwrap();
        std::fs::write(root.join(".flashgetignore"), "*.log\n!keep.log\n/private\n").unwrap();
        std::fs::write(root.join("sub/.flashgetignore"), "*.tmp\n").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("link")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("sub/etc")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let mut share = Share { id: 1, dir: root.clone(), at: None, network: NetworkId([1; 32]), hidden: false };
        let never = [root.join("node_modules")];
        assert_eq!(names(&share, None, &never), ["a", "keep.log", "sub/b"]);
        assert_eq!(names(&share, Some(&["sub".into()]), &never), ["sub/b"]);
        assert_eq!(names(&share, Some(&["sub/b".into(), "sub/c.log".into()]), &never), ["sub/b"]);
        assert!(names(&share, Some(&["gone".into()]), &never).is_empty());
        share.hidden = true;
        assert_eq!(names(&share, None, &never), [".gitignore", ".ssh/key", "a", "keep.log", "sub/.hidden", "sub/b"]);
        share.at = Some(ValidPath::new(b"x/y").unwrap());
        assert_eq!(published_path(&share, &ValidPath::new(b"a").unwrap()).unwrap().as_bytes(), b"x/y/a");
        share.dir = root.join("none");
        assert!(scan(&share, None, &[]).is_err());
    }

    #[test]
    fn a_share_that_has_become_the_cache_is_not_offered() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        tree(&root, &["cache/files/ab/cdef", "home/state/x"]);
        let share =
            |dir: &str| Share { id: 1, dir: root.join(dir), at: None, network: NetworkId([1; 32]), hidden: false };
        assert!(scan(&share("cache"), None, &[]).is_ok());
        assert!(scan(&share("cache/files"), None, &[root.join("cache")]).is_err());
        std::fs::write(root.join("cache/owner"), b"FGCACHED...").unwrap();
        assert!(scan(&share("cache"), None, &[]).is_err());
        std::fs::write(root.join("home/state/vault"), b"FGVAULT1...").unwrap();
        assert!(scan(&share("home"), None, &[]).is_err());
    }
}
