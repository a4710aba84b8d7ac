//! From catalogs to the view. Names depend on the known catalogs, not on who is live, so they don't flap and all nodes
//! agree; who is live only decides what is shown.

use std::collections::HashSet;
use std::ops::Range;

use super::claims::{Claims, Party};
use super::growing::Growing;
use super::tree::{FileState, ViewTree};
use crate::base::ids::ContentId;
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

/// Merges. `whole` tells what is whole in the local cache. What did not change since `old` was made is taken from it; the
/// result is the same whatever it was.
pub fn merge(old: &ViewTree, parties: Vec<Party>, whole: &dyn Fn(&ContentId) -> bool) -> ViewTree {
    let claims = Claims::merged(old.claims(), parties);
    let mut tree = Growing::default();
    let mut renamed: HashSet<ValidPath> = HashSet::new();
    let mut contents: Vec<Range<usize>> = Vec::new();
    let (mut at, mut next_path) = (0, claims.path(0));
    while at < claims.len() {
        let end = claims.end_of_path(at);
        let path = std::mem::replace(&mut next_path, claims.path(end));
        contents.clear();
        while at < end {
            let until = claims.end_of_content(at);
            contents.push(at..until);
            at = until;
        }
        if contents.len() > 1 {
            let counts =
                |range: &Range<usize>| range.clone().filter(|at| claims.standing(*at) != Standing::Lapsed).count();
            // Most nodes first, then the smaller root: they are in the order of roots already, and the sort is stable.
            contents.sort_by_cached_key(|range| std::cmp::Reverse(counts(range)));
        }
        // What is in a folder comes right after what has its name.
        let folder_beats = is_below(path, next_path);
        for (rank, range) in contents.drain(..).enumerate() {
            let Some(state) = shown(&claims, &range, whole) else { continue };
            let Some(content) = claims.content(range.start as u32) else { continue };
            if rank == 0 && !folder_beats {
                tree.add(path, None, range, content.size, state);
                continue;
            }
            let Some(new) = suffixed(path, &content, |path| is_free(&claims, path)) else { continue };
            // Two that differ in their size alone would have one name: the first has it.
            if renamed.insert(new.clone()) {
                tree.add(path, Some(new.file_name()), range, content.size, state);
            }
        }
    }
    let grown = tree.done();
    ViewTree::new(claims, grown)
}

/// True if `path` is in a folder called `folder`, or in one below it.
fn is_below(folder: &[u8], path: &[u8]) -> bool {
    path.get(folder.len()) == Some(&b'/') && path.starts_with(folder)
}

/// True if no known catalog has a file at `path` or below it.
fn is_free(claims: &Claims, path: &ValidPath) -> bool {
    let there = claims.path(claims.first_at(path.as_bytes()));
    there != path.as_bytes() && !is_below(path.as_bytes(), there)
}

fn shown(claims: &Claims, range: &Range<usize>, whole: &dyn Fn(&ContentId) -> bool) -> Option<FileState> {
    let any = |standing: Standing| range.clone().any(|at| claims.standing(at) == standing);
    if any(Standing::Live) {
        return Some(FileState::Live);
    }
    if any(Standing::Lingering) {
        return Some(FileState::Lingering);
    }
    // An empty file is whole everywhere, and nobody ever asked for it: it comes and goes with its nodes.
    if claims.content(range.start as u32).is_some_and(|content| content.size > 0 && whole(&content)) {
        return Some(FileState::Cached);
    }
    any(Standing::Offline).then_some(FileState::Offline)
}

/// `stem~3fa9c1d2e4b7.ext`, the stem cut to fit; more digits if that name is taken.
fn suffixed(path: &[u8], content: &ContentId, free: impl Fn(&ValidPath) -> bool) -> Option<ValidPath> {
    let (folder, name) = path.split_at(path.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1));
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
        match ValidPath::new(&[folder, stem, b"~", tag.as_bytes(), extension].concat()) {
            Ok(path) if free(&path) => return Some(path),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
