//! From catalogs to the view. Names depend on the known catalogs, not on who is live, so they don't flap and all nodes
//! agree; who is live only decides what is shown.

use std::cmp::Ordering;
use std::collections::HashSet;

use super::entry::Entry;
use super::tree::{FileState, ViewFile, ViewTree};
use crate::base::clock::Timestamp;
use crate::base::ids::{ContentId, NodeId};
use crate::base::limits::MAX_NAME;
use crate::base::names::ValidPath;

/// How a node stands, as this node sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Live, or this node itself.
    Live,
    /// Went away a moment ago: what it shares lingers.
    Lingering,
    /// No peer at all is live, and this one was among the last: its entries stay, marked offline.
    Offline,
    /// Not live; its claims on names still count.
    Away,
    /// Not seen for so long that its claims have lapsed.
    Lapsed,
}

/// One node's catalog, for merging.
pub struct Offer<'a> {
    /// Whose.
    pub node: NodeId,
    /// How that node stands.
    pub standing: Standing,
    /// What it offers, in the order of paths.
    pub entries: &'a mut dyn Iterator<Item = &'a Entry>,
}

struct Claim<'a> {
    entry: &'a Entry,
    node: NodeId,
    standing: Standing,
}

/// Paths in the order of their names: `/` before every other byte (names hold no NUL).
fn by_names(a: &ValidPath, b: &ValidPath) -> Ordering {
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.as_bytes().iter().map(key).cmp(b.as_bytes().iter().map(key))
}

/// Merges. `whole` tells what is whole in the local cache.
pub fn merge(offers: &mut [Offer<'_>], whole: &dyn Fn(&ContentId) -> bool) -> ViewTree {
    let mut claims: Vec<Claim<'_>> = Vec::new();
    for offer in offers {
        let (node, standing) = (offer.node, offer.standing);
        claims.extend((&mut *offer.entries).map(|entry| Claim { entry, node, standing }));
    }
    claims.sort_by(|a, b| {
        by_names(&a.entry.path, &b.entry.path)
            .then_with(|| a.entry.content.cmp(&b.entry.content))
            .then_with(|| a.node.cmp(&b.node))
    });
    let taken: HashSet<&[u8]> = claims.iter().map(|claim| claim.entry.path.as_bytes()).collect();
    let mut folders: HashSet<&[u8]> = HashSet::new();
    for claim in &claims {
        let path = claim.entry.path.as_bytes();
        for (at, _) in path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/') {
            // What is above a known folder is known.
            if !folders.insert(&path[..at]) {
                break;
            }
        }
    }
    let mut files: Vec<(ValidPath, ViewFile)> = Vec::with_capacity(claims.len());
    let mut renamed = false;
    for same_path in claims.chunk_by(|a, b| a.entry.path == b.entry.path) {
        let mut contents: Vec<&[Claim<'_>]> = same_path.chunk_by(|a, b| a.entry.content == b.entry.content).collect();
        let weight = |claims: &[Claim<'_>]| claims.iter().filter(|claim| claim.standing != Standing::Lapsed).count();
        // Most nodes first, then the smaller root: they are in the order of roots already, and the sort is stable.
        contents.sort_by_key(|claims| std::cmp::Reverse(weight(claims)));
        let path = &same_path[0].entry.path;
        let folder_beats = folders.contains(path.as_bytes());
        for (rank, claims) in contents.into_iter().enumerate() {
            let Some(file) = shown(claims, whole) else { continue };
            let path = if rank == 0 && !folder_beats {
                path.clone()
            } else {
                renamed = true;
                let free = |path: &ValidPath| !taken.contains(path.as_bytes()) && !folders.contains(path.as_bytes());
                let Some(path) = suffixed(path, &file.content, free) else { continue };
                path
            };
            files.push((path, file));
        }
    }
    if renamed {
        files.sort_by(|(a, _), (b, _)| by_names(a, b));
        files.dedup_by(|(a, _), (b, _)| a == b);
    }
    ViewTree::from_sorted(files)
}

fn shown(claims: &[Claim<'_>], whole: &dyn Fn(&ContentId) -> bool) -> Option<ViewFile> {
    let content = claims.first()?.entry.content;
    let any = |standing: Standing| claims.iter().any(|claim| claim.standing == standing);
    let state = if any(Standing::Live) {
        FileState::Live
    } else if any(Standing::Lingering) {
        FileState::Lingering
    } else if content.size > 0 && whole(&content) {
        // An empty file is whole everywhere, and nobody ever asked for it: it comes and goes with its nodes.
        FileState::Cached
    } else if any(Standing::Offline) {
        FileState::Offline
    } else {
        return None;
    };
    let live = claims.iter().filter(|claim| claim.standing == Standing::Live);
    Some(ViewFile {
        content,
        mtime: claims.iter().map(|claim| claim.entry.mtime).min().unwrap_or(Timestamp::default()),
        executable: claims.iter().any(|claim| claim.entry.executable),
        sources: live.map(|claim| claim.node).collect(),
        state,
    })
}

/// `stem~3fa9c1d2e4b7.ext`, the stem cut to fit; more digits if that name is taken.
fn suffixed(path: &ValidPath, content: &ContentId, free: impl Fn(&ValidPath) -> bool) -> Option<ValidPath> {
    let name = path.file_name();
    // A leading dot begins a hidden name, not an extension.
    let dot = name.iter().rposition(|&byte| byte == b'.').filter(|&at| at > 0 && name.len() - at <= 32);
    let (stem, extension) = name.split_at(dot.unwrap_or(name.len()));
    for digits in [12, 20, 32, 64] {
        let tag = content.root.short(digits);
        let room = MAX_NAME.checked_sub(extension.len() + 1 + tag.len())?;
        let mut stem = &stem[..stem.len().min(room)];
        // Not in the middle of a character, where the name is text.
        if let Err(error) = std::str::from_utf8(stem)
            && error.error_len().is_none()
        {
            stem = &stem[..error.valid_up_to()];
        }
        let new = [stem, b"~", tag.as_bytes(), extension].concat();
        let new = match path.parent() {
            Some(parent) => [parent.as_bytes(), b"/", &new].concat(),
            None => new,
        };
        match ValidPath::new(&new) {
            Ok(path) if free(&path) => return Some(path),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
