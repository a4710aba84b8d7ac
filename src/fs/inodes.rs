//! Inode numbers over a view. A number is made of the names from the root down and, for a file, of what it is: so it is
//! stable while path and identity are, in every view and on every node, and a new version is a new inode.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use crate::base::clock::Timestamp;
use crate::base::names::ValidName;
use crate::base::places::Places;
use crate::catalog::claims::Common;
use crate::catalog::tree::{TREE_ROOT, TreeIndex, ViewFile, ViewTree};

/// The root's number, by FUSE's rule.
pub const ROOT_INODE: u64 = 1;

/// A view with its inode numbers. A good 14 bytes for an entry, and 48 for a folder.
pub struct Inodes {
    view: Arc<ViewTree>,
    numbers: Vec<u64>,
    by_number: Places,
    /// In the order of their places.
    folders: Vec<Folder>,
    bytes: u64,
}

/// What is kept of a folder.
struct Folder {
    index: TreeIndex,
    /// The newest modification below it, and of the files that are right in it.
    newest: Timestamp,
    newest_here: Timestamp,
    /// Bytes of the files that are right in it.
    bytes: u64,
}

/// A folder that the numbering walk is in.
struct Open {
    /// Its place among the folders.
    at: usize,
    /// The folder that it was in the view before, and how many of its entries have been passed there.
    before: Option<(TreeIndex, usize)>,
    /// All that has been passed is as it was.
    same: bool,
}

/// What the kernel must forget when one view takes the place of another.
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Stale {
    /// The name in this folder means something else now, or nothing.
    Entry(u64, ValidName),
    /// The attributes of this inode changed.
    Attributes(u64),
}

impl Inodes {
    /// Numbers a view.
    pub fn new(view: Arc<ViewTree>) -> Self {
        Self::made(view, None)
    }

    /// Numbers the view that takes the place of this one: the same numbers, and nothing is looked at where nothing changed.
    pub fn next(&self, view: Arc<ViewTree>) -> Self {
        Self::made(view, Some(self))
    }

    fn made(view: Arc<ViewTree>, old: Option<&Self>) -> Self {
        let common = old.map(|old| old.view.claims().common(view.claims())).unwrap_or_default();
        let mut new = Self {
            numbers: Vec::with_capacity(view.len()),
            by_number: Places::with_room(view.len()),
            folders: Vec::new(),
            bytes: 0,
            view,
        };
        let view = Arc::clone(&new.view);
        let mut open: Vec<Open> = Vec::new();
        for index in view.all() {
            while let Some(last) = open.pop_if(|last| new.folders[last.at].index != view.parent(index)) {
                new.leave(&last, open.last().map(|above| above.at), old);
            }
            let before = match (old, open.last_mut()) {
                (Some(old), Some(open)) => old.counterpart(open, &view, index, &common),
                (Some(_), None) => Some(TREE_ROOT),
                (None, _) => None,
            };
            let number = old.zip(before).map(|(old, before)| old.number(before));
            new.put(index, number);
            if view.is_folder(index) {
                let (newest, newest_here) = <(Timestamp, Timestamp)>::default();
                let before = before.map(|before| (before, 0));
                open.push(Open { at: new.folders.len(), same: before.is_some(), before });
                new.folders.push(Folder { index, newest, newest_here, bytes: 0 });
            }
        }
        while let Some(last) = open.pop() {
            new.leave(&last, open.last().map(|above| above.at), old);
        }
        new.folders.shrink_to_fit();
        new
    }

    /// What the entry at `index` of a new view was here: something of the same name that has the same number.
    fn counterpart(
        &self,
        open: &mut Open,
        view: &ViewTree,
        index: TreeIndex,
        common: &[Option<Common>],
    ) -> Option<TreeIndex> {
        let (folder, passed) = open.before.as_mut()?;
        let children = self.view.children(*folder);
        let file = view.file(index);
        while let Some(&child) = children.get(*passed) {
            let was = self.view.file(child);
            if let (Some(file), Some(was)) = (file, was)
                && was.is_same(file, common)
                && !(view.is_renamed(index) || self.view.is_renamed(child))
            {
                *passed += 1;
                return Some(child);
            }
            match self.view.name(child).cmp(view.name(index)) {
                Ordering::Less => {
                    *passed += 1;
                    open.same = false;
                }
                Ordering::Equal => {
                    *passed += 1;
                    open.same &= file.is_none() && was.is_none();
                    let content = |file: Option<ViewFile<'_>>| file.map(|file| file.content());
                    return (content(file) == content(was)).then_some(child);
                }
                Ordering::Greater => break,
            }
        }
        open.same = false;
        None
    }

    /// All of a folder has its numbers.
    fn leave(&mut self, open: &Open, above: Option<usize>, old: Option<&Self>) {
        let unchanged = open
            .before
            .zip(old)
            .filter(|((before, passed), old)| open.same && *passed == old.view.children(*before).len());
        let (newest, bytes) = match unchanged.and_then(|((before, _), old)| old.folder(before)) {
            Some(folder) => (folder.newest_here, folder.bytes),
            None => {
                let children = self.view.children(self.folders[open.at].index);
                let files = children.iter().filter_map(|child| self.view.file(*child)).map(|file| file.facts());
                files.fold((Timestamp::default(), 0u64), |(newest, bytes), facts| {
                    (newest.max(facts.mtime), bytes.saturating_add(facts.content.size))
                })
            }
        };
        let folder = &mut self.folders[open.at];
        (folder.newest_here, folder.bytes) = (newest, bytes);
        folder.newest = folder.newest.max(newest);
        self.bytes = self.bytes.saturating_add(bytes);
        let newest = folder.newest;
        if let Some(above) = above.and_then(|above| self.folders.get_mut(above)) {
            above.newest = above.newest.max(newest);
        }
    }

    fn folder(&self, index: TreeIndex) -> Option<&Folder> {
        self.folders.binary_search_by_key(&index, |folder| folder.index).ok().map(|at| &self.folders[at])
    }

    /// Gives an entry its number: the one that it had, unless another one has it already.
    fn put(&mut self, index: TreeIndex, number: Option<u64>) {
        let number = match number {
            _ if index == TREE_ROOT => ROOT_INODE,
            Some(number) if self.find(number).is_none() => number,
            _ => self.hashed(index),
        };
        self.numbers.push(number);
        self.by_number.put(&number, index.number() as u32);
    }

    fn hashed(&self, index: TreeIndex) -> u64 {
        let mut hasher = blake3::Hasher::new();
        let parent = self.number(self.view.parent(index));
        hasher.update(&parent.to_le_bytes()).update(self.view.name(index)).update(&[0]);
        if let Some(content) = self.view.file(index).map(|file| file.content()) {
            hasher.update(&content.root.0).update(&content.size.to_le_bytes());
        }
        let mut numbers = hasher.finalize_xof();
        loop {
            // The first 8 bytes; the next 8 in the rare case that they are taken, and so on.
            let mut number = [0; 8];
            numbers.fill(&mut number);
            let number = u64::from_le_bytes(number);
            if number > ROOT_INODE && self.find(number).is_none() {
                return number;
            }
        }
    }

    /// The view.
    pub fn view(&self) -> &Arc<ViewTree> {
        &self.view
    }

    /// The entry with this number.
    pub fn find(&self, number: u64) -> Option<TreeIndex> {
        self.by_number.find(&number, |at| self.numbers[at as usize] == number).map(TreeIndex::at)
    }

    /// The number of an entry.
    pub fn number(&self, index: TreeIndex) -> u64 {
        self.numbers[index.number()]
    }

    /// Last modification; of a folder, the newest below it.
    pub fn mtime(&self, index: TreeIndex) -> Timestamp {
        match self.view.file(index) {
            Some(file) => file.facts().mtime,
            None => self.folder(index).map(|folder| folder.newest).unwrap_or_default(),
        }
    }

    /// `name` in the folder `parent`.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Option<TreeIndex> {
        self.view.child(self.find(parent)?, name.as_bytes())
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of RAM that the numbers take, beside the view.
    pub fn ram(&self) -> usize {
        self.numbers.capacity() * size_of::<u64>()
            + self.by_number.bytes()
            + self.folders.capacity() * size_of::<Folder>()
    }

    /// What the kernel may remember of `self` that is not true of `new`.
    pub fn stale(&self, new: &Self) -> Vec<Stale> {
        let common = self.view.claims().common(new.view.claims());
        let mut stale = Vec::new();
        let mut folders = vec![(TREE_ROOT, TREE_ROOT)];
        while let Some((old, other)) = folders.pop() {
            if self.mtime(old) != new.mtime(other) {
                stale.push(Stale::Attributes(self.number(old)));
            }
            for (old, other) in self.compare(old, new, other, &mut stale) {
                let (Some(before), Some(now)) = (self.view.file(old), new.view.file(other)) else {
                    folders.push((old, other));
                    continue;
                };
                if !before.is_same(now, &common) && before.facts() != now.facts() {
                    stale.push(Stale::Attributes(self.number(old)));
                }
            }
        }
        stale
    }

    /// The entries of a folder that are still the same ones; the names of the others are stale.
    fn compare(
        &self,
        old: TreeIndex,
        new_tree: &Self,
        new: TreeIndex,
        stale: &mut Vec<Stale>,
    ) -> Vec<(TreeIndex, TreeIndex)> {
        let mut same = Vec::new();
        let (view, new_view) = (&self.view, &new_tree.view);
        let mut others = new_view.children(new).iter().copied().peekable();
        for &child in view.children(old) {
            // Numbers say it mostly, and names, which have to be looked up, only where something is new.
            let found = loop {
                let Some(&other) = others.peek() else { break None };
                if self.number(child) == new_tree.number(other) {
                    break others.next();
                }
                match view.name(child).cmp(new_view.name(other)) {
                    Ordering::Less => break None,
                    Ordering::Equal => {
                        others.next();
                        break None;
                    }
                    Ordering::Greater => others.next(),
                };
            };
            match found {
                Some(other) => same.push((child, other)),
                None => {
                    stale.extend(ValidName::new(view.name(child)).map(|name| Stale::Entry(self.number(old), name)));
                }
            }
        }
        same
    }
}

#[cfg(test)]
#[path = "inodes_tests.rs"]
mod tests;
