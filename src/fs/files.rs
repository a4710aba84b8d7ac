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
use crate::base::chunks::CHUNK;
use crate::base::clock::Timestamp;
use crate::base::ids::ContentId;
use crate::base::limits::MAX_NAME;
use crate::catalog::tree::{TREE_ROOT, TreeIndex, ViewKind, ViewTree};
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
    folder: Folder,
}

#[derive(Clone, Copy)]
enum Folder {
    Real(TreeIndex),
    Status(Place),
}

/// As [`Files::read_folder`], of a folder in `/.flashget/`.
fn read_status(inodes: &Inodes, folder: Place, offset: u64, give: &mut dyn FnMut(u64, FolderEntry<'_>) -> bool) {
    let above = match inodes.find(folder.parent(inodes)) {
        Some(index) => attributes(inodes, index),
        None => status_attributes(inodes, Place::of(inodes, folder.parent(inodes)).unwrap_or(folder)),
    };
    let dots = [(&b"."[..], status_attributes(inodes, folder)), (&b".."[..], above)];
    let children = folder.children(inodes).into_iter();
    let named = children.map(|(name, place)| (name, status_attributes(inodes, place)));
    for (at, (name, attributes)) in dots.into_iter().chain(named).enumerate().skip(offset as usize) {
        if !give(at as u64 + 1, FolderEntry { name, attributes }) {
            break;
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

fn attributes(inodes: &Inodes, index: TreeIndex) -> Attributes {
    let inode = inodes.number(index);
    let mtime = inodes.mtime(index);
    match &inodes.view().entry(index).kind {
        ViewKind::Folder(_) => Attributes { inode, size: 0, mtime, folder: true, mode: 0o555, passing: false },
        ViewKind::File(file) => {
            let mode = if file.executable { 0o555 } else { 0o444 };
            Attributes { inode, size: file.content.size, mtime, folder: false, mode, passing: false }
        }
    }
}

fn status_attributes(inodes: &Inodes, place: Place) -> Attributes {
    let folder = place.is_folder(inodes);
    let mode = if folder { 0o555 } else { 0o444 };
    Attributes { inode: place.inode(inodes), size: 0, mtime: place.mtime(inodes), folder, mode, passing: true }
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
        let new = Arc::new(Inodes::new(view));
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
        if let Some(index) = inodes.lookup(parent, name) {
            return Ok(attributes(&inodes, index));
        }
        let place = self.told.as_ref().and_then(|_| Place::lookup(&inodes, parent, name));
        place.map(|place| status_attributes(&inodes, place)).ok_or(FsError::NotFound)
    }

    fn status_place(&self, inodes: &Inodes, inode: u64) -> Option<Place> {
        self.told.as_ref().and_then(|_| Place::of(inodes, inode))
    }

    /// Attributes of an inode; of one that is gone as long as it is open.
    pub fn attributes(&self, inode: u64) -> Result<Attributes, FsError> {
        let inodes = self.now();
        if let Some(index) = inodes.find(inode) {
            return Ok(attributes(&inodes, index));
        }
        if let Some(place) = self.status_place(&inodes, inode) {
            return Ok(status_attributes(&inodes, place));
        }
        let open = self.open.lock();
        open.values().find(|file| file.attributes.inode == inode).map(|file| file.attributes).ok_or(FsError::Stale)
    }

    /// Opens a file. Asks nobody anything.
    pub fn open(&self, inode: u64) -> Result<Opened, FsError> {
        let inodes = self.now();
        if let (None, Some(place), Some(told)) =
            (inodes.find(inode), self.status_place(&inodes, inode), self.told.as_ref())
        {
            if place.is_folder(&inodes) {
                return Err(FsError::IsAFolder);
            }
            let handle = TextHandle::open(place.text(&inodes, &**told));
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let open = OpenFile { attributes: status_attributes(&inodes, place), handle };
            self.open.lock().insert(number, Arc::new(open));
            return Ok(Opened { handle: number, passing: true });
        }
        let index = inodes.find(inode).ok_or(FsError::Stale)?;
        let ViewKind::File(file) = &inodes.view().entry(index).kind else { return Err(FsError::IsAFolder) };
        let handle = self.contents.open(file.content);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let open = OpenFile { attributes: attributes(&inodes, index), handle };
        self.walk(&inodes, index, file.content);
        self.open.lock().insert(number, Arc::new(open));
        self.seen.lock().insert(inode);
        Ok(Opened { handle: number, passing: false })
    }

    /// Has the small files fetched that a walk through folders will open next.
    fn walk(&self, inodes: &Inodes, at: TreeIndex, content: ContentId) {
        if content.size > CHUNK {
            return;
        }
        let next = self.walks.lock().opened(at.number());
        if next.is_empty() {
            return;
        }
        let small = |kind: &ViewKind| match kind {
            ViewKind::File(file) if file.content.size <= CHUNK => Some(file.content),
            _ => None,
        };
        let entries = inodes.view().all().skip(next.start).take(next.len());
        let contents: Vec<ContentId> = entries.filter_map(|(_, entry)| small(&entry.kind)).collect();
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
        let folder = match (inodes.find(inode), self.status_place(&inodes, inode)) {
            (Some(index), _) if matches!(inodes.view().entry(index).kind, ViewKind::Folder(_)) => Folder::Real(index),
            (None, Some(place)) if place.is_folder(&inodes) => Folder::Status(place),
            (None, None) => return Err(FsError::Stale),
            _ => return Err(FsError::NotAFolder),
        };
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
        let inodes = &open.inodes;
        let folder = match open.folder {
            Folder::Real(folder) => folder,
            Folder::Status(place) => {
                read_status(inodes, place, offset, give);
                return Ok(());
            }
        };
        let view = inodes.view();
        let dots = [(&b"."[..], folder), (&b".."[..], view.entry(folder).parent)];
        let named = view.children(folder).iter().map(|&index| {
            let name = view.entry(index).name.as_ref().map_or(&b""[..], |name| name.as_bytes());
            (name, index)
        });
        // Folders have at most u32 entries.
        for (at, (name, index)) in dots.into_iter().chain(named).enumerate().skip(offset as usize) {
            if !give(at as u64 + 1, FolderEntry { name, attributes: attributes(inodes, index) }) {
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
        attributes(&inodes, TREE_ROOT)
    }
}
