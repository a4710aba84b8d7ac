//! What the deltas since a snapshot changed in it: which path has which entry of which delta now, and which path is gone.
//! Nothing is copied from the deltas.

use std::sync::Arc;

use super::body::Body;
use super::entry::{EntryRef, by_paths};
use super::pack::Pack;
use super::signed::{CatalogError, Located};
use crate::base::limits::MAX_CATALOG_ENTRIES;

/// Set in a change that takes a path away. Places are below it.
const GONE: u32 = 1 << 31;

/// Deltas and what they lead to, over a body.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// With the place of each delta's first byte: after the body and the deltas before it.
    deltas: Vec<(u32, Arc<[u8]>)>,
    bytes: usize,
    /// Places of entries, or of paths that are gone; sorted by path, none twice.
    changed: Vec<u32>,
    /// Entries that there are now.
    count: usize,
}

impl Changes {
    /// None.
    pub fn none(body: &Body) -> Self {
        Self { count: body.count(), ..Self::default() }
    }

    /// The deltas, in order.
    pub fn deltas(&self) -> impl ExactSizeIterator<Item = &Arc<[u8]>> {
        self.deltas.iter().map(|(_, delta)| delta)
    }

    /// Bytes of all deltas.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Entries that there are now.
    pub fn count(&self) -> usize {
        self.count
    }

    /// What lies at `place`, to the end of the body or of the delta that it is in.
    pub fn at<'a>(&'a self, body: &'a Body, place: u32) -> &'a [u8] {
        let place = place & !GONE;
        if (place as usize) < body.bytes().len() {
            return &body.bytes()[place as usize..];
        }
        let after = self.deltas.partition_point(|(start, _)| *start <= place);
        let delta = after.checked_sub(1).and_then(|at| self.deltas.get(at));
        delta.and_then(|(start, delta)| delta.get((place - start) as usize..)).unwrap_or_default()
    }

    fn path<'a>(&'a self, body: &'a Body, change: u32) -> Option<&'a [u8]> {
        let bytes = self.at(body, change);
        if change & GONE == 0 { EntryRef::path_of(bytes) } else { Pack::new(bytes).bin() }
    }

    /// Up to which place this and `other` are over the same bytes: those of one body, and the deltas that both have.
    pub fn common_places(&self, body: &Body, other: &Self, other_body: &Body) -> u32 {
        let (ours, theirs) = (body.bytes(), other_body.bytes());
        if (ours.as_ptr(), ours.len()) != (theirs.as_ptr(), theirs.len()) {
            return 0;
        }
        let both = self.deltas.iter().zip(&other.deltas).take_while(|((_, a), (_, b))| Arc::ptr_eq(a, b));
        (ours.len() + both.map(|((_, delta), _)| delta.len()).sum::<usize>()) as u32
    }

    /// Where the entry at `path` is.
    pub fn find(&self, body: &Body, path: &[u8]) -> Option<u32> {
        let found = self.changed.binary_search_by(|change| by_paths(self.path(body, *change), Some(path)));
        match found {
            Ok(at) => self.changed.get(at).copied().filter(|change| change & GONE == 0),
            Err(_) => body.find(path).map(|place| place as u32),
        }
    }

    /// Takes in a delta that has been verified: `located` says where in it what lies. All of it or nothing.
    pub fn take(&mut self, body: &Body, signed: &Arc<[u8]>, located: &Located) -> Result<(), CatalogError> {
        if self.count + located.put.len() > MAX_CATALOG_ENTRIES {
            return Err(CatalogError::TooLarge);
        }
        let start = body.bytes().len() + self.bytes;
        if start.checked_add(signed.len()).is_none_or(|end| end >= GONE as usize) {
            return Err(CatalogError::TooLarge);
        }
        self.deltas.push((start as u32, Arc::clone(signed)));
        let gone = located.removed.iter().map(|at| (start as u32 + at) | GONE);
        let mut fresh: Vec<u32> = gone.chain(located.put.iter().map(|at| start as u32 + at)).collect();
        // Of one path the last counts: the sort is stable.
        fresh.sort_by(|a, b| by_paths(self.path(body, *a), self.path(body, *b)));
        fresh.reverse();
        fresh.dedup_by(|a, b| self.path(body, *a) == self.path(body, *b));
        fresh.reverse();
        let mut count = self.count;
        for change in &fresh {
            let was = self.path(body, *change).is_some_and(|path| self.find(body, path).is_some());
            count = count - usize::from(was) + usize::from(change & GONE == 0);
        }
        let changed = self.merged(body, &fresh);
        (self.changed, self.count, self.bytes) = (changed, count, self.bytes + signed.len());
        Ok(())
    }

    fn merged(&self, body: &Body, fresh: &[u32]) -> Vec<u32> {
        let mut changed = Vec::with_capacity(self.changed.len() + fresh.len());
        let mut old = self.changed.iter().copied().peekable();
        for change in fresh {
            let path = self.path(body, *change);
            while let Some(before) = old.next_if(|old| by_paths(self.path(body, *old), path).is_lt()) {
                changed.push(before);
            }
            old.next_if(|old| self.path(body, *old) == path);
            // What the body does not have need not be taken from it.
            if change & GONE == 0 || path.is_some_and(|path| body.find(path).is_some()) {
                changed.push(*change);
            }
        }
        changed.extend(old);
        changed.shrink_to_fit();
        changed
    }

    /// Every entry that there is now with its place, in the order of paths.
    pub fn entries<'a>(&'a self, body: &'a Body) -> Entries<'a> {
        Entries { changes: self, body, next: body.start(), changed: 0 }
    }
}

/// See [`Changes::entries`].
#[derive(Clone)]
pub struct Entries<'a> {
    changes: &'a Changes,
    body: &'a Body,
    /// Where the body's next entry begins.
    next: usize,
    /// The next change.
    changed: usize,
}

impl<'a> Iterator for Entries<'a> {
    type Item = (u32, EntryRef<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let of_body = self.body.entry(self.next);
            let Some(&change) = self.changes.changed.get(self.changed) else {
                let (entry, next) = of_body?;
                let place = std::mem::replace(&mut self.next, next);
                return Some((place as u32, entry));
            };
            let path = self.changes.path(self.body, change);
            if let Some((entry, next)) = of_body {
                let order = by_paths(Some(entry.path), path);
                if order.is_le() {
                    let place = std::mem::replace(&mut self.next, next);
                    if order.is_lt() {
                        return Some((place as u32, entry));
                    }
                }
            }
            self.changed += 1;
            if change & GONE == 0 {
                let entry = EntryRef::take(&mut Pack::new(self.changes.at(self.body, change)))?;
                return Some((change, entry));
            }
        }
    }
}
