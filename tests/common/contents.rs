//! Files with contents that tests can recognise.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// One mebibyte.
pub const MIB: u64 = 1 << 20;

const BLOCK: usize = 1 << 20;

fn create(path: &Path) -> File {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    File::create(path).unwrap()
}

/// Writes `size` random bytes, which depend on `seed` alone; returns their BLAKE3.
pub fn random_file(path: &Path, size: u64, seed: &str) -> String {
    marked_file(path, size, seed, None)
}

/// The same with `marker` written over the bytes at every 4 KiB.
pub fn marked_file(path: &Path, size: u64, seed: &str, marker: Option<&[u8]>) -> String {
    let mut bytes =
        blake3::Hasher::new_derive_key("flashget tests: random files").update(seed.as_bytes()).finalize_xof();
    let mut file = create(path);
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; BLOCK];
    let mut left = size;
    while left > 0 {
        let part = &mut block[..left.min(BLOCK as u64) as usize];
        bytes.fill(part);
        if let Some(marker) = marker {
            part.chunks_exact_mut(4096).for_each(|page| page[..marker.len()].copy_from_slice(marker));
        }
        hasher.update(part);
        file.write_all(part).unwrap();
        left -= part.len() as u64;
    }
    hasher.finalize().to_hex().to_string()
}

/// Writes a text file.
pub fn text_file(path: &Path, text: impl AsRef<[u8]>) {
    create(path).write_all(text.as_ref()).unwrap();
}

/// The BLAKE3 of a file.
pub fn hash_of(path: &Path) -> String {
    let mut file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; BLOCK];
    loop {
        match file.read(&mut block).unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
            0 => return hasher.finalize().to_hex().to_string(),
            len => hasher.update(&block[..len]),
        };
    }
}

/// Every file below `dir`, as paths relative to it, sorted.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next).unwrap_or_else(|error| panic!("{}: {error}", next.display())) {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => dirs.push(entry.path()),
                false => files.push(entry.path().strip_prefix(dir).unwrap().to_path_buf()),
            }
        }
    }
    files.sort();
    files
}

/// Both folders hold the same files with the same contents.
pub fn assert_same(a: &Path, b: &Path) {
    assert_eq!(files_below(a), files_below(b));
    for file in files_below(a) {
        assert_eq!(hash_of(&a.join(&file)), hash_of(&b.join(&file)), "{}", file.display());
    }
}
