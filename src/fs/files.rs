//! What a mount answers: lookups, attributes, folders and reads, over the newest view. An open handle stays on the
//! version that it was opened on.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::inodes::{Inodes, ROOT_INODE, Stale};
use super::status::{Place, TextHandle, Told, facts_of};
use super::walk::Walks;
use crate::base::clock::Timestamp;
use crate::base::ids::ContentId;
use crate::base::limits::MAX_NAME;
use crate::catalog::tree::{TREE_ROOT, TreeIndex, ViewTree};
use crate::reader::contents::{ContentHandle, Contents, ReadError};

/// Why the file system says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    /// There is no such name.
    #[error("no such file or folder")]
    NotFound,
    /// No file system here has names that long.
    #[error("the name is too long")]
    NameTooLong,
    /// The inode is gone: another version took its place.
    #[error("the file has been replaced or withdrawn")]
    Stale,
    /// Not a folder.
    #[error("not a folder")]
    NotAFolder,
    /// A folder.
    #[error("a folder")]
    IsAFolder,
    /// No such handle.
    #[error("no such handle")]
    BadHandle,
    /// It can't be written.
    #[error("the mount is read-only")]
    ReadOnly,
    /// The bytes did not come.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Attributes of an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Its number.
    pub inode: u64,
    /// Bytes; 0 for a folder.
    pub size: u64,
    /// Last modification.
    pub mtime: Timestamp,
    /// A folder, or a file.
    pub folder: bool,
    /// 0444 or 0555.
    pub mode: u16,
    /// They may be others the next time: nobody should remember them.
    pub passing: bool,
}

/// What opening a file came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// The handle's number.
    pub handle: u64,
    /// A text of this moment: its size is not known beforehand, and the kernel should keep nothing of it.
    pub passing: bool,
}

/// One entry of a folder.
pub struct FolderEntry<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its attributes.
    pub attributes: Attributes,
}

struct OpenFile {
    attributes: Attributes,
    handle: Arc<dyn ContentHandle>,
}

struct OpenFolder {
    inodes: Arc<Inodes>,
    folder: Entry,
}

/// Something in the mount: an entry of the view, or one in `/.flashget/`.
#[derive(Clone, Copy)]
enum Entry {
    Real(TreeIndex),
    Status(Place),
}

/// Entries of a folder with their names.
type Named<'a> = Box<dyn Iterator<Item = (&'a [u8], Entry)> + 'a>;

impl Entry {
    fn is_folder(self, inodes: &Inodes) -> bool {
        match self {
            Self::Real(index) => inodes.view().is_folder(index),
            Self::Status(place) => place.is_folder(inodes),
        }
    }

    fn attributes(self, inodes: &Inodes) -> Attributes {
        match self {
            Self::Real(index) => {
                let inode = inodes.number(index);
                let (folder, size, mode, mtime) = match inodes.view().file(index).map(|file| file.facts()) {
                    None => (true, 0, 0o555, inodes.mtime(index)),
                    Some(facts) => {
                        (false, facts.content.size, if facts.executable { 0o555 } else { 0o444 }, facts.mtime)
                    }
                };
                Attributes { inode, size, mtime, folder, mode, passing: false }
            }
            Self::Status(place) => {
                let folder = place.is_folder(inodes);
                let mode = if folder { 0o555 } else { 0o444 };
                let (inode, mtime) = (place.inode(inodes), place.mtime(inodes));
                Attributes { inode, size: 0, mtime, folder, mode, passing: true }
            }
        }
    }
}

/// One mount's files.
pub struct Files {
    inodes: RwLock<Arc<Inodes>>,
    contents: Arc<dyn Contents>,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<OpenFile>>>,
    folders: Mutex<HashMap<u64, Arc<OpenFolder>>>,
    /// Inodes that have been opened: the kernel may have bytes of theirs.
    seen: Mutex<HashSet<u64>>,
    walks: Mutex<Walks>,
    told: Option<Arc<dyn Told>>,
}

impl Files {
    /// Shows `view`, with bytes from `contents`.
    pub fn new(view: Arc<ViewTree>, contents: Arc<dyn Contents>) -> Self {
        Self {
            inodes: RwLock::new(Arc::new(Inodes::new(view))),
            contents,
            next: AtomicU64::new(1),
            open: Mutex::default(),
            folders: Mutex::default(),
            seen: Mutex::default(),
            walks: Mutex::default(),
            told: None,
        }
    }

    /// The same, with `/.flashget/`, which says what `told` knows.
    pub fn with_status(self, told: Arc<dyn Told>) -> Self {
        Self { told: Some(told), ..self }
    }

    /// Facts of an inode: of a file, or of the mount for its root. Empty for other folders, and without
    /// [`Files::with_status`].
    pub fn facts(&self, inode: u64) -> Result<Vec<(&'static str, String)>, FsError> {
        let inodes = self.now();
        let index = inodes.find(inode).ok_or(FsError::Stale)?;
        Ok(self.told.as_ref().map(|told| facts_of(&inodes, index, &**told)).unwrap_or_default())
    }

    fn now(&self) -> Arc<Inodes> {
        Arc::clone(&self.inodes.read())
    }

    /// Shows another view. Returns what the kernel must forget.
    pub fn replace(&self, view: Arc<ViewTree>) -> Vec<Stale> {
        let new = Arc::new(self.now().next(view));
        let old = std::mem::replace(&mut *self.inodes.write(), Arc::clone(&new));
        self.walks.lock().forget();
        old.stale(&new)
    }

    /// What `name` in the folder `parent` is.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<Attributes, FsError> {
        // The kernel passes on up to 1024 bytes.
        if name.len() > MAX_NAME {
            return Err(FsError::NameTooLong);
        }
        let inodes = self.now();
        let status = || self.told.as_ref().and_then(|_| Place::lookup(&inodes, parent, name)).map(Entry::Status);
        let entry = inodes.lookup(parent, name).map(Entry::Real).or_else(status);
        entry.map(|entry| entry.attributes(&inodes)).ok_or(FsError::NotFound)
    }

    /// What has this number.
    fn find(&self, inodes: &Inodes, inode: u64) -> Option<Entry> {
        let status = || self.told.as_ref().and_then(|_| Place::of(inodes, inode)).map(Entry::Status);
        inodes.find(inode).map(Entry::Real).or_else(status)
    }

    /// Attributes of an inode; of one that is gone as long as it is open.
    pub fn attributes(&self, inode: u64) -> Result<Attributes, FsError> {
        let inodes = self.now();
        if let Some(entry) = self.find(&inodes, inode) {
            return Ok(entry.attributes(&inodes));
        }
        let open = self.open.lock();
        open.values().find(|file| file.attributes.inode == inode).map(|file| file.attributes).ok_or(FsError::Stale)
    }

    /// Opens a file. Asks nobody anything.
    pub fn open(&self, inode: u64) -> Result<Opened, FsError> {
        let inodes = self.now();
        let entry = self.find(&inodes, inode).ok_or(FsError::Stale)?;
        if entry.is_folder(&inodes) {
            return Err(FsError::IsAFolder);
        }
        let handle = match entry {
            Entry::Real(index) => {
                let content = inodes.view().file(index).ok_or(FsError::IsAFolder)?.content();
                self.walk(&inodes, index, content);
                self.seen.lock().insert(inode);
                self.contents.open(content)
            }
            Entry::Status(place) => {
                let told = self.told.as_ref().ok_or(FsError::Stale)?;
                TextHandle::open(place.text(&inodes, &**told))
            }
        };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let attributes = entry.attributes(&inodes);
        self.open.lock().insert(number, Arc::new(OpenFile { attributes, handle }));
        Ok(Opened { handle: number, passing: attributes.passing })
    }

    /// Has the small files fetched that a walk through folders will open next.
    fn walk(&self, inodes: &Inodes, at: TreeIndex, content: ContentId) {
        if !content.is_small() {
            return;
        }
        let next = self.walks.lock().opened(at.number());
        if next.is_empty() {
            return;
        }
        let contents: Vec<ContentId> = inodes.view().files_at(next).map(|file| file.content()).collect();
        self.contents.ahead(&contents);
    }

    /// The inodes of which the kernel may have bytes: all that were opened since this was last asked, and those that are
    /// open.
    pub fn take_seen(&self) -> Vec<u64> {
        let open: HashSet<u64> = self.open.lock().values().map(|file| file.attributes.inode).collect();
        let seen = std::mem::replace(&mut *self.seen.lock(), open);
        seen.into_iter().collect()
    }

    /// What to read through.
    pub fn handle(&self, number: u64) -> Result<Arc<dyn ContentHandle>, FsError> {
        self.open.lock().get(&number).map(|open| Arc::clone(&open.handle)).ok_or(FsError::BadHandle)
    }

    /// Closes a handle.
    pub fn release(&self, number: u64) {
        let open = self.open.lock().remove(&number);
        // Dropped outside of the lock: it may end a transfer.
        drop(open);
    }

    /// Opens a folder as it is now; returns a handle's number.
    pub fn open_folder(&self, inode: u64) -> Result<u64, FsError> {
        let inodes = self.now();
        let folder = self.find(&inodes, inode).ok_or(FsError::Stale)?;
        if !folder.is_folder(&inodes) {
            return Err(FsError::NotAFolder);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.folders.lock().insert(number, Arc::new(OpenFolder { inodes, folder }));
        Ok(number)
    }

    /// Gives the entries of an open folder from `offset` on to `give`, with the offset to go on after each, until it
    /// returns false. `.` and `..` come first.
    pub fn read_folder(
        &self,
        number: u64,
        offset: u64,
        give: &mut dyn FnMut(u64, FolderEntry<'_>) -> bool,
    ) -> Result<(), FsError> {
        let open = self.folders.lock().get(&number).cloned().ok_or(FsError::BadHandle)?;
        let (inodes, folder) = (&open.inodes, open.folder);
        let view = inodes.view();
        let (above, named): (Entry, Named<'_>) = match folder {
            Entry::Real(index) => {
                let named = view.named_children(index).map(|(name, index)| (name, Entry::Real(index)));
                (Entry::Real(view.parent(index)), Box::new(named))
            }
            Entry::Status(place) => {
                let named = place.children(inodes).map(|(name, place)| (name, Entry::Status(place)));
                (self.find(inodes, place.parent(inodes)).unwrap_or(folder), Box::new(named))
            }
        };
        let dots = [(&b"."[..], folder), (&b".."[..], above)];
        // Folders have at most u32 entries.
        for (at, (name, entry)) in dots.into_iter().chain(named).enumerate().skip(offset as usize) {
            if !give(at as u64 + 1, FolderEntry { name, attributes: entry.attributes(inodes) }) {
                break;
            }
        }
        Ok(())
    }

    /// Closes a folder.
    pub fn release_folder(&self, number: u64) {
        let open = self.folders.lock().remove(&number);
        drop(open);
    }

    /// Bytes and entries of the whole view.
    pub fn totals(&self) -> (u64, u64) {
        let inodes = self.now();
        (inodes.bytes(), inodes.view().len() as u64)
    }

    /// The root's attributes.
    pub fn root(&self) -> Attributes {
        let inodes = self.now();
        debug_assert_eq!(inodes.number(TREE_ROOT), ROOT_INODE);
        Entry::Real(TREE_ROOT).attributes(&inodes)
    }
}
