//! The view as a tree in an arena: made once by merging, then only read. A new state of the world is a new tree.

use crate::base::clock::Timestamp;
use crate::base::ids::{ContentId, NodeId};
use crate::base::names::{ValidName, ValidPath};

/// A folder or file of one [`ViewTree`]. Means nothing in another tree.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TreeIndex(u32);

impl TreeIndex {
    /// Its place in the tree's arena: below [`ViewTree::len`].
    pub fn number(self) -> usize {
        self.0 as usize
    }
}

/// The root folder of every tree.
pub const TREE_ROOT: TreeIndex = TreeIndex(0);

/// Why a file is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// At least one source is live, or this node shares it itself.
    Live,
    /// The last source went a moment ago.
    Lingering,
    /// No source, but whole in the local cache.
    Cached,
    /// No peer at all is reachable: the last view is kept.
    Offline,
}

/// A file of the view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ViewFile {
    /// What it is.
    pub content: ContentId,
    /// The oldest claimed modification time.
    pub mtime: Timestamp,
    /// True if any source claims it.
    pub executable: bool,
    /// Live nodes that share it, this one included; sorted. Never shown, only counted and asked.
    pub sources: Vec<NodeId>,
    /// Why it is shown.
    pub state: FileState,
}

/// A folder or a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ViewKind {
    /// A folder; its entries are sorted by name.
    Folder(Vec<TreeIndex>),
    /// A file.
    File(ViewFile),
}

/// One entry of the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ViewEntry {
    /// The folder that holds it; the root is its own parent.
    pub parent: TreeIndex,
    /// Its name; `None` for the root alone.
    pub name: Option<ValidName>,
    /// What it is.
    pub kind: ViewKind,
}

/// The merged namespace at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ViewTree {
    entries: Vec<ViewEntry>,
}

impl Default for ViewTree {
    fn default() -> Self {
        Self { entries: vec![ViewEntry { parent: TREE_ROOT, name: None, kind: ViewKind::Folder(Vec::new()) }] }
    }
}

impl ViewTree {
    /// Builds a tree from files. `files` must be sorted by path ([`ValidPath::names`] compared name by name) with no
    /// path twice and no path that is also another's folder; merging makes sure of that.
    pub fn from_sorted(files: impl IntoIterator<Item = (ValidPath, ViewFile)>) -> Self {
        let mut tree = Self::default();
        // The folders from the root down to where the last file went, with their names.
        let mut open: Vec<(Vec<u8>, TreeIndex)> = Vec::new();
        for (path, file) in files {
            let names: Vec<&[u8]> = path.names().collect();
            let Some((file_name, folders)) = names.split_last() else { continue };
            let common = open.iter().zip(folders).take_while(|((have, _), want)| have == *want).count();
            open.truncate(common);
            for folder in &folders[common..] {
                let parent = open.last().map_or(TREE_ROOT, |(_, index)| *index);
                let Some(index) = tree.push(parent, folder, ViewKind::Folder(Vec::new())) else { break };
                open.push((folder.to_vec(), index));
            }
            let parent = open.last().map_or(TREE_ROOT, |(_, index)| *index);
            tree.push(parent, file_name, ViewKind::File(file));
        }
        tree
    }

    fn push(&mut self, parent: TreeIndex, name: &[u8], kind: ViewKind) -> Option<TreeIndex> {
        let index = TreeIndex(u32::try_from(self.entries.len()).ok()?);
        let name = ValidName::new(name).ok()?;
        self.entries.push(ViewEntry { parent, name: Some(name), kind });
        if let ViewKind::Folder(children) = &mut self.entries[parent.0 as usize].kind {
            children.push(index);
        }
        Some(index)
    }

    /// The entry at `index`, which must come from this tree.
    pub fn entry(&self, index: TreeIndex) -> &ViewEntry {
        &self.entries[index.0 as usize]
    }

    /// All entries, every folder before what is in it.
    pub fn all(&self) -> impl Iterator<Item = (TreeIndex, &ViewEntry)> {
        (0..).map(TreeIndex).zip(&self.entries)
    }

    /// The files among the entries at these places of the arena: those that come one after the other in a walk.
    pub fn files_at(&self, places: std::ops::Range<usize>) -> impl Iterator<Item = &ViewFile> {
        let end = places.end.min(self.entries.len());
        self.entries[places.start.min(end)..end].iter().filter_map(|entry| match &entry.kind {
            ViewKind::File(file) => Some(file),
            ViewKind::Folder(_) => None,
        })
    }

    /// The entries of a folder with their names, sorted by them; nothing for a file.
    pub fn named_children(&self, folder: TreeIndex) -> impl Iterator<Item = (&[u8], TreeIndex)> {
        self.children(folder).iter().map(|&index| (self.name(index), index))
    }

    /// The name of an entry; empty for the root.
    fn name(&self, index: TreeIndex) -> &[u8] {
        self.entry(index).name.as_ref().map_or(&b""[..], ValidName::as_bytes)
    }

    /// The entries of a folder, sorted by name; nothing for a file.
    pub fn children(&self, folder: TreeIndex) -> &[TreeIndex] {
        match &self.entry(folder).kind {
            ViewKind::Folder(children) => children,
            ViewKind::File(_) => &[],
        }
    }

    /// The entry called `name` in `folder`.
    pub fn child(&self, folder: TreeIndex, name: &[u8]) -> Option<TreeIndex> {
        let children = self.children(folder);
        children.binary_search_by(|index| self.name(*index).cmp(name)).ok().map(|at| children[at])
    }

    /// The entry at `path`; `None` as a path means the root.
    pub fn find(&self, path: Option<&ValidPath>) -> Option<TreeIndex> {
        let mut at = TREE_ROOT;
        for name in path.iter().flat_map(|path| path.names()) {
            at = self.child(at, name)?;
        }
        Some(at)
    }

    /// The path of `index`; `None` for the root.
    pub fn path(&self, index: TreeIndex) -> Option<ValidPath> {
        let mut names = Vec::new();
        let mut at = self.entry(index);
        while let Some(name) = &at.name {
            names.push(name.as_bytes());
            at = self.entry(at.parent);
        }
        names.reverse();
        ValidPath::new(&names.join(&b'/')).ok()
    }

    /// Every file below `from`, depth first in name order, with its index.
    pub fn files(&self, from: TreeIndex) -> impl Iterator<Item = (TreeIndex, &ViewFile)> {
        let mut stack = vec![from];
        std::iter::from_fn(move || {
            while let Some(index) = stack.pop() {
                match &self.entry(index).kind {
                    ViewKind::Folder(children) => stack.extend(children.iter().rev()),
                    ViewKind::File(file) => return Some((index, file)),
                }
            }
            None
        })
    }

    /// Number of entries, the root included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there is nothing but the root.
    pub fn is_empty(&self) -> bool {
        self.entries.len() == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Root;

    fn file(tag: u8) -> ViewFile {
        ViewFile {
            content: ContentId { root: Root([tag; 32]), size: 1 },
            mtime: Timestamp::default(),
            executable: false,
            sources: Vec::new(),
            state: FileState::Live,
        }
    }

    #[test]
    fn finds_what_was_put_in() {
        let paths = ["a/b/c", "a/b/d", "a/e", "a-", "z"];
        let mut sorted: Vec<ValidPath> = paths.iter().map(|p| ValidPath::new(p.as_bytes()).unwrap()).collect();
        sorted.sort_by(|a, b| a.names().cmp(b.names()));
        let tree = ViewTree::from_sorted(sorted.iter().cloned().zip((0..).map(file)));
        for (tag, path) in sorted.iter().enumerate() {
            let index = tree.find(Some(path)).unwrap();
            assert_eq!(tree.path(index).as_ref(), Some(path));
            assert_eq!(tree.entry(index).kind, ViewKind::File(file(tag as u8)));
        }
        assert_eq!(tree.files(TREE_ROOT).count(), 5);
        assert_eq!(tree.children(TREE_ROOT).len(), 3);
        assert!(tree.find(Some(&ValidPath::new(b"a/x").unwrap())).is_none());
    }
}
