//! The list of shares of a home: sealed, for it names folders.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::mounts::{FlashgetMount, overlap};
use crate::base::ids::NetworkId;
use crate::base::names::ValidPath;
use crate::cache::place::is_cache;
use crate::vault::sealer::Sealer;

const PURPOSE: &str = "share list";
/// Shares of one home.
const MAX_SHARES: usize = 4096;

/// Why a share can't be added or removed.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// It does not exist, or can't be read.
    #[error("can't share {}: {}", .0.display(), .1)]
    Folder(PathBuf, io::Error),
    /// Not a folder.
    #[error("can't share {}: it is not a folder", .0.display())]
    NotAFolder(PathBuf),
    /// It contains a mount of flashget, or lies in one.
    #[error("can't share {}: the flashget mount {} and a share may not contain each other", .0.display(), .1.display())]
    Mount(PathBuf, PathBuf),
    /// It lies in the home, or in a cache.
    #[error("can't share {}: flashget keeps its own files in {}", .0.display(), .1.display())]
    Home(PathBuf, PathBuf),
    /// It is shared already, or contains or lies in a share of the same network.
    #[error("{} is shared already, as part of {}", .0.display(), .1.display())]
    Shared(PathBuf, PathBuf),
    /// No such share.
    #[error("{} is not shared: see flashget share list", .0.display())]
    NotShared(PathBuf),
    /// Too many.
    #[error("there are too many shares")]
    TooMany,
    /// The list on disk is unreadable.
    #[error("the list of shares in {} is damaged or belongs to another vault: {}", .0.display(), .1)]
    Damaged(PathBuf, String),
}

/// A folder that this node offers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Share {
    /// Its number in this home; never used again.
    pub id: u32,
    /// The folder: absolute, without symlinks. Any bytes.
    #[serde(with = "path_bytes")]
    pub dir: PathBuf,
    /// Where its contents appear in the mount; `None`: at the root.
    pub at: Option<ValidPath>,
    /// To whom.
    pub network: NetworkId,
    /// Hidden files too.
    pub hidden: bool,
}

/// Paths as bytes: those of folders need not be UTF-8.
mod path_bytes {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(path.as_os_str().as_bytes())
    }

    /// Text is taken too: earlier versions wrote it.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = PathBuf;

            fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                to.write_str("a path")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<PathBuf, E> {
                Ok(OsString::from_vec(bytes.to_vec()).into())
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<PathBuf, E> {
                Ok(text.into())
            }
        }

        from.deserialize_bytes(Bytes)
    }
}

/// All shares of a home.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ShareList {
    next: u32,
    shares: Vec<Share>,
}

/// What a share may not overlap.
#[derive(Clone, Debug, Default)]
pub struct Forbidden {
    /// Mounts of flashget.
    pub mounts: Vec<FlashgetMount>,
    /// Folders of this home, and its cache's.
    pub home: Vec<PathBuf>,
}

impl ShareList {
    /// Reads the list; none yet is an empty one.
    pub fn load(file: &Path, sealer: &Sealer) -> Result<Self, ListError> {
        let damaged = |what: &dyn std::fmt::Display| ListError::Damaged(file.into(), what.to_string());
        let sealed = match std::fs::read(file) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(damaged(&error)),
        };
        let plain = sealer.open(PURPOSE, &[], &sealed).map_err(|error| damaged(&error))?;
        rmp_serde::from_slice(&plain).map_err(|error| damaged(&error))
    }

    /// Writes the list, in one step.
    pub fn save(&self, file: &Path, sealer: &Sealer) -> io::Result<()> {
        let plain = rmp_serde::to_vec(self).map_err(io::Error::other)?;
        let sealed = sealer.seal(PURPOSE, &[], &plain).map_err(io::Error::other)?;
        crate::vault::store::write_in_place(file, &[&sealed])
    }

    /// All of them.
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// Adds `dir`, if it may be shared.
    pub fn add(
        &mut self,
        dir: &Path,
        at: Option<ValidPath>,
        network: NetworkId,
        hidden: bool,
        forbidden: &Forbidden,
    ) -> Result<Share, ListError> {
        let wrong = |error| ListError::Folder(dir.into(), error);
        let absolute = std::path::absolute(dir).map_err(wrong)?;
        // Before anything looks at the folder itself: a mount whose daemon hangs would hang us.
        allowed(&absolute, forbidden)?;
        let dir = std::fs::canonicalize(&absolute).map_err(wrong)?;
        allowed(&dir, forbidden)?;
        if let Some(cache) = dir.ancestors().find(|folder| is_cache(folder)) {
            return Err(ListError::Home(dir.clone(), cache.into()));
        }
        if !std::fs::metadata(&dir).map_err(wrong)?.is_dir() {
            return Err(ListError::NotAFolder(dir));
        }
        std::fs::read_dir(&dir).map_err(wrong)?;
        let same = |share: &&Share| share.network == network && overlap(&share.dir, &dir);
        if let Some(share) = self.shares.iter().find(same) {
            return Err(ListError::Shared(dir, share.dir.clone()));
        }
        if self.shares.len() >= MAX_SHARES {
            return Err(ListError::TooMany);
        }
        self.next += 1;
        let share = Share { id: self.next, dir, at, network, hidden };
        self.shares.push(share.clone());
        Ok(share)
    }

    /// Takes `dir` out, in whichever networks it is shared. It need not exist any more.
    pub fn remove(&mut self, dir: &Path) -> Result<Vec<Share>, ListError> {
        let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.into());
        let mut matches =
            |path: &Path| -> Vec<Share> { self.shares.extract_if(.., |share| share.dir == path).collect() };
        let mut removed = matches(&absolute);
        if removed.is_empty()
            && let Ok(real) = std::fs::canonicalize(&absolute)
        {
            removed = matches(&real);
        }
        if removed.is_empty() { Err(ListError::NotShared(absolute)) } else { Ok(removed) }
    }

    /// Shares that a mount at `point` would contain or lie in.
    pub fn overlapping(&self, point: &Path) -> Option<&Share> {
        self.shares.iter().find(|share| overlap(&share.dir, point))
    }
}

fn allowed(dir: &Path, forbidden: &Forbidden) -> Result<(), ListError> {
    if let Some(mount) = forbidden.mounts.iter().find(|mount| overlap(&mount.point, dir)) {
        return Err(ListError::Mount(dir.into(), mount.point.clone()));
    }
    // A share may lie beside the home in one parent; the home inside of a share is left out by the scan. Only a share
    // of the home's own folders is refused.
    if let Some(home) = forbidden.home.iter().find(|home| dir.starts_with(home)) {
        return Err(ListError::Home(dir.into(), home.clone()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::keys::NameKey;

    const LAB: NetworkId = NetworkId([1; 32]);

    #[test]
    fn says_what_may_not_be_shared() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for name in ["a/inner", "b", "home", "mnt"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::write(root.join("file"), "x").unwrap();
        let mount = FlashgetMount { point: root.join("mnt"), source: "lab".into(), device: "0:9".into() };
        let forbidden = Forbidden { mounts: vec![mount], home: vec![root.join("home")] };
        let mut list = ShareList::default();
        let mut add = |name: &str, network| list.add(&root.join(name), None, network, false, &forbidden);
        assert!(matches!(add("nothing", LAB), Err(ListError::Folder(..))));
        assert!(matches!(add("file", LAB), Err(ListError::NotAFolder(..))));
        assert!(matches!(add("mnt/x", LAB), Err(ListError::Mount(..))));
        assert!(matches!(add("", LAB), Err(ListError::Mount(..))));
        assert!(matches!(add("home", LAB), Err(ListError::Home(..))));
        std::fs::create_dir_all(root.join("srv/flashget-cache/files")).unwrap();
        std::fs::write(root.join("srv/flashget-cache/owner"), b"FGCACHED...").unwrap();
        assert!(matches!(add("srv/flashget-cache", LAB), Err(ListError::Home(..))));
        assert!(matches!(add("srv/flashget-cache/files", LAB), Err(ListError::Home(..))));
        add("a", LAB).unwrap();
        assert!(matches!(add("a", LAB), Err(ListError::Shared(..))));
        assert!(matches!(add("a/inner", LAB), Err(ListError::Shared(..))));
        add("a/inner", NetworkId([2; 32])).unwrap();
        add("b", LAB).unwrap();
        assert!(matches!(list.remove(&root.join("home")), Err(ListError::NotShared(_))));
        std::fs::remove_dir(root.join("b")).unwrap();
        assert_eq!(list.remove(&root.join("b")).unwrap().len(), 1);
        assert!(list.overlapping(&root.join("a/x")).is_some() && list.overlapping(&root.join("b")).is_none());

        let sealer = Sealer::new(&NameKey::from_bytes([1; 32]));
        let file = root.join("shares");
        list.save(&file, &sealer).unwrap();
        assert_eq!(ShareList::load(&file, &sealer).unwrap(), list);
        let other = Sealer::new(&NameKey::from_bytes([2; 32]));
        assert!(matches!(ShareList::load(&file, &other), Err(ListError::Damaged(..))));
    }

    #[test]
    fn a_folder_whose_name_is_not_text_can_be_shared() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let odd = root.join(std::ffi::OsStr::from_bytes(b"caf\xe9 \xff"));
        std::fs::create_dir(&odd).unwrap();
        let mut list = ShareList::default();
        list.add(&odd, None, LAB, false, &Forbidden::default()).unwrap();
        let sealer = Sealer::new(&NameKey::from_bytes([1; 32]));
        let file = root.join("shares");
        list.save(&file, &sealer).unwrap();
        assert_eq!(ShareList::load(&file, &sealer).unwrap(), list);
        assert_eq!(list.remove(&odd).unwrap().len(), 1);
    }

    #[test]
    fn a_list_that_an_earlier_version_wrote_is_read() {
        #[derive(Serialize)]
        struct Old(u32, [(u32, PathBuf, Option<ValidPath>, NetworkId, bool); 1]);
        let plain = rmp_serde::to_vec(&Old(1, [(1, "/data".into(), None, LAB, true)])).unwrap();
        let list: ShareList = rmp_serde::from_slice(&plain).unwrap();
        assert_eq!(list.shares()[0].dir, Path::new("/data"));
    }
}
