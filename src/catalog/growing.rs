//! A view's tree while it is made: files come in the order of their paths, and folders follow from them.

use std::ops::Range;

use super::tree::{FileState, Node, TREE_ROOT, TreeIndex};
use crate::base::limits::MAX_PATH_DEPTH;
use crate::base::names::common_bytes;

/// A tree that is being made, of files in the order of paths.
pub struct Growing<'a> {
    nodes: Vec<Node>,
    renamed: Vec<(TreeIndex, Box<[u8]>)>,
    files: usize,
    /// Of all files.
    size: u64,
    /// The path of the last file.
    last: &'a [u8],
    /// The folders from the root down to where it went, with the ends of their paths.
    open: Vec<(TreeIndex, usize)>,
}

/// All of a tree but the claims.
pub struct Grown {
    pub(super) nodes: Vec<Node>,
    pub(super) children: Vec<TreeIndex>,
    pub(super) renamed: Vec<(TreeIndex, Box<[u8]>)>,
    pub(super) files: usize,
    pub(super) size: u64,
}

/// More entries than this are not shown: a path can't add as many as are left then.
const MAX_NODES: usize = u32::MAX as usize - 2 * MAX_PATH_DEPTH;

impl Default for Growing<'_> {
    /// Nothing but the root.
    fn default() -> Self {
        Self {
            nodes: vec![Node::folder(TREE_ROOT, 0)],
            renamed: Vec::new(),
            files: 0,
            size: 0,
            last: b"",
            open: Vec::new(),
        }
    }
}

impl<'a> Growing<'a> {
    /// Adds a file: its claims, how large it is, and its name if that is not the one in `path`. Paths come in their order, and none is
    /// another's folder.
    pub fn add(&mut self, path: &'a [u8], name: Option<&[u8]>, claims: Range<usize>, size: u64, state: FileState) {
        if self.nodes.len() > MAX_NODES {
            return;
        }
        self.files += 1;
        self.size = self.size.saturating_add(size);
        let common = common_bytes(self.last, path);
        let still = self.open.iter().take_while(|(_, end)| *end <= common && path.get(*end) == Some(&b'/')).count();
        self.open.truncate(still);
        let mut start = self.open.last().map_or(0, |(_, end)| end + 1);
        while let Some(len) = path[start..].iter().position(|byte| *byte == b'/') {
            let folder = self.push(Node::folder(self.parent(), start));
            self.open.push((folder, start + len));
            start += len + 1;
        }
        let file = Node::file(self.parent(), start, name.is_some(), &claims, state);
        let index = self.push(file);
        self.renamed.extend(name.map(|name| (index, name.into())));
        self.last = path;
    }

    fn parent(&self) -> TreeIndex {
        self.open.last().map_or(TREE_ROOT, |(folder, _)| *folder)
    }

    fn push(&mut self, node: Node) -> TreeIndex {
        self.nodes[node.parent.number()].count += 1;
        self.nodes.push(node);
        TreeIndex::at(self.nodes.len() as u32 - 1)
    }

    /// All files are there.
    pub fn done(self) -> Grown {
        let Self { mut nodes, mut renamed, files, size, .. } = self;
        nodes.shrink_to_fit();
        renamed.shrink_to_fit();
        let mut children = vec![TREE_ROOT; nodes.len() - 1];
        // Each folder's part of the list, and then what belongs into it: in the order of the walk, which is that of names.
        let mut next = 0;
        for node in nodes.iter_mut().filter(|node| node.is_folder()) {
            node.first = next;
            next += node.count;
            node.count = 0;
        }
        for index in 1..nodes.len() {
            let parent = nodes[index].parent.number();
            let parent = &mut nodes[parent];
            children[(parent.first + parent.count) as usize] = TreeIndex::at(index as u32);
            parent.count += 1;
        }
        Grown { nodes, children, renamed, files, size }
    }
}
