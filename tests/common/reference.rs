//! A plain folder as the reference for a mount: one operation at a time is done at random on both, and the answers must
//! be the same.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, Advice, Dir, FileType, SeekFrom, access, fadvise, seek};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::contents::files_below;

const PAGE: u64 = 4096;
const CHUNK: u64 = 256 << 10;
/// Open files of one player.
const HANDLES: usize = 24;

/// Random numbers that follow from a seed alone (SplitMix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}

/// What an operation came to: an answer, or the number of an error.
pub type Answer<T> = Result<T, i32>;

pub fn number(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or_else(|| panic!("an error without a number: {error}"))
}

/// What must be the same of a path. A folder's size and times are the file system's own.
#[derive(Debug, PartialEq)]
enum Kind {
    Folder,
    File { size: u64, secs: i64, nanos: i64, executable: bool },
}

fn kind_of(path: &Path) -> Answer<Kind> {
    let meta = fs::symlink_metadata(path).map_err(|error| number(&error))?;
    Ok(match meta.is_dir() {
        true => Kind::Folder,
        false => {
            assert!(meta.is_file(), "{}", path.display());
            let (size, secs, nanos) = (meta.len(), meta.mtime(), meta.mtime_nsec());
            Kind::File { size, secs, nanos, executable: meta.mode() & 0o111 != 0 }
        }
    })
}

/// A file that is open in both.
struct Pair {
    plain: File,
    mounted: File,
    size: u64,
}

/// Plays on one plain folder and one mount of it.
pub struct Player<'a> {
    plain: &'a Path,
    mount: &'a Path,
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    open: Vec<Pair>,
    dice: Dice,
    /// Answers with something in them and errors that were compared: so that a run that only ever failed is noticed.
    pub answers: u64,
    pub errors: u64,
}

impl<'a> Player<'a> {
    pub fn new(plain: &'a Path, mount: &'a Path, seed: u64) -> Self {
        let files = files_below(plain);
        let mut folders: Vec<PathBuf> =
            files.iter().flat_map(|file| file.ancestors().skip(1).map(Path::to_path_buf)).collect();
        folders.sort();
        folders.dedup();
        Self { plain, mount, files, folders, open: Vec::new(), dice: Dice::new(seed), answers: 0, errors: 0 }
    }

    /// One operation, drawn at random.
    pub fn step(&mut self) {
        match self.dice.below(100) {
            0..20 => self.stat(),
            20..26 => self.access(),
            26..36 => self.open(),
            36..42 => self.close(),
            42..70 => self.pread(),
            70..74 => self.seek(),
            74..78 => self.list(),
            78..84 => self.list_partly(),
            84..87 => self.readlink(),
            87..94 => self.map(),
            94..97 => self.read_at_once(),
            _ => self.forget(),
        }
    }

    fn same<T: PartialEq + std::fmt::Debug>(&mut self, what: impl FnOnce() -> String, of: impl Fn(&Path) -> Answer<T>) {
        let (plain, mounted) = (of(self.plain), of(self.mount));
        assert_eq!(mounted, plain, "{}: the mount's answer is the first", what());
        match plain {
            Ok(_) => self.answers += 1,
            Err(_) => self.errors += 1,
        }
    }

    /// A path that may be a file's, a folder's, or nobody's, in several ways.
    fn path(&mut self) -> PathBuf {
        let file = self.dice.pick(&self.files).clone();
        let folder = self.dice.pick(&self.folders).clone();
        match self.dice.below(12) {
            0..6 => file,
            6..8 => folder,
            8 => folder.join(format!("missing {}", self.dice.next())),
            // A name that is not UTF-8, and one that is too long.
            9 => folder.join(OsString::from_vec(vec![0xff; 1 + self.dice.below(300) as usize])),
            // Below a file, and above a folder.
            10 => file.join("below"),
            _ => file.join("..").join("missing"),
        }
    }

    fn stat(&mut self) {
        let path = self.path();
        self.same(|| format!("stat {}", path.display()), |root| kind_of(&root.join(&path)));
    }

    fn access(&mut self) {
        let path = self.path();
        let mode = *self.dice.pick(&[Access::EXISTS, Access::READ_OK, Access::EXEC_OK]);
        self.same(
            || format!("access {} {mode:?}", path.display()),
            |root| access(root.join(&path), mode).map_err(Errno::raw_os_error),
        );
    }

    fn readlink(&mut self) {
        let path = self.path();
        self.same(
            || format!("readlink {}", path.display()),
            |root| fs::read_link(root.join(&path)).map_err(|error| number(&error)),
        );
    }

    fn open(&mut self) {
        let path = self.path();
        if self.open.len() == HANDLES {
            self.close();
        }
        let opened = |root: &Path| File::open(root.join(&path)).map_err(|error| number(&error));
        match (opened(self.plain), opened(self.mount)) {
            (Ok(plain), Ok(mounted)) => {
                let (meta, same) = (plain.metadata().unwrap(), mounted.metadata().unwrap());
                assert_eq!(same.is_dir(), meta.is_dir(), "open {}", path.display());
                self.answers += 1;
                if meta.is_dir() {
                    // Reading it as a file is an error.
                    let read = |folder: &File| folder.read_at(&mut [0], 0).map_err(|error| number(&error));
                    assert_eq!(read(&mounted), read(&plain), "read of the folder {}", path.display());
                    return;
                }
                assert_eq!(same.len(), meta.len(), "open {}", path.display());
                self.open.push(Pair { plain, mounted, size: meta.len() });
            }
            (plain, mounted) => {
                let (plain, mounted) = (plain.map(drop), mounted.map(drop));
                assert_eq!(mounted, plain, "open {}", path.display());
                self.errors += 1;
            }
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            let at = self.dice.below(self.open.len() as u64) as usize;
            self.open.swap_remove(at);
        }
    }

    /// Where and how much to read: near the bounds of chunks and of the file, and beyond it, more often than by chance.
    fn range(dice: &mut Dice, size: u64) -> (u64, usize) {
        let near = |dice: &mut Dice, at: u64| (at + dice.below(64)).saturating_sub(32);
        let at = match dice.below(8) {
            0..4 => dice.below(size + 1),
            4 | 5 => {
                let chunk = dice.below(size / CHUNK + 1) * CHUNK;
                near(dice, chunk)
            }
            6 => near(dice, size),
            _ => size + dice.below(10 * CHUNK),
        };
        let len = match dice.below(8) {
            0 => dice.below(64),
            1..6 => dice.below(64 << 10),
            6 => dice.below(CHUNK + PAGE),
            _ => dice.below(3 * CHUNK),
        };
        (at, len as usize)
    }

    fn pread(&mut self) {
        if self.open.is_empty() {
            return self.open();
        }
        let at = self.dice.below(self.open.len() as u64) as usize;
        let (offset, len) = Self::range(&mut self.dice, self.open[at].size);
        compare_read(&self.open[at], offset, len);
        self.answers += 1;
    }

    /// Several handles of one file, each in a thread of its own.
    fn read_at_once(&mut self) {
        let path = self.dice.pick(&self.files).clone();
        let size = fs::metadata(self.plain.join(&path)).unwrap().len();
        let pairs: Vec<(Pair, (u64, usize))> = (0..4)
            .map(|_| {
                let open = |root: &Path| File::open(root.join(&path)).unwrap();
                let pair = Pair { plain: open(self.plain), mounted: open(self.mount), size };
                (pair, Self::range(&mut self.dice, size))
            })
            .collect();
        drop_pages(&pairs[0].0.mounted);
        std::thread::scope(|scope| {
            for (pair, (offset, len)) in &pairs {
                scope.spawn(|| compare_read(pair, *offset, *len));
            }
        });
        self.answers += 1;
    }

    fn seek(&mut self) {
        if self.open.is_empty() {
            return self.open();
        }
        let at = self.dice.below(self.open.len() as u64) as usize;
        let pair = &self.open[at];
        let (offset, _) = Self::range(&mut self.dice, pair.size);
        let to = *self.dice.pick(&[SeekFrom::Data(offset), SeekFrom::Hole(offset), SeekFrom::End(-1)]);
        let sought = |file: &File| seek(file, to).map_err(Errno::raw_os_error);
        let plain = sought(&pair.plain);
        assert_eq!(sought(&pair.mounted), plain, "seek to {to:?} in {} bytes", pair.size);
        match plain {
            Ok(_) => self.answers += 1,
            Err(_) => self.errors += 1,
        }
    }

    fn list(&mut self) {
        let folder = self.dice.pick(&self.folders).clone();
        let names = |root: &Path| {
            let mut names = entries(&mut directory(&root.join(&folder))?, usize::MAX);
            names.iter_mut().for_each(|entry| entry.offset = 0);
            names.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(names)
        };
        self.same(|| format!("list {}", folder.display()), names);
    }

    /// A part of a folder, then from there on, then from there on once more.
    fn list_partly(&mut self) {
        let folder = self.dice.pick(&self.folders).clone();
        let wanted: Vec<_> = entries(&mut directory(&self.plain.join(&folder)).unwrap(), usize::MAX);
        let mut dir = directory(&self.mount.join(&folder)).unwrap();
        let first = entries(&mut dir, self.dice.below(wanted.len() as u64 + 2) as usize);
        if self.dice.below(3) > 0 {
            let rest = entries(&mut dir, usize::MAX);
            let mut names: Vec<&[u8]> = first.iter().chain(&rest).map(|entry| &entry.name[..]).collect();
            names.sort();
            let mut all: Vec<&[u8]> = wanted.iter().map(|entry| &entry.name[..]).collect();
            all.sort();
            assert_eq!(names, all, "{} in two parts of {} and {}", folder.display(), first.len(), rest.len());
            if let Some(last) = first.last() {
                dir.seek(last.offset).unwrap();
                let again = entries(&mut dir, usize::MAX);
                assert_eq!(again, rest, "{} once more from {}", folder.display(), first.len());
            }
        }
        self.answers += 1;
    }

    fn map(&mut self) {
        if self.open.is_empty() {
            return self.open();
        }
        let at = self.dice.below(self.open.len() as u64) as usize;
        let pair = &self.open[at];
        if pair.size == 0 {
            return;
        }
        let first = self.dice.below(pair.size.div_ceil(PAGE)) * PAGE;
        let len = (1 + self.dice.below(3 * CHUNK)).min(pair.size - first) as usize;
        let mut wanted = vec![0; len];
        pair.plain.read_exact_at(&mut wanted, first).unwrap();
        let seen = mapped(&pair.mounted, first, len);
        assert!(seen == wanted, "{len} bytes at {first} of {}, mapped, are others", pair.size);
        self.answers += 1;
    }

    /// What the kernel has of a file goes, so that the next read is the daemon's to answer.
    fn forget(&mut self) {
        if let Some(pair) = self.open.last() {
            drop_pages(&pair.mounted);
        }
    }
}

/// Makes the kernel forget a file's bytes.
pub fn drop_pages(file: &File) {
    fadvise(file, 0, None, Advice::DontNeed).unwrap();
}

fn compare_read(pair: &Pair, offset: u64, len: usize) {
    let read = |file: &File| {
        let mut bytes = vec![0; len];
        let mut have = 0;
        // One call may bring less than is there; the end is where it brings nothing.
        while have < len {
            match file.read_at(&mut bytes[have..], offset + have as u64).map_err(|error| number(&error))? {
                0 => break,
                more => have += more,
            }
        }
        bytes.truncate(have);
        Ok(bytes)
    };
    let (plain, mounted): (Answer<Vec<u8>>, Answer<Vec<u8>>) = (read(&pair.plain), read(&pair.mounted));
    let lengths = (plain.as_ref().map(Vec::len), mounted.as_ref().map(Vec::len));
    // Not assert_eq: nobody wants to see the bytes.
    assert!(plain == mounted, "read of {len} at {offset} of {}: {lengths:?}", pair.size);
}

fn mapped(file: &File, offset: u64, len: usize) -> Vec<u8> {
    // SAFETY: a private mapping of its own, at an address that the kernel chooses; it lives until munmap below. The file's
    // bytes never change.
    unsafe {
        let start = mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::PRIVATE, file, offset).unwrap();
        let bytes = std::slice::from_raw_parts(start.cast::<u8>(), len).to_vec();
        munmap(start, len).unwrap();
        bytes
    }
}

#[derive(Debug, PartialEq)]
struct Entry {
    name: Vec<u8>,
    folder: bool,
    offset: i64,
}

fn directory(path: &Path) -> Answer<Dir> {
    let folder = File::open(path).map_err(|error| number(&error))?;
    Dir::new(folder).map_err(Errno::raw_os_error)
}

/// Up to `limit` of the next entries.
fn entries(dir: &mut Dir, limit: usize) -> Vec<Entry> {
    let entries = std::iter::from_fn(|| dir.read()).map(|entry| {
        let entry = entry.unwrap();
        let folder = entry.file_type() == FileType::Directory;
        Entry { name: entry.file_name().to_bytes().to_vec(), folder, offset: entry.offset() }
    });
    entries.take(limit).collect()
}
