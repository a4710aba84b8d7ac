//! What is on disk: it tells nothing, and what was altered is noticed, fetched again, and never served.

// clippy.toml lets only test functions unwrap, and all of this file is tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::contents::{MIB, files_below, hash_of, marked_file, random_file, text_file};
use common::process::tool;
use common::search::{Marker, markers, search_files};
use common::wait::until;
use common::{Network, Node};
use flashget::vault::invite;

const CHUNK: u64 = 256 << 10;

/// Waits until `path` is whole in the sealed cache: what was read is written behind the reader's back.
fn cached(node: &Node, path: &str) {
    until(&format!("{path} is in the cache"), || node.stat(path).is_some_and(|entry| entry.cached_percent == 100));
}

#[test]
fn nothing_in_a_home_tells_names_paths_or_contents() {
    let size = 20 * MIB;
    let network = Network::named("zq-network");
    let share = network.path("zq-shared-folder");
    let content = b"zq-marker-inside-of-the-content!";
    let root = marked_file(&share.join("zq-folder/zq-image.bin"), size, "sealed", Some(content));
    text_file(&share.join("zq-folder/zq-text.txt"), "zq-line-of-a-text\n".repeat(100_000));
    text_file(&share.join("zq-small.txt"), "zq-small-content");
    text_file(&share.join("zq-ignored.txt"), "zq-ignored-content");
    text_file(&share.join(".flashgetignore"), "zq-ignored.txt\n");

    // A daemon that mount starts logs into its home.
    let (source, reader) = (network.member("zq-alice"), network.member("zq-bob"));
    let add = ["share", "add", share.to_str().unwrap(), "--at", "zq-put/zq-here"];
    source.ok(add);
    source.mount();
    reader.mount();
    reader.sees("zq-put/zq-here/zq-folder/zq-image.bin", 1);
    let copy = network.path("copy");
    tool("cp", ["-r".as_ref(), reader.mount_point.as_os_str(), copy.as_os_str()]);
    assert_eq!(hash_of(&copy.join("zq-put/zq-here/zq-folder/zq-image.bin")), root);
    for file in ["zq-folder/zq-image.bin", "zq-folder/zq-text.txt", "zq-small.txt"] {
        cached(&reader, &format!("zq-put/zq-here/{file}"));
    }
    source.run(["umount", "/zq-put/zq-here"]).refused(3, "not mounted");
    source.run(["stat", "zq-put/zq-nothing"]).refused(3, "no ");

    let member = invite::read(&network.invite).unwrap();
    let raw_root = data_encoding::HEXLOWER.decode(root.as_bytes()).unwrap();
    let mut secrets = markers(&[
        "zq-shared-folder",
        "zq-folder",
        "zq-image",
        "zq-text",
        "zq-small",
        "zq-ignored",
        "zq-put",
        "zq-here",
        "zq-nothing",
        "zq-marker-inside-of-the-content!",
        "zq-line-of-a-text",
        "zq-network",
        "zq-alice",
        "zq-bob",
        &root,
        &network.invite,
    ]);
    for (what, bytes) in [
        ("the key of sessions", member.member_psk().unwrap().expose().to_vec()),
        ("the key of the tracker's sessions", member.tracker_psk().expose().to_vec()),
        ("the root of a file", raw_root),
    ] {
        secrets.push(Marker { what: what.into(), bytes });
    }
    // By design: the settings file is the user's own, and this test wrote the node's name into it. The homes' own names
    // are the test's, too: only what is below is looked at.
    let except = |path: &Path| path == Path::new("config.toml");
    let search = |when: &str| {
        for (node, least) in [(&source, 0), (&reader, size)] {
            let (found, searched) = search_files(&node.home, &secrets, except);
            assert_eq!(found, Vec::<String>::new(), "{when}");
            assert!(searched > least, "only {searched} bytes were searched");
        }
        let (found, _) = search_files(&network.path("tracker"), &secrets, |_| false);
        assert_eq!(found, Vec::<String>::new(), "{when}");
    };
    search("while the daemons run");
    reader.umount();
    reader.ends();
    search("after one has ended");
    // The proof that such a search finds what is there.
    let (found, _) = search_files(&network.path("."), &secrets[..12], |path| !path.starts_with("zq-shared-folder"));
    assert!(found.len() > 10, "{found:?}");
}

/// Where the records of a cached file of many chunks stand, as docs/FORMAT.md describes it.
struct Records {
    size: u64,
}

impl Records {
    const PAGE: u64 = 4096;
    const OVERHEAD: u64 = 48;
    const GROUP: u64 = 256;

    fn chunks(&self) -> u64 {
        self.size.div_ceil(CHUNK)
    }

    fn groups(&self) -> u64 {
        self.chunks().div_ceil(Self::GROUP)
    }

    fn group_list(&self) -> (u64, u64) {
        (Self::PAGE, Self::OVERHEAD + 32 * self.groups())
    }

    fn group(&self, group: u64) -> (u64, u64) {
        let (at, len) = self.group_list();
        let slot = (Self::OVERHEAD + 32 * Self::GROUP).next_multiple_of(Self::PAGE);
        let chunks = (self.chunks() - group * Self::GROUP).min(Self::GROUP);
        ((at + len).next_multiple_of(Self::PAGE) + group * slot, Self::OVERHEAD + 32 * chunks)
    }

    /// Place and length of the record of a chunk.
    fn chunk(&self, index: u64) -> (u64, u64) {
        let slot = (Self::OVERHEAD + CHUNK).next_multiple_of(Self::PAGE);
        let last = self.group(self.groups() - 1).0 + (Self::OVERHEAD + 32 * Self::GROUP).next_multiple_of(Self::PAGE);
        (last + index * slot, Self::OVERHEAD + (self.size - index * CHUNK).min(CHUNK))
    }

    /// The cached file: the one of this length.
    fn file(&self, node: &Node) -> PathBuf {
        let (at, len) = self.chunk(self.chunks() - 1);
        let dir = node.home.join("cache/files");
        let fits = |file: &PathBuf| fs::metadata(dir.join(file)).unwrap().len() == at + len;
        let mut files: Vec<PathBuf> = files_below(&dir).into_iter().filter(fits).collect();
        assert_eq!(files.len(), 1, "docs/FORMAT.md is no longer true, or a file is not in the cache");
        dir.join(files.pop().unwrap())
    }
}

/// Flips a bit somewhere in a record; where depends on `turn`.
fn flip(file: &File, (at, len): (u64, u64), turn: u64) {
    let at = at + turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) % len;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 1 << (turn % 8);
    file.write_all_at(&byte, at).unwrap();
}

fn writable(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// Places and lengths of the sealed records in a pack of small files (docs/FORMAT.md).
fn items(pack: &File) -> Vec<(u64, u64)> {
    let mut bytes = Vec::new();
    let mut pack = pack;
    pack.read_to_end(&mut bytes).unwrap();
    let mut items = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        assert_eq!(&bytes[at..at + 4], b"FGI1");
        let len = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        let identity = usize::from(u16::from_le_bytes(bytes[at + 8..at + 10].try_into().unwrap()));
        items.push(((at + 10 + identity) as u64, (len - 2 - identity) as u64));
        at += 8 + len;
    }
    items
}

/// A source, and a reader that has everything in its cache.
struct Cached {
    network: Network,
    source: Node,
    reader: Node,
    /// Path and hash of each file.
    files: Vec<(String, String)>,
}

impl Cached {
    fn new(big: u64, small: u64, settings: &str) -> Self {
        let network = Network::new();
        let share = network.path("share");
        let mut files = vec![("big".to_owned(), random_file(&share.join("big"), big, "big"))];
        for i in 0..small {
            let path = format!("small/{i}");
            files.push((path.clone(), random_file(&share.join(path), 100 + i * 8000, &i.to_string())));
        }
        let source = network.source("source", &share);
        let mut reader = network.member("reader");
        reader.settings(settings);
        reader.start();
        reader.mount();
        let mut all = Self { network, source, reader, files };
        all.read();
        all.files.iter().for_each(|(path, _)| cached(&all.reader, path));
        all.reader.umount();
        all
    }

    /// Reads everything through the mount: it is right.
    fn read(&mut self) {
        for (path, hash) in &self.files {
            until("the file is seen", || self.reader.mount_point.join(path).is_file());
            assert_eq!(hash_of(&self.reader.mount_point.join(path)), *hash, "{path}");
        }
    }

    /// After this, nothing is in RAM, neither the kernel's nor the daemon's.
    fn restart(&mut self, between: impl FnOnce(&Node)) {
        self.reader.stop();
        between(&self.reader);
        self.reader.start();
        self.reader.mount();
    }
}

#[test]
fn a_bit_flipped_in_any_cached_record_is_noticed_fetched_again_and_never_served() {
    // Two groups of chunks, the last chunk of which is short; and small files in a pack.
    let records = Records { size: 65 * MIB + 12_345 };
    let mut all = Cached::new(records.size, 20, "");
    let record_count = records.chunks() + 20;
    all.restart(|reader| {
        let file = writable(&records.file(reader));
        for index in 0..records.chunks() {
            flip(&file, records.chunk(index), index);
        }
        let packs = reader.home.join("cache/packs");
        let mut flipped = 0;
        for pack in files_below(&packs) {
            let pack = writable(&packs.join(pack));
            for item in items(&pack) {
                flip(&pack, item, flipped);
                flipped += 1;
            }
        }
        assert_eq!(flipped, 20);
    });
    all.read();
    let stats = all.reader.status().cache;
    assert_eq!(stats.damaged, record_count, "each was noticed");
    assert_eq!(stats.loads, 0, "none was served");
    assert_eq!(all.reader.json(["status"])["cache"]["damaged"], record_count);
    all.files.iter().for_each(|(path, _)| cached(&all.reader, path));

    // What was fetched again has been sealed again: it serves the next daemon, without the source.
    all.reader.umount();
    all.source.stop();
    all.restart(|_| {});
    all.read();
    let stats = all.reader.status().cache;
    // Some may have been read twice, where the kernel's read-ahead and the daemon's met.
    assert!(stats.damaged == 0 && stats.loads >= record_count, "{stats:?}");
    assert!(all.reader.transfers().is_empty());
    drop(all.network);
}

#[test]
fn a_bit_flipped_in_what_proves_a_cached_file_costs_nothing_but_time() {
    let records = Records { size: 65 * MIB + 12_345 };
    let mut all = Cached::new(records.size, 0, "");
    let mut places = vec![records.group_list(), records.group(0), records.group(1)];
    // The first page names the file: magic, length, the sealed name.
    places.extend([(0, 8), (8, 2), (10, 60)]);
    for (turn, place) in places.into_iter().enumerate() {
        all.restart(|reader| flip(&writable(&records.file(reader)), place, turn as u64 + 1));
        all.read();
        cached(&all.reader, "big");
        all.reader.umount();
    }
    // The chunks of a file that can't be told are fetched again, and the file is there again.
    all.source.stop();
    all.restart(|_| {});
    all.read();
}

#[test]
fn a_bit_flipped_under_a_running_daemon_is_noticed_too() {
    let records = Records { size: 9 * MIB + 1 };
    let mut all = Cached::new(records.size, 0, "");
    // Nothing is in RAM, and the daemon runs.
    all.restart(|_| {});
    let file = writable(&records.file(&all.reader));
    let flipped = (0..records.chunks()).step_by(2);
    flipped.clone().for_each(|index| flip(&file, records.chunk(index), index));
    all.read();
    let stats = all.reader.status().cache;
    assert_eq!(stats.damaged, flipped.count() as u64);
    cached(&all.reader, "big");
}

#[test]
fn a_damaged_record_that_nobody_can_replace_is_an_error_and_no_wrong_byte() {
    let records = Records { size: 4 * MIB };
    let mut all = Cached::new(records.size, 0, "");
    all.source.stop();
    let broken = 7;
    all.restart(|reader| flip(&writable(&records.file(reader)), records.chunk(broken), 3));
    let original = File::open(all.network.path("share/big")).unwrap();
    let mounted = File::open(all.reader.mount_point.join("big")).unwrap();
    let (mut expected, mut got) = (vec![0; CHUNK as usize], vec![0; CHUNK as usize]);
    // From the end, so that the kernel does not read ahead over the broken one.
    for index in (0..records.chunks()).rev() {
        original.read_exact_at(&mut expected, index * CHUNK).unwrap();
        let read = mounted.read_exact_at(&mut got, index * CHUNK);
        if index == broken {
            assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EIO));
        } else {
            read.unwrap_or_else(|error| panic!("chunk {index}: {error}"));
            assert!(got == expected, "chunk {index}");
        }
    }
    // The source is back, and so is the chunk.
    all.source.start();
    all.reader.sees("big", 1);
    mounted.read_exact_at(&mut got, broken * CHUNK).unwrap();
    original.read_exact_at(&mut expected, broken * CHUNK).unwrap();
    assert!(got == expected);
}
