//! Searching bytes for what must not be in them.

use std::path::Path;

use super::contents::files_below;

/// Something that must not be seen, and how to call it.
#[derive(Clone, Debug)]
pub struct Marker {
    pub what: String,
    pub bytes: Vec<u8>,
}

/// Markers from texts.
pub fn markers(texts: &[&str]) -> Vec<Marker> {
    texts.iter().map(|text| Marker { what: (*text).into(), bytes: text.as_bytes().to_vec() }).collect()
}

/// True if `needle` is in `hay` (Horspool's algorithm: tests look through hundreds of megabytes).
pub fn holds(hay: &[u8], needle: &[u8]) -> bool {
    let len = needle.len();
    assert!(len > 3, "too short to be told from chance");
    let mut skip = [len; 256];
    needle[..len - 1].iter().enumerate().for_each(|(at, byte)| skip[usize::from(*byte)] = len - 1 - at);
    let mut at = 0;
    while at + len <= hay.len() {
        if &hay[at..at + len] == needle {
            return true;
        }
        at += skip[usize::from(hay[at + len - 1])];
    }
    false
}

/// Which of `markers` are in `bytes`.
pub fn found_in<'a>(bytes: &[u8], markers: &'a [Marker]) -> Vec<&'a str> {
    markers.iter().filter(|marker| holds(bytes, &marker.bytes)).map(|marker| marker.what.as_str()).collect()
}

/// Looks for `markers` in the contents and the names of all files below `dir`, but for those that `except` accepts.
/// Returns what was found where, and how many bytes were searched. A daemon may put a file in another's place at any
/// moment: then everything is looked at again, so that nothing is missed.
pub fn search_files(dir: &Path, markers: &[Marker], except: impl Fn(&Path) -> bool) -> (Vec<String>, u64) {
    (0..100).find_map(|_| search_once(dir, markers, &except)).expect("the files below never stay as they are")
}

/// What was asked of a file, or `None` if it is not there any more.
fn there<T>(asked: std::io::Result<T>) -> Option<T> {
    match asked {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        asked => Some(asked.unwrap()),
    }
}

/// One walk; `None` if a file went away under it.
fn search_once(dir: &Path, markers: &[Marker], except: &impl Fn(&Path) -> bool) -> Option<(Vec<String>, u64)> {
    use std::os::unix::ffi::OsStrExt;
    let (mut found, mut searched) = (Vec::new(), 0);
    for path in files_below(dir) {
        if except(&path) {
            continue;
        }
        for what in found_in(path.as_os_str().as_bytes(), markers) {
            found.push(format!("{what} in the path {}", path.display()));
        }
        let file = dir.join(&path);
        if !there(std::fs::symlink_metadata(&file))?.is_file() {
            continue;
        }
        let bytes = there(std::fs::read(&file))?;
        searched += bytes.len() as u64;
        for what in found_in(&bytes, markers) {
            found.push(format!("{what} in {}", path.display()));
        }
    }
    Some((found, searched))
}
