//! One shared file as its node publishes it.

use serde::{Deserialize, Serialize};

use crate::base::clock::Timestamp;
use crate::base::ids::ContentId;
use crate::base::limits::MAX_FILE_SIZE;
use crate::base::names::ValidPath;

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

impl Entry {
    /// As it may be taken in from others: `None` if it claims what no file is.
    pub fn checked(mut self) -> Option<Self> {
        self.mtime = self.mtime.sane();
        (self.content.size <= MAX_FILE_SIZE).then_some(self)
    }
}
