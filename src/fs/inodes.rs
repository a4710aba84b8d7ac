//! Inode numbers over a view. A number is made of the names from the root down and, for a file, of what it is: so it is
//! stable while path and identity are, in every view and on every node, and a new version is a new inode.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use crate::base::clock::Timestamp;
use crate::base::names::ValidName;
use crate::catalog::tree::{TREE_ROOT, TreeIndex, ViewKind, ViewTree};

/// The root's number, by FUSE's rule.
pub const ROOT_INODE: u64 = 1;

/// A view with its inode numbers.
pub struct Inodes {
    view: Arc<ViewTree>,
    numbers: Vec<u64>,
    /// Of folders: the newest modification below them.
    mtimes: Vec<Timestamp>,
    by_number: HashMap<u64, TreeIndex>,
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
        let mut numbers = Vec::with_capacity(view.len());
        let mut mtimes = vec![Timestamp::default(); view.len()];
        let mut by_number = HashMap::with_capacity(view.len());
        let mut bytes = 0u64;
        for (index, entry) in view.all() {
            let number = match &entry.name {
                None => ROOT_INODE,
                Some(name) => {
                    let mut hasher = blake3::Hasher::new();
                    let parent: u64 = numbers[entry.parent.number()];
                    hasher.update(&parent.to_le_bytes()).update(name.as_bytes()).update(&[0]);
                    if let ViewKind::File(file) = &entry.kind {
                        hasher.update(&file.content.root.0).update(&file.content.size.to_le_bytes());
                        bytes = bytes.saturating_add(file.content.size);
                        mtimes[index.number()] = file.mtime;
                    }
                    let mut numbers = hasher.finalize_xof();
                    loop {
                        // The first 8 bytes; the next 8 in the rare case that they are taken, and so on.
                        let mut number = [0; 8];
                        numbers.fill(&mut number);
                        let number = u64::from_le_bytes(number);
                        if number > ROOT_INODE && !by_number.contains_key(&number) {
                            break number;
                        }
                    }
                }
            };
            numbers.push(number);
            by_number.insert(number, index);
        }
        // What is in a folder comes after it: backwards, each has its newest when its folder is reached.
        let parents: Vec<usize> = view.all().map(|(_, entry)| entry.parent.number()).collect();
        for at in (1..parents.len()).rev() {
            mtimes[parents[at]] = mtimes[parents[at]].max(mtimes[at]);
        }
        Self { view, numbers, mtimes, by_number, bytes }
    }

    /// The view.
    pub fn view(&self) -> &Arc<ViewTree> {
        &self.view
    }

    /// The entry with this number.
    pub fn find(&self, number: u64) -> Option<TreeIndex> {
        self.by_number.get(&number).copied()
    }

    /// The number of an entry.
    pub fn number(&self, index: TreeIndex) -> u64 {
        self.numbers[index.number()]
    }

    /// Last modification; of a folder, the newest below it.
    pub fn mtime(&self, index: TreeIndex) -> Timestamp {
        self.mtimes[index.number()]
    }

    /// `name` in the folder `parent`.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Option<TreeIndex> {
        self.view.child(self.find(parent)?, name.as_bytes())
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What the kernel may remember of `self` that is not true of `new`.
    pub fn stale(&self, new: &Self) -> Vec<Stale> {
        let mut stale = Vec::new();
        self.compare(TREE_ROOT, new, TREE_ROOT, &mut stale);
        stale
    }

    fn compare(&self, old: TreeIndex, new_tree: &Self, new: TreeIndex, stale: &mut Vec<Stale>) {
        let number = self.number(old);
        if self.mtime(old) != new_tree.mtime(new) {
            stale.push(Stale::Attributes(number));
        }
        for &child in self.view.children(old) {
            let entry = self.view.entry(child);
            let Some(name) = &entry.name else { continue };
            let Some(other) = new_tree.view.child(new, name.as_bytes()) else {
                stale.push(Stale::Entry(number, name.clone()));
                continue;
            };
            if self.number(child) != new_tree.number(other) {
                stale.push(Stale::Entry(number, name.clone()));
                continue;
            }
            match (&entry.kind, &new_tree.view.entry(other).kind) {
                (ViewKind::Folder(_), ViewKind::Folder(_)) => self.compare(child, new_tree, other, stale),
                (ViewKind::File(a), ViewKind::File(b)) if (a.mtime, a.executable) == (b.mtime, b.executable) => {}
                (ViewKind::File(_), ViewKind::File(_)) => stale.push(Stale::Attributes(self.number(child))),
                // A folder and a file of one name have different numbers.
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{ContentId, Root};
    use crate::base::names::ValidPath;
    use crate::catalog::tree::{FileState, ViewFile};

    fn inodes(files: &[(&str, u8, i64)]) -> Inodes {
        sized(files, 10)
    }

    fn sized(files: &[(&str, u8, i64)], size: u64) -> Inodes {
        let file = |tag, secs| ViewFile {
            content: ContentId { root: Root([tag; 32]), size },
            mtime: Timestamp { secs, nanos: 0 },
            executable: false,
            sources: Vec::new(),
            state: FileState::Live,
        };
        let files = files.iter().map(|(path, tag, secs)| (ValidPath::new(path.as_bytes()).unwrap(), file(*tag, *secs)));
        Inodes::new(Arc::new(ViewTree::from_sorted(files)))
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
        assert_eq!(sized(&[("a", 1, 1), ("b", 2, 1)], u64::MAX - 5).bytes(), u64::MAX);
        let touched = inodes(&[("a/x", 1, 4), ("a/y", 2, 7), ("b", 3, 1)]);
        assert_eq!(old.stale(&touched), [Stale::Attributes(at(&old, "a/x"))]);
    }
}
