//! One shared file as its node publishes it: on its own, and as it lies in a catalog's bytes.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::pack::Pack;
use crate::base::clock::Timestamp;
use crate::base::ids::{ContentId, Root};
use crate::base::limits::MAX_FILE_SIZE;
use crate::base::names::{ValidPath, check_path};

/// A file in a catalog. Folders are not published: they are the parents of files.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Where it appears in the view (the share's `--at` included).
    pub path: ValidPath,
    /// What it is.
    pub content: ContentId,
    /// Last modification, as the source claims it.
    pub mtime: Timestamp,
    /// True if the source's owner may execute it.
    pub executable: bool,
}

/// An entry where it lies. What was verified when it came is not verified again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryRef<'a> {
    /// Its path: the bytes of a [`ValidPath`].
    pub path: &'a [u8],
    /// What it is.
    pub content: ContentId,
    /// Last modification, as the source claims it; its nanoseconds in range.
    pub mtime: Timestamp,
    /// True if the source's owner may execute it.
    pub executable: bool,
    /// All of it, encoded.
    pub bytes: &'a [u8],
}

impl<'a> EntryRef<'a> {
    /// Takes an entry from where it lies.
    pub fn take(from: &mut Pack<'a>) -> Option<Self> {
        let start = from.at();
        let path = take_path(from)?;
        let content = take_content(from)?;
        if from.array()? != 2 {
            return None;
        }
        let mtime = Timestamp { secs: from.int()?, nanos: from.uint()?.try_into().ok()? }.sane();
        let executable = from.bool()?;
        Some(Self { path, content, mtime, executable, bytes: from.since(start) })
    }

    /// The path of the entry that `bytes` begin with.
    pub fn path_of(bytes: &'a [u8]) -> Option<&'a [u8]> {
        take_path(&mut Pack::new(bytes))
    }

    /// The content of the entry that `bytes` begin with.
    pub fn content_of(bytes: &'a [u8]) -> Option<ContentId> {
        let mut from = Pack::new(bytes);
        take_path(&mut from)?;
        take_content(&mut from)
    }

    /// True if it may be taken in: a valid path, and a size that a file can have.
    pub fn is_valid(&self) -> bool {
        check_path(self.path).is_ok() && self.content.size <= MAX_FILE_SIZE
    }

    /// On its own.
    pub fn to_entry(&self) -> Option<Entry> {
        let path = ValidPath::new(self.path).ok()?;
        Some(Entry { path, content: self.content, mtime: self.mtime, executable: self.executable })
    }

    /// True if it says what `entry` says.
    pub fn is(&self, entry: &Entry) -> bool {
        self.path == entry.path.as_bytes()
            && self.content == entry.content
            && self.mtime == entry.mtime.sane()
            && self.executable == entry.executable
    }
}

fn take_path<'a>(from: &mut Pack<'a>) -> Option<&'a [u8]> {
    if from.array()? == 4 { from.bin() } else { None }
}

fn take_content(from: &mut Pack<'_>) -> Option<ContentId> {
    if from.array()? != 2 {
        return None;
    }
    let root = Root(from.bin()?.try_into().ok()?);
    Some(ContentId { root, size: from.uint()? })
}

/// Paths where they lie, in their order; what can't be read is first.
pub fn by_paths(a: Option<&[u8]>, b: Option<&[u8]>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => crate::base::names::by_names(a, b),
        _ => a.is_some().cmp(&b.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_entry_is_read_where_it_lies(
            path in "[a-z]{1,20}(/[a-zß]{1,100}){0,5}", root: [u8; 32], size: u64, secs: i64, nanos: u32, executable: bool,
            after: Vec<u8>,
        ) {
            let entry = Entry {
                path: ValidPath::new(path.as_bytes()).unwrap(),
                content: ContentId { root: Root(root), size },
                mtime: Timestamp { secs, nanos },
                executable,
            };
            let mut bytes = rmp_serde::to_vec(&entry).unwrap();
            let len = bytes.len();
            bytes.extend(after);
            let mut pack = Pack::new(&bytes);
            let there = EntryRef::take(&mut pack).unwrap();
            prop_assert!(there.is(&entry));
            prop_assert_eq!((pack.at(), there.bytes), (len, &bytes[..len]));
            prop_assert_eq!(there.to_entry(), Some(Entry { mtime: entry.mtime.sane(), ..entry.clone() }));
            prop_assert_eq!(there.is_valid(), size <= MAX_FILE_SIZE);
            prop_assert_eq!(EntryRef::path_of(&bytes), Some(path.as_bytes()));
            prop_assert_eq!(EntryRef::content_of(&bytes), Some(entry.content));
            for cut in 0..len {
                prop_assert_eq!(EntryRef::take(&mut Pack::new(&bytes[..cut])), None);
            }
        }
    }
}
