//! `/.flashget/`: what is known of the mount and of each file, as small texts. Hidden from `ls`, found by name:
//!
//! - `/.flashget/status`: of the mount;
//! - `/.flashget/files/PATH`: of the file PATH.
//!
//! The tree below `files` is that of the view, with numbers that follow from the real ones, so nothing is kept for it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::inodes::{Inodes, ROOT_INODE};
use crate::base::clock::Timestamp;
use crate::base::ids::ContentId;
use crate::catalog::tree::{FileState, TREE_ROOT, TreeIndex};
use crate::reader::contents::{ContentHandle, ReadBytes, ReadError};

/// The folder's name, in the root of the mount. A file or folder of that name that somebody shares goes before it.
pub const NAME: &str = ".flashget";
const STATUS: &str = "status";
const FILES: &str = "files";

/// Numbers of the folder and of `status`. As real numbers are hashes, they are taken with a chance of 1 in 2^64; then the
/// real one goes before.
const FOLDER_INODE: u64 = 0x666c_6173_6867_6574;
const STATUS_INODE: u64 = FOLDER_INODE + 1;
/// What the numbers below `files` differ by from the real ones.
const MIRROR: u64 = 0x9e37_79b9_7f4a_7c15;

/// What the layers above know. Never waits.
pub trait Told: Send + Sync {
    /// Facts of the mount: names and values of one line.
    fn facts(&self) -> Vec<(&'static str, String)>;
    /// How much of a content is in the cache.
    fn cached_percent(&self, content: ContentId) -> u8;
}

/// Something in `/.flashget/`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// `/.flashget` itself.
    Folder,
    /// `/.flashget/status`.
    Status,
    /// What `/.flashget/files/...` has in the place of this entry.
    Mirror(TreeIndex),
}

impl Place {
    /// What has this number.
    pub fn of(inodes: &Inodes, inode: u64) -> Option<Self> {
        match inode {
            FOLDER_INODE => Some(Self::Folder),
            STATUS_INODE => Some(Self::Status),
            mirrored => inodes.find(mirrored ^ MIRROR).map(Self::Mirror),
        }
    }

    /// What `name` in the folder `parent` is.
    pub fn lookup(inodes: &Inodes, parent: u64, name: &OsStr) -> Option<Self> {
        if parent == ROOT_INODE {
            return (name == NAME).then_some(Self::Folder);
        }
        match Self::of(inodes, parent)? {
            Self::Folder if name == STATUS => Some(Self::Status),
            Self::Folder if name == FILES => Some(Self::Mirror(TREE_ROOT)),
            Self::Mirror(folder) => inodes.view().child(folder, name.as_bytes()).map(Self::Mirror),
            Self::Folder | Self::Status => None,
        }
    }

    /// Its number.
    pub fn inode(self, inodes: &Inodes) -> u64 {
        match self {
            Self::Folder => FOLDER_INODE,
            Self::Status => STATUS_INODE,
            Self::Mirror(index) => inodes.number(index) ^ MIRROR,
        }
    }

    /// True for a folder.
    pub fn is_folder(self, inodes: &Inodes) -> bool {
        match self {
            Self::Folder => true,
            Self::Status => false,
            Self::Mirror(index) => inodes.view().is_folder(index),
        }
    }

    /// Last modification of what it stands for.
    pub fn mtime(self, inodes: &Inodes) -> Timestamp {
        match self {
            Self::Folder | Self::Status => inodes.mtime(TREE_ROOT),
            Self::Mirror(index) => inodes.mtime(index),
        }
    }

    /// The folder that it is in.
    pub fn parent(self, inodes: &Inodes) -> u64 {
        match self {
            Self::Folder => ROOT_INODE,
            Self::Status => FOLDER_INODE,
            Self::Mirror(TREE_ROOT) => FOLDER_INODE,
            Self::Mirror(index) => inodes.number(inodes.view().parent(index)) ^ MIRROR,
        }
    }

    /// What is in it, by name; of a folder.
    pub fn children(self, inodes: &Inodes) -> Box<dyn Iterator<Item = (&[u8], Self)> + '_> {
        match self {
            Self::Folder => {
                let files = (FILES.as_bytes(), Self::Mirror(TREE_ROOT));
                Box::new([files, (STATUS.as_bytes(), Self::Status)].into_iter())
            }
            Self::Status => Box::new(std::iter::empty()),
            Self::Mirror(index) => {
                let children = inodes.view().named_children(index);
                Box::new(children.map(|(name, child)| (name, Self::Mirror(child))))
            }
        }
    }

    /// What it says: a line for each fact.
    pub fn text(self, inodes: &Inodes, told: &dyn Told) -> String {
        let facts = match self {
            Self::Folder => Vec::new(),
            Self::Status => told.facts(),
            Self::Mirror(index) => facts_of(inodes, index, told),
        };
        facts.into_iter().map(|(name, value)| format!("{name} {value}\n")).collect()
    }
}

/// Facts of an entry of the view: of the root those of the mount, of another folder none.
pub fn facts_of(inodes: &Inodes, index: TreeIndex, told: &dyn Told) -> Vec<(&'static str, String)> {
    let Some(file) = inodes.view().file(index) else {
        return if index == TREE_ROOT { told.facts() } else { Vec::new() };
    };
    let content = file.content();
    let state = match file.state() {
        FileState::Live => "live",
        FileState::Lingering => "lingering",
        FileState::Cached => "cached",
        FileState::Offline => "offline",
    };
    vec![
        ("root", content.root.to_string()),
        ("size", content.size.to_string()),
        ("sources", file.sources().count().to_string()),
        ("cached_percent", told.cached_percent(content).to_string()),
        ("state", state.into()),
    ]
}

/// A text that is read as it was when it was opened.
pub struct TextHandle(Bytes);

impl TextHandle {
    /// Over `text`.
    pub fn open(text: String) -> Arc<dyn ContentHandle> {
        Arc::new(Self(text.into()))
    }

    fn part(&self, offset: u64, len: usize) -> ReadBytes {
        let from = usize::try_from(offset).map_or(self.0.len(), |from| from.min(self.0.len()));
        let until = from.saturating_add(len).min(self.0.len());
        ReadBytes::new(vec![self.0.slice(from..until)])
    }
}

#[async_trait]
impl ContentHandle for TextHandle {
    async fn read(&self, offset: u64, len: usize) -> Result<ReadBytes, ReadError> {
        Ok(self.part(offset, len))
    }

    fn read_now(&self, offset: u64, len: usize) -> Option<ReadBytes> {
        Some(self.part(offset, len))
    }
}
