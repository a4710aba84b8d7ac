//! The mount table, as text: which folders are mounts of flashget. Asking the table never hangs, as a stat could.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The file system type that the kernel shows for a mount of flashget.
pub const FS_TYPE: &str = "fuse.flashget";

/// A mount of flashget.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlashgetMount {
    /// Where.
    pub point: PathBuf,
    /// The mount's source: the network's name.
    pub source: String,
    /// Minor and major device number, as in `/sys/class/bdi`.
    pub device: String,
}

/// Reads this process's mount table.
pub fn flashget_mounts() -> Vec<FlashgetMount> {
    std::fs::read("/proc/self/mountinfo").map(|table| parse(&table)).unwrap_or_default()
}

/// Parses `/proc/self/mountinfo` (proc(5)). Later mounts cover earlier ones on the same point; both are given.
pub fn parse(table: &[u8]) -> Vec<FlashgetMount> {
    table.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<FlashgetMount> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let dash = fields.iter().position(|field| *field == b"-")?;
    let (fs_type, source) = (fields.get(dash + 1)?, fields.get(dash + 2)?);
    if *fs_type != FS_TYPE.as_bytes() {
        return None;
    }
    Some(FlashgetMount {
        point: PathBuf::from(OsString::from_vec(unescape(fields.get(4)?))),
        source: String::from_utf8_lossy(&unescape(source)).into_owned(),
        device: String::from_utf8_lossy(fields.get(2)?).into_owned(),
    })
}

/// Spaces, tabs, newlines and backslashes are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let digits = field
            .get(at + 1..at + 4)
            .filter(|digits| field[at] == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match digits {
            Some(digits) => {
                out.push(digits.iter().fold(0u8, |value, digit| value.wrapping_mul(8) + (digit - b'0')));
                at += 4;
            }
            None => {
                out.push(field[at]);
                at += 1;
            }
        }
    }
    out
}

/// True if one of the two paths is the other, or lies in it.
pub fn overlap(a: &Path, b: &Path) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_our_mounts_and_unescapes_them() {
        let table = b"36 35 98:0 / /mnt rw - ext4 /dev/root rw\n40 35 0:52 / /mnt/a\\040b ro,nosuid shared:7 - fuse.flashget lab ro\n";
        let found = parse(table);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].point.as_path(), found[0].source.as_str(), found[0].device.as_str()),
            (Path::new("/mnt/a b"), "lab", "0:52")
        );
        assert!(parse(b"garbage - \n - fuse.flashget\n").is_empty());
    }
}
