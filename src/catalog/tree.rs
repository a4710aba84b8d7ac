//! The view as a tree in an arena: made once by merging, then only read. A new state of the world is a new tree.
//!
//! An entry takes 16 bytes, and 4 in its folder's list. Names, contents and times are not copied: they are read from the
//! catalogs, where they lie. Only a file that had to take another name has that here.

use std::ops::Range;

use super::claims::{Claims, Common};
use super::growing::{Growing, Grown};
use super::merge::Standing;
use crate::base::clock::Timestamp;
use crate::base::ids::{ContentId, NodeId, Root};
use crate::base::names::ValidPath;

/// A folder or file of one [`ViewTree`]. Means nothing in another tree.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TreeIndex(u32);

impl TreeIndex {
    /// Its place in the tree's arena: below [`ViewTree::len`].
    pub fn number(self) -> usize {
        self.0 as usize
    }

    /// The entry at a place in the arena.
    pub fn at(number: u32) -> Self {
        Self(number)
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

/// What is told of a file of the view.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileFacts {
    /// What it is.
    pub content: ContentId,
    /// The oldest claimed modification time.
    pub mtime: Timestamp,
    /// True if any source claims it.
    pub executable: bool,
}

/// A file of the view. What is asked of it is looked up in the catalogs.
#[derive(Clone, Copy)]
pub struct ViewFile<'a> {
    tree: &'a ViewTree,
    node: &'a Node,
}

impl<'a> ViewFile<'a> {
    fn claims(self) -> Range<usize> {
        self.node.range()
    }

    /// What it is.
    pub fn content(self) -> ContentId {
        // A merged file has a claim, which was verified when it came.
        let nothing = ContentId { root: Root([0; 32]), size: 0 };
        self.tree.claims.content(self.node.first).unwrap_or(nothing)
    }

    /// What is told of it, of all nodes that claim it.
    pub fn facts(self) -> FileFacts {
        let mut facts = FileFacts { content: self.content(), mtime: Timestamp::default(), executable: false };
        let entries = self.claims().filter_map(|at| self.tree.claims.entry(at));
        for (number, entry) in entries.enumerate() {
            facts.mtime = if number == 0 { entry.mtime } else { facts.mtime.min(entry.mtime) };
            facts.executable |= entry.executable;
        }
        facts
    }

    /// Live nodes that share it, this one included; sorted. Never shown, only counted and asked.
    pub fn sources(self) -> impl Iterator<Item = NodeId> + 'a {
        self.claims().filter_map(|at| self.tree.live(at))
    }

    /// True if it is made of the same entries of the same catalogs as `other`, which may be of another tree: then nothing
    /// that is told of it is different. `common`: [`Claims::common`] of the two trees.
    pub fn is_same(self, other: ViewFile<'_>, common: &[Option<Common>]) -> bool {
        self.tree.claims.are(self.claims(), &other.tree.claims, other.claims(), common)
    }

    /// Why it is shown.
    pub fn state(self) -> FileState {
        match self.node.bits >> STATE {
            0 => FileState::Live,
            1 => FileState::Lingering,
            2 => FileState::Cached,
            _ => FileState::Offline,
        }
    }
}

/// A folder or a file.
#[derive(Clone, Copy)]
pub enum ViewKind<'a> {
    /// A folder; its entries are sorted by name.
    Folder(&'a [TreeIndex]),
    /// A file.
    File(ViewFile<'a>),
}

/// Of `Node::bits`: where the name begins in the path...
const NAME: u32 = (1 << 12) - 1;
/// ...a folder...
const FOLDER: u32 = 1 << 12;
/// ...a file with a name of its own...
const RENAMED: u32 = 1 << 13;
/// ...and a file's state, above the others.
const STATE: u32 = 16;

/// An entry, as it is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Node {
    pub parent: TreeIndex,
    /// Of a folder: its first entry in the list of children. Of a file: its first claim.
    pub first: u32,
    /// How many it has.
    pub count: u32,
    bits: u32,
}

impl Node {
    /// A folder, whose name begins at `name` in the paths of what is in it.
    pub fn folder(parent: TreeIndex, name: usize) -> Self {
        Self { parent, first: 0, count: 0, bits: FOLDER | name as u32 & NAME }
    }

    /// A file of these claims, whose name begins at `name` in their path, or is another one.
    pub fn file(parent: TreeIndex, name: usize, renamed: bool, claims: &Range<usize>, state: FileState) -> Self {
        let state = match state {
            FileState::Live => 0,
            FileState::Lingering => 1,
            FileState::Cached => 2,
            FileState::Offline => 3,
        };
        let bits = name as u32 & NAME | if renamed { RENAMED } else { 0 } | state << STATE;
        Self { parent, first: claims.start as u32, count: claims.len() as u32, bits }
    }

    /// True for a folder.
    pub fn is_folder(&self) -> bool {
        self.bits & FOLDER != 0
    }

    fn range(&self) -> Range<usize> {
        self.first as usize..self.first as usize + self.count as usize
    }
}

/// The merged namespace at one moment.
#[derive(Clone, Debug)]
pub struct ViewTree {
    claims: Claims,
    /// In the order of a walk, every folder right before what is in it; but what was renamed is where its first name would be.
    nodes: Vec<Node>,
    /// The entries of all folders.
    children: Vec<TreeIndex>,
    /// Names of files that had to take another one; sorted by their places.
    renamed: Vec<(TreeIndex, Box<[u8]>)>,
    file_count: usize,
    file_bytes: u64,
}

impl Default for ViewTree {
    fn default() -> Self {
        Self::new(Claims::default(), Growing::default().done())
    }
}

impl ViewTree {
    /// Of claims, and the tree that was grown from them.
    pub fn new(claims: Claims, grown: Grown) -> Self {
        let Grown { nodes, children, renamed, files, size } = grown;
        let mut tree = Self { claims, nodes, children, renamed, file_count: files, file_bytes: size };
        let mut disordered: Vec<TreeIndex> = tree.renamed.iter().map(|(index, _)| tree.parent(*index)).collect();
        disordered.sort_unstable();
        disordered.dedup();
        for folder in disordered {
            let mut sorted = tree.children(folder).to_vec();
            sorted.sort_by(|a, b| tree.name(*a).cmp(tree.name(*b)));
            tree.children[tree.nodes[folder.number()].range()].copy_from_slice(&sorted);
        }
        tree
    }

    /// What it is made of.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    fn node(&self, index: TreeIndex) -> &Node {
        &self.nodes[index.number()]
    }

    /// The entry at `index`, which must come from this tree.
    pub fn kind(&self, index: TreeIndex) -> ViewKind<'_> {
        let node = self.node(index);
        if node.is_folder() {
            ViewKind::Folder(self.children(index))
        } else {
            ViewKind::File(ViewFile { tree: self, node })
        }
    }

    /// True for a folder.
    pub fn is_folder(&self, index: TreeIndex) -> bool {
        self.node(index).is_folder()
    }

    /// True for a file whose name is not the one that its nodes gave it.
    pub fn is_renamed(&self, index: TreeIndex) -> bool {
        self.node(index).bits & RENAMED != 0
    }

    /// The folder that holds it; the root is its own parent.
    pub fn parent(&self, index: TreeIndex) -> TreeIndex {
        self.node(index).parent
    }

    /// The file at `index`; `None` of a folder.
    pub fn file(&self, index: TreeIndex) -> Option<ViewFile<'_>> {
        match self.kind(index) {
            ViewKind::File(file) => Some(file),
            ViewKind::Folder(_) => None,
        }
    }

    /// All entries, every folder before what is in it.
    pub fn all(&self) -> impl Iterator<Item = TreeIndex> + use<> {
        (0..self.nodes.len() as u32).map(TreeIndex)
    }

    /// The files among the entries at these places of the arena: those that come one after the other in a walk.
    pub fn files_at(&self, places: Range<usize>) -> impl Iterator<Item = ViewFile<'_>> {
        let end = places.end.min(self.nodes.len());
        let nodes = &self.nodes[places.start.min(end)..end];
        nodes.iter().filter(|node| !node.is_folder()).map(|node| ViewFile { tree: self, node })
    }

    /// The entries of a folder with their names, sorted by them; nothing for a file.
    pub fn named_children(&self, folder: TreeIndex) -> impl Iterator<Item = (&[u8], TreeIndex)> {
        self.children(folder).iter().map(|&index| (self.name(index), index))
    }

    /// The name of an entry; empty for the root.
    pub fn name(&self, index: TreeIndex) -> &[u8] {
        let node = self.node(index);
        if node.bits & RENAMED != 0 {
            let at = self.renamed.binary_search_by_key(&index, |(at, _)| *at);
            return at.map_or(&[], |at| &self.renamed[at].1);
        }
        // A folder's name is in the path of the first file below it, which comes right after it.
        let below = self.nodes[index.number()..].iter().find(|node| !node.is_folder());
        let path = below.map_or(&b""[..], |file| self.claims.path(file.first as usize));
        let name = path.get((node.bits & NAME) as usize..).unwrap_or_default();
        match node.is_folder() {
            _ if index == TREE_ROOT => &[],
            true => name.split(|byte| *byte == b'/').next().unwrap_or_default(),
            false => name,
        }
    }

    /// The entries of a folder, sorted by name; nothing for a file.
    pub fn children(&self, folder: TreeIndex) -> &[TreeIndex] {
        let node = self.node(folder);
        if node.is_folder() { self.children.get(node.range()).unwrap_or_default() } else { &[] }
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
        let mut at = index;
        while at != TREE_ROOT {
            names.push(self.name(at));
            at = self.parent(at);
        }
        names.reverse();
        ValidPath::new(&names.join(&b'/')).ok()
    }

    /// Every file below `from`, depth first in name order, with its index.
    pub fn files(&self, from: TreeIndex) -> impl Iterator<Item = (TreeIndex, ViewFile<'_>)> {
        let mut stack = vec![from];
        std::iter::from_fn(move || {
            while let Some(index) = stack.pop() {
                match self.kind(index) {
                    ViewKind::Folder(children) => stack.extend(children.iter().rev()),
                    ViewKind::File(file) => return Some((index, file)),
                }
            }
            None
        })
    }

    /// How many files there are.
    pub fn file_count(&self) -> usize {
        self.file_count
    }

    /// Bytes of all files, as they claim.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Number of entries, the root included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// True if there is nothing but the root.
    pub fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }

    fn live(&self, claim: usize) -> Option<NodeId> {
        let party = &self.claims.parties()[self.claims.party(claim)?];
        (party.standing == Standing::Live).then(|| party.copy.node())
    }

    /// Live nodes whose catalogs have `content`, wherever; sorted, none twice.
    pub fn holders(&self, content: &ContentId) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> =
            self.claims.of_content(content).iter().filter_map(|at| self.live(*at as usize)).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// True if any known catalog has `content`.
    pub fn names(&self, content: &ContentId) -> bool {
        !self.claims.of_content(content).is_empty()
    }

    /// True if it was made of the same catalogs, and shows the same with the same sources. Where it says no, there may be no
    /// difference that anybody sees.
    pub fn is_like(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.claims.parties(), other.claims.parties());
        let live = |standing: Standing| standing == Standing::Live;
        self.claims.is_of(&other.claims)
            && ours.iter().zip(theirs).all(|(a, b)| live(a.standing) == live(b.standing))
            && (&self.nodes, &self.children, &self.renamed) == (&other.nodes, &other.children, &other.renamed)
    }

    /// Bytes that it takes beside the copies and the claims.
    pub fn bytes(&self) -> usize {
        let renamed: usize = self.renamed.iter().map(|(_, name)| name.len() + 40).sum();
        self.nodes.capacity() * size_of::<Node>() + self.children.capacity() * size_of::<TreeIndex>() + renamed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::fixture;

    #[test]
    fn finds_what_was_put_in() {
        let paths = ["a/b/c", "a/b/d", "a/e", "a-", "z"];
        let files: Vec<(&str, u8, i64)> = paths.iter().zip(1..).map(|(path, tag)| (*path, tag, 5)).collect();
        let tree = fixture::tree(&files, 1);
        for (path, tag, _) in files {
            let path = ValidPath::new(path.as_bytes()).unwrap();
            let index = tree.find(Some(&path)).unwrap();
            assert_eq!(tree.path(index), Some(path));
            let file = tree.file(index).unwrap();
            let content = ContentId { root: Root([tag; 32]), size: 1 };
            let facts = FileFacts { content, mtime: Timestamp { secs: 5, nanos: 0 }, executable: false };
            assert_eq!((file.facts(), file.state(), file.sources().count()), (facts, FileState::Live, 1));
            assert_eq!((tree.holders(&content), tree.names(&content)), (file.sources().collect(), true));
        }
        assert_eq!(tree.files(TREE_ROOT).count(), 5);
        assert_eq!((tree.children(TREE_ROOT).len(), tree.len()), (3, 8));
        assert!(tree.find(Some(&ValidPath::new(b"a/x").unwrap())).is_none());
        let unknown = ContentId { root: Root([1; 32]), size: 2 };
        assert!(tree.holders(&unknown).is_empty() && !tree.names(&unknown));
    }
}
