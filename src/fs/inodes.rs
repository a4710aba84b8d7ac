//! Inode numbers over a view. A number is made of the names from the root down and, for a file, of what it is: so it is
//! stable while path and identity are, in every view and on every node, and a new version is a new inode.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use crate::base::clock::Timestamp;
use crate::base::names::ValidName;
use crate::base::places::Places;
use crate::catalog::tree::{TREE_ROOT, TreeIndex, ViewKind, ViewTree};

/// The root's number, by FUSE's rule.
pub const ROOT_INODE: u64 = 1;

/// A view with its inode numbers. 13 bytes for an entry.
pub struct Inodes {
    view: Arc<ViewTree>,
    numbers: Vec<u64>,
    by_number: Places,
    /// Of folders, in the order of their places: the newest modification below them.
    folders: Vec<(TreeIndex, Timestamp)>,
    bytes: u64,
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
        let mut new = Self {
            numbers: Vec::with_capacity(view.len()),
            by_number: Places::with_room(view.len()),
            folders: Vec::new(),
            bytes: 0,
            view: Arc::clone(&view),
        };
        // The folders that the walk is in, as places among the folders; each gets what is newest in it when it is left.
        let mut open: Vec<usize> = Vec::new();
        for index in view.all() {
            while let Some(&last) = open.last()
                && new.folders[last].0 != view.parent(index)
            {
                open.pop();
                new.pass_up(last, open.last());
            }
            let mut hasher = blake3::Hasher::new();
            if index != TREE_ROOT {
                let parent = new.number(view.parent(index));
                hasher.update(&parent.to_le_bytes()).update(view.name(index)).update(&[0]);
            }
            match view.kind(index) {
                ViewKind::Folder(_) => {
                    open.push(new.folders.len());
                    new.folders.push((index, Timestamp::default()));
                }
                ViewKind::File(file) => {
                    let facts = file.facts();
                    hasher.update(&facts.content.root.0).update(&facts.content.size.to_le_bytes());
                    new.bytes = new.bytes.saturating_add(facts.content.size);
                    if let Some(&last) = open.last() {
                        new.folders[last].1 = new.folders[last].1.max(facts.mtime);
                    }
                }
            }
            new.put(index, &hasher);
        }
        while let Some(last) = open.pop() {
            new.pass_up(last, open.last());
        }
        new.folders.shrink_to_fit();
        new
    }

    fn pass_up(&mut self, folder: usize, above: Option<&usize>) {
        if let Some(&above) = above {
            self.folders[above].1 = self.folders[above].1.max(self.folders[folder].1);
        }
    }

    fn put(&mut self, index: TreeIndex, hasher: &blake3::Hasher) {
        let mut numbers = hasher.finalize_xof();
        let number = loop {
            if index == TREE_ROOT {
                break ROOT_INODE;
            }
            // The first 8 bytes; the next 8 in the rare case that they are taken, and so on.
            let mut number = [0; 8];
            numbers.fill(&mut number);
            let number = u64::from_le_bytes(number);
            if number > ROOT_INODE && self.find(number).is_none() {
                break number;
            }
        };
        self.numbers.push(number);
        self.by_number.put(&number, index.number() as u32);
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
        match self.folders.binary_search_by_key(&index, |(at, _)| *at) {
            Ok(at) => self.folders[at].1,
            Err(_) => self.view.file(index).map(|file| file.facts().mtime).unwrap_or_default(),
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
            + self.folders.capacity() * size_of::<(TreeIndex, Timestamp)>()
    }

    /// What the kernel may remember of `self` that is not true of `new`.
    pub fn stale(&self, new: &Self) -> Vec<Stale> {
        let common = self.view.claims().common_parties(new.view.claims());
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
mod tests {
    use super::*;
    use crate::base::limits::MAX_FILE_SIZE;
    use crate::base::names::ValidPath;
    use crate::catalog::fixture;

    fn inodes(files: &[(&str, u8, i64)]) -> Inodes {
        sized(files, 10)
    }

    fn sized(files: &[(&str, u8, i64)], size: u64) -> Inodes {
        Inodes::new(Arc::new(fixture::tree(files, size)))
    }

    fn at(inodes: &Inodes, path: &str) -> u64 {
        inodes.number(inodes.view.find(Some(&ValidPath::new(path.as_bytes()).unwrap())).unwrap())
    }

    #[test]
    fn numbers_are_stable_while_path_and_identity_are() {
        let old = inodes(&[("a/x", 1, 5), ("a/y", 2, 7), ("b", 3, 1)]);
        let new = inodes(&[("a/w", 9, 3), ("a/x", 1, 5), ("a/y", 4, 7), ("c", 3, 1)]);
        assert_eq!(at(&old, "a/x"), at(&new, "a/x"));
        assert_eq!(at(&old, "a"), at(&new, "a"));
        assert_ne!(at(&old, "a/y"), at(&new, "a/y"));
        assert_ne!(at(&old, "b"), at(&new, "c"));
        let name = |name: &[u8]| ValidName::new(name).unwrap();
        let mut stale = old.stale(&new);
        stale.sort();
        let mut expected = vec![Stale::Entry(at(&old, "a"), name(b"y")), Stale::Entry(1, name(b"b"))];
        expected.sort();
        assert_eq!(stale, expected);
        assert_eq!(old.mtime(TREE_ROOT).secs, 7);
        assert_eq!(old.lookup(1, OsStr::new("a")).map(|index| old.number(index)), Some(at(&old, "a")));
        assert_eq!(old.bytes(), 30);
        assert_eq!(sized(&[("a", 1, 1), ("b", 2, 1)], MAX_FILE_SIZE).bytes(), 2 * MAX_FILE_SIZE);
        let touched = inodes(&[("a/x", 1, 4), ("a/y", 2, 7), ("b", 3, 1)]);
        assert_eq!(old.stale(&touched), [Stale::Attributes(at(&old, "a/x"))]);
    }
}
