//! The body of a signed snapshot as it came: entries one after the other, in the order of their paths, read where they lie.

use std::sync::Arc;

use bytes::Bytes;

use super::entry::{Entry, EntryRef};
use super::pack::Pack;
use super::signed::{CatalogError, MAX_BODY};
use crate::base::limits::MAX_CATALOG_ENTRIES;
use crate::base::names::by_names;

/// The place of each so many'th entry is kept, so that one can be searched for: a quarter of a byte for each, and a few more
/// that are looked at one by one.
const STEP: usize = 16;
/// Bytes before the first entry: how many there are.
const COUNT: usize = 8;

/// A verified body.
#[derive(Clone, Debug)]
pub struct Body {
    bytes: Bytes,
    count: usize,
    /// Where every [`STEP`]th entry begins.
    marks: Arc<[u32]>,
}

impl Body {
    /// Verifies: entries that are valid, sorted by path, none twice, and nothing after them.
    pub fn new(bytes: Bytes) -> Result<Self, CatalogError> {
        if bytes.len() > MAX_BODY {
            return Err(CatalogError::TooLarge);
        }
        let (count, _) = bytes.split_first_chunk::<COUNT>().ok_or(CatalogError::Malformed)?;
        let count = u64::from_le_bytes(*count);
        if count > MAX_CATALOG_ENTRIES as u64 {
            return Err(CatalogError::TooLarge);
        }
        let count = count as usize;
        // An entry has at least 40 bytes, so a false count can't make us allocate more than the body's own size.
        let mut marks = Vec::with_capacity((count / STEP + 1).min(bytes.len() / STEP));
        let mut pack = Pack::new(&bytes[COUNT..]);
        let mut last: Option<&[u8]> = None;
        for number in 0..count {
            if number % STEP == 0 {
                marks.push((COUNT + pack.at()) as u32);
            }
            let entry = EntryRef::take(&mut pack).filter(EntryRef::is_valid).ok_or(CatalogError::Malformed)?;
            if last.is_some_and(|last| by_names(last, entry.path).is_ge()) {
                return Err(CatalogError::Malformed);
            }
            last = Some(entry.path);
        }
        if COUNT + pack.at() != bytes.len() {
            return Err(CatalogError::Malformed);
        }
        let marks = marks.into();
        Ok(Self { bytes, count, marks })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many entries it has.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The first entry's place.
    pub fn start(&self) -> usize {
        COUNT
    }

    /// The entry at `place`, and where the next one begins; `None` at the end.
    pub fn entry(&self, place: usize) -> Option<(EntryRef<'_>, usize)> {
        let mut pack = Pack::new(self.bytes.get(place..)?);
        let entry = EntryRef::take(&mut pack)?;
        Some((entry, place + pack.at()))
    }

    /// The place of the entry at `path`.
    pub fn find(&self, path: &[u8]) -> Option<usize> {
        let at = |mark: u32| self.bytes.get(mark as usize..).and_then(EntryRef::path_of);
        let after = self.marks.partition_point(|&mark| at(mark).is_some_and(|there| by_names(there, path).is_le()));
        let mut place = *self.marks.get(after.checked_sub(1)?)? as usize;
        for _ in 0..STEP {
            let (entry, next) = self.entry(place)?;
            if entry.path == path {
                return Some(place);
            }
            place = next;
        }
        None
    }
}

/// Encodes a catalog's entries, sorted by path.
pub fn write_body<'a>(entries: impl ExactSizeIterator<Item = &'a Entry>) -> Result<Vec<u8>, CatalogError> {
    let mut body = Vec::new();
    body.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    for entry in entries {
        rmp_serde::encode::write(&mut body, entry).map_err(|_| CatalogError::Malformed)?;
    }
    if body.len() > MAX_BODY { Err(CatalogError::TooLarge) } else { Ok(body) }
}

/// The same of entries that are encoded already.
pub fn join_body<'a>(count: usize, entries: impl Iterator<Item = EntryRef<'a>> + Clone) -> Result<Bytes, CatalogError> {
    let len = COUNT + entries.clone().map(|entry| entry.bytes.len()).sum::<usize>();
    if len > MAX_BODY {
        return Err(CatalogError::TooLarge);
    }
    let mut body = Vec::with_capacity(len);
    body.extend_from_slice(&(count as u64).to_le_bytes());
    entries.for_each(|entry| body.extend_from_slice(entry.bytes));
    Ok(body.into())
}
