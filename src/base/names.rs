//! Names and paths as bytes that passed the catalog's door. A [`ValidName`] or [`ValidPath`] can only be had by
//! validation, so nothing behind the door needs to think of `..`, NUL or slashes again.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::escape;
use super::limits::{MAX_NAME, MAX_PATH, MAX_PATH_DEPTH};

/// Why a name or path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Empty, `.` or `..`.
    #[error("a name may not be empty, '.' or '..'")]
    Reserved,
    /// Contains `/` or NUL.
    #[error("a name may not contain '/' or NUL")]
    Character,
    /// Longer than Linux allows.
    #[error("a name may have at most 255 bytes, a path 4096 bytes and 256 levels")]
    TooLong,
}

/// One path component: 1 to 255 bytes, no `/`, no NUL, not `.` or `..`. Not necessarily UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ValidName(#[serde(with = "serde_bytes")] Box<[u8]>);

impl ValidName {
    /// Checks a name.
    pub fn new(bytes: &[u8]) -> Result<Self, BadName> {
        check_name(bytes)?;
        Ok(Self(bytes.into()))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A relative path of one or more valid names, joined by `/`. Ordered name by name ([`by_names`]).
#[derive(Clone, PartialEq, Eq, Hash, Serialize)]
pub struct ValidPath(#[serde(with = "serde_bytes")] Box<[u8]>);

impl ValidPath {
    /// Checks a path such as `a/b/c`. Leading, trailing and doubled slashes are refused.
    pub fn new(bytes: &[u8]) -> Result<Self, BadName> {
        check_path(bytes)?;
        Ok(Self(bytes.into()))
    }

    /// As a person types it: leading, trailing and doubled slashes and `.` are dropped. `Ok(None)` is the root.
    pub fn from_user(bytes: &[u8]) -> Result<Option<Self>, BadName> {
        let names: Vec<&[u8]> = bytes.split(|&b| b == b'/').filter(|name| !name.is_empty() && *name != b".").collect();
        if names.is_empty() { Ok(None) } else { Self::new(&names.join(&b'/')).map(Some) }
    }

    /// The bytes, without a leading slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The components, in order.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/')
    }

    /// The last component.
    pub fn file_name(&self) -> &[u8] {
        let at = self.0.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
        &self.0[at..]
    }

    /// The path of the folder that holds this; `None` for an entry of the root.
    pub fn parent(&self) -> Option<Self> {
        let at = self.0.iter().rposition(|&b| b == b'/')?;
        Some(Self(self.0[..at].into()))
    }

    /// This path with `rest` below it.
    pub fn join(&self, rest: &Self) -> Result<Self, BadName> {
        Self::new(&[self.as_bytes(), rest.as_bytes()].join(&b'/'))
    }
}

impl Ord for ValidPath {
    fn cmp(&self, other: &Self) -> Ordering {
        by_names(&self.0, &other.0)
    }
}

impl PartialOrd for ValidPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Bytes that two paths begin with.
pub fn common_bytes(a: &[u8], b: &[u8]) -> usize {
    // Eight at a time: paths that are compared are neighbours mostly, and have long beginnings in common.
    let words = a.chunks_exact(8).zip(b.chunks_exact(8)).take_while(|(a, b)| a == b).count() * 8;
    words + a[words..].iter().zip(&b[words..]).take_while(|(a, b)| a == b).count()
}

/// Paths in the order of their names, as a walk through folders meets them: `/` is before every other byte (names hold no
/// NUL). So what is in a folder stays together, and comes right after a file of the folder's name.
pub fn by_names(a: &[u8], b: &[u8]) -> Ordering {
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    let at = common_bytes(a, b);
    a.get(at).map(key).cmp(&b.get(at).map(key))
}

/// Checks the bytes of a [`ValidPath`] where they lie.
pub fn check_path(bytes: &[u8]) -> Result<(), BadName> {
    if bytes.len() > MAX_PATH {
        return Err(BadName::TooLong);
    }
    let mut depth = 0;
    for name in bytes.split(|&b| b == b'/') {
        check_name(name)?;
        depth += 1;
    }
    if depth > MAX_PATH_DEPTH { Err(BadName::TooLong) } else { Ok(()) }
}

fn check_name(bytes: &[u8]) -> Result<(), BadName> {
    match bytes {
        b"" | b"." | b".." => Err(BadName::Reserved),
        _ if bytes.len() > MAX_NAME => Err(BadName::TooLong),
        _ if bytes.iter().any(|&b| b == b'/' || b == 0) => Err(BadName::Character),
        _ => Ok(()),
    }
}

macro_rules! shown_escaped {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&escape::for_terminal(&self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", escape::for_terminal(&self.0))
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let bytes = <&serde_bytes::Bytes>::deserialize(from)?;
                Self::new(bytes).map_err(serde::de::Error::custom)
            }
        }
    };
}
shown_escaped!(ValidName);
shown_escaped!(ValidPath);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_door() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
            assert!(ValidName::new(bad).is_err(), "{bad:?}");
        }
        for bad in [&b""[..], b"/a", b"a/", b"a//b", b"a/../b", b"./a", b"a/\0"] {
            assert!(ValidPath::new(bad).is_err(), "{bad:?}");
        }
        assert!(ValidPath::new(&[b"a".as_slice(); 257].join(&b'/')).is_err());
        assert!(ValidName::new(&[0xff; 255]).is_ok());
        assert_eq!(ValidPath::from_user(b"//a/./b/").unwrap().unwrap().as_bytes(), b"a/b");
        assert_eq!(ValidPath::from_user(b"/").unwrap(), None);
        assert!(ValidPath::from_user(b"/a/../b").is_err());
    }

    proptest! {
        #[test]
        fn a_valid_path_is_its_names(names in proptest::collection::vec("[a-z]{1,8}", 1..6)) {
            let path = ValidPath::new(names.join("/").as_bytes()).unwrap();
            prop_assert_eq!(path.names().count(), names.len());
            prop_assert_eq!(path.file_name(), names.last().unwrap().as_bytes());
            let packed = rmp_serde::to_vec(&path).unwrap();
            prop_assert_eq!(rmp_serde::from_slice::<ValidPath>(&packed).unwrap(), path);
        }

        #[test]
        fn paths_are_ordered_name_by_name(a in "[a.-]{1,2}(/[a.-]{1,2}){0,12}", b in "[a.-]{1,2}(/[a.-]{1,2}){0,12}") {
            let names = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
            prop_assert_eq!(by_names(a.as_bytes(), b.as_bytes()), names(&a).cmp(&names(&b)));
        }

        #[test]
        fn what_is_invalid_does_not_deserialize(bytes: Vec<u8>) {
            let packed = rmp_serde::to_vec(serde_bytes::Bytes::new(&bytes)).unwrap();
            prop_assert_eq!(rmp_serde::from_slice::<ValidPath>(&packed).is_ok(), ValidPath::new(&bytes).is_ok());
        }
    }
}
