//! The cache as its user sees it: what is pinned stays, what is evicted goes, what is locked is read by nobody.

// clippy.toml lets only test functions unwrap, and all of this file is tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use common::contents::{MIB, files_below, hash_of, random_file, text_file};
use common::wait::until;
use common::{Network, Node};

const CHUNK: u64 = 256 << 10;

/// A node that shares some files, and one that has them mounted.
struct Two {
    source: Node,
    reader: Node,
    network: Network,
}

impl Two {
    fn new(files: &[(&str, u64)], settings: &str) -> Self {
        let network = Network::new();
        for (path, size) in files {
            random_file(&network.path("share").join(path), *size, path);
        }
        let source = network.source("source", &network.path("share"));
        let mut reader = network.member("reader");
        reader.settings(settings);
        reader.start();
        reader.mount();
        for (path, _) in files {
            reader.sees(path, 1);
        }
        Self { source, reader, network }
    }

    fn original(&self, path: &str) -> std::path::PathBuf {
        self.network.path("share").join(path)
    }

    fn percent(&self, path: &str) -> u8 {
        self.reader.stat(path).unwrap().cached_percent
    }

    fn read(&self, path: &str) -> String {
        hash_of(&self.reader.mount_point.join(path))
    }
}

#[test]
fn what_is_pinned_stays_when_the_cache_is_full_and_through_a_restart() {
    let files =
        [("one", 24 * MIB), ("two", 24 * MIB), ("three", 24 * MIB), ("folder/small", 1000), ("folder/tiny", 10)];
    let mut two = Two::new(&files, "cache.ram = \"8M\"\n");
    two.reader.ok(["cache", "resize", "64M"]);
    // Nobody has read them: pinning fetches.
    let pinned = two.reader.json(["cache", "pin", "one", "folder"]);
    assert_eq!(pinned["files"], 3);
    assert_eq!((two.percent("one"), two.percent("folder/small"), two.percent("folder/tiny")), (100, 100, 100));
    // More than fits.
    two.reader.run(["cache", "pin", "two", "three"]).refused(4, "resize");
    for _ in 0..2 {
        for path in ["two", "three"] {
            assert_eq!(two.read(path), hash_of(&two.original(path)));
        }
    }
    until("something was evicted", || two.reader.json(["cache", "status"])["evicted"].as_u64().unwrap() > 0);
    assert_eq!(two.percent("one"), 100);
    two.reader.run(["cache", "evict", "one"]).refused(4, "unpin");

    two.reader.remount();
    two.source.stop();
    two.reader.ok(["cache", "resize", "32M"]);
    // Offline, from the cache alone, and still listed.
    assert_eq!(two.read("one"), hash_of(&two.original("one")));
    assert_eq!(two.read("folder/small"), hash_of(&two.original("folder/small")));
    let cached = two.reader.json(["cache", "list"]);
    let cached = cached["cached"].as_array().unwrap();
    let pins: Vec<&str> =
        cached.iter().filter(|one| one["pinned"] == true).map(|one| one["path"].as_str().unwrap()).collect();
    assert_eq!(pins.len(), 3, "{cached:?}");

    // Unpinned, it goes.
    assert_eq!(two.reader.json(["cache", "unpin", "one"])["files"], 1);
    two.reader.ok(["cache", "resize", "4M"]);
    assert!(two.percent("one") < 100);
    let on_disk = two.reader.json(["cache", "status"])["disk_bytes"].as_u64().unwrap();
    assert!(on_disk <= 4 * MIB, "{on_disk}");
}

#[test]
fn small_files_that_are_pinned_do_not_keep_what_lies_beside_them() {
    let names: Vec<String> = (0..100).map(|n| format!("folder/{n:02}")).collect();
    let files: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 200_000)).collect();
    let two = Two::new(&files, "cache.ram = \"1M\"\n");
    for name in &names {
        two.read(name);
        until("it is in the cache", || two.percent(name) == 100);
    }
    two.reader.ok(["cache", "pin", "folder/10", "folder/50", "folder/90"]);
    let on_disk = || two.reader.json(["cache", "status"])["disk_bytes"].as_u64().unwrap();
    assert!(on_disk() > 19 * MIB);
    two.reader.ok(["cache", "resize", "4M"]);
    assert!(on_disk() <= 4 * MIB, "{}", on_disk());
    for pinned in ["folder/10", "folder/50", "folder/90"] {
        assert_eq!(two.percent(pinned), 100);
        assert_eq!(two.read(pinned), hash_of(&two.original(pinned)));
    }
    assert_eq!(two.percent("folder/11"), 0);
    two.reader.run(["cache", "resize", "100k"]).refused(4, "unpin");
    two.reader.ok(["cache", "clear"]);
    assert!(on_disk() < MIB, "{}", on_disk());
    assert_eq!(two.reader.json(["cache", "verify"])["records"], 3);
}

#[test]
fn what_is_evicted_or_cleared_is_gone_and_is_fetched_again() {
    let mut two = Two::new(&[("large", 4 * MIB), ("small", 5000), ("other", 5000)], "");
    for path in ["large", "small", "other"] {
        two.read(path);
        until("it is in the cache", || two.percent(path) == 100);
    }
    let root = two.reader.stat("large").unwrap().root.unwrap().to_string();
    assert_eq!(two.reader.json(["cache", "evict", &root[..12]])["files"], 1);
    assert_eq!(two.reader.json(["cache", "evict", "small"])["files"], 1);
    assert_eq!((two.percent("large"), two.percent("small"), two.percent("other")), (0, 0, 100));
    two.reader.remount();
    two.reader.sees("small", 1);
    assert_eq!(
        (two.percent("large"), two.percent("small"), two.percent("other")),
        (0, 0, 100),
        "a restart brings nothing back"
    );
    for path in ["large", "small"] {
        assert_eq!(two.read(path), hash_of(&two.original(path)));
        until("it is in the cache again", || two.percent(path) == 100);
    }
    two.reader.ok(["cache", "pin", "small"]);
    two.reader.ok(["cache", "clear"]);
    assert_eq!((two.percent("large"), two.percent("small"), two.percent("other")), (0, 100, 0));
    two.reader.ok(["cache", "clear", "--pinned"]);
    assert_eq!(two.percent("small"), 0);
    assert!(two.reader.ok(["cache", "list"]).contains("empty"));
    two.reader.run(["cache", "evict", "nothing"]).refused(3, "nothing");
}

#[test]
fn verify_finds_what_was_altered() {
    let mut two = Two::new(&[("large", 4 * MIB), ("small", 5000)], "");
    for path in ["large", "small"] {
        two.read(path);
        until("it is in the cache", || two.percent(path) == 100);
    }
    let checked = two.reader.json(["cache", "verify"]);
    assert_eq!((&checked["records"], &checked["damaged"]), (&17.into(), &0.into()));
    two.reader.umount();
    two.reader.stop();
    let files = two.reader.home.join("cache/files");
    let large = files_below(&files);
    assert_eq!(large.len(), 1);
    let file = OpenOptions::new().read(true).write(true).open(files.join(&large[0])).unwrap();
    let mut byte = [0];
    let at = file.metadata().unwrap().len() - 3 * CHUNK;
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    two.reader.start();
    two.reader.mount();
    two.reader.sees("large", 1);
    let said = two.reader.ok(["cache", "verify"]);
    assert!(said.contains("1 record damaged"), "{said}");
    assert!(two.percent("large") < 100);
    assert_eq!(two.read("large"), hash_of(&two.original("large")));
}

/// What reading a file came to: its length, or the number of the error.
fn tried(path: &Path) -> Result<usize, i32> {
    fs::read(path).map(|bytes| bytes.len()).map_err(|error| error.raw_os_error().unwrap())
}

#[test]
fn what_is_locked_is_listed_and_read_by_nobody_until_it_is_unlocked() {
    let size = 4 * MIB;
    let two = Two::new(&[("file", size), ("unread", size)], "");
    let mount = &two.reader.mount_point;
    let file = mount.join("file");
    assert_eq!(two.read("file"), hash_of(&two.original("file")));
    until("it is in the cache", || two.percent("file") == 100);
    let mut open = File::open(&file).unwrap();
    let mut begin = vec![0; 100_000];
    open.read_exact(&mut begin).unwrap();
    let mut mapped = Mapped::new(&file);
    assert_eq!(mapped.first_byte(), Some(begin[0]));

    two.reader.ok(["lock"]);
    assert_eq!(two.reader.json(["status"])["locked"], true);
    assert_eq!(tried(&file), Err(libc::EACCES));
    assert_eq!(tried(&mount.join("unread")), Err(libc::EACCES));
    let error = open.read_exact_at(&mut begin, 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EACCES), "a handle that was open before");
    assert_eq!(mapped.first_byte(), None, "a mapping that was there before");
    let mut names: Vec<_> = fs::read_dir(mount).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["file", "unread"]);
    assert_eq!(fs::metadata(&file).unwrap().len(), size);
    let to = two.network.path("copy");
    two.reader.run(["get", "file", to.to_str().unwrap()]).refused(5, "unlock");
    two.reader.run(["get", "file", "-"]).refused(5, "locked");
    two.reader.run(["cache", "verify"]).refused(5, "unlock");
    two.reader.run(["network", "create", "another"]).refused(5, "unlock");
    // Membership goes on.
    text_file(&two.original("new"), "shared meanwhile");
    two.reader.sees("new", 1);
    assert_eq!(tried(&mount.join("new")), Err(libc::EACCES));

    two.reader.ok(["unlock"]);
    assert_eq!(two.read("file"), hash_of(&two.original("file")));
    assert_eq!(tried(&mount.join("new")), Ok(16));
    open.read_exact_at(&mut begin, 0).unwrap();
    assert_eq!(two.percent("file"), 100, "nothing was lost");
}

/// A process of its own that has a file mapped: what the kernel does to it is SIGBUS.
struct Mapped {
    child: std::process::Child,
}

const MAPPER: &str = "import mmap, sys
file = open(sys.argv[1], 'rb')
mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
for line in sys.stdin:
    print(mapped[0], flush=True)
";

impl Mapped {
    fn new(file: &Path) -> Self {
        let mut command = Command::new("python3");
        command
            .arg("-c")
            .arg(MAPPER)
            .arg(file)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        Self { child: command.spawn().unwrap() }
    }

    /// `None` if it died of looking.
    fn first_byte(&mut self) -> Option<u8> {
        use std::io::{BufRead, BufReader, Write};
        let asked = self.child.stdin.as_mut().unwrap().write_all(b"\n");
        let mut line = String::new();
        BufReader::new(self.child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        asked.ok().and_then(|()| line.trim().parse().ok())
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // It may have died already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_passphrase_is_changed_and_only_the_new_one_unlocks() {
    let network = Network::new();
    let mut node = network.member("node");
    let word = |name: &str, text: &str| {
        let file = network.path(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let (first, second, wrong) = (word("first", "one\n"), word("second", "two\n"), word("wrong", "three\n"));
    // From the key file to a passphrase, without a daemon.
    node.ok(["passphrase", "change", "--new-passphrase-file", &first]);
    node.run(["network", "list"]).refused(5, "passphrase");
    node.start_with_passphrase(&first);
    node.ok(["lock"]);
    let began = std::time::Instant::now();
    node.run(["--passphrase-file", &wrong, "unlock"]).refused(5, "wrong passphrase");
    let took_wrong = began.elapsed();
    assert_eq!(node.json(["status"])["locked"], true);
    node.run(["--passphrase-file", &wrong, "passphrase", "change", "--new-passphrase-file", &second])
        .refused(5, "wrong");
    node.ok(["--passphrase-file", &first, "unlock"]);
    assert_eq!(node.json(["status"])["locked"], false);
    // By the daemon.
    node.ok(["--passphrase-file", &first, "passphrase", "change", "--new-passphrase-file", &second]);
    node.ok(["lock"]);
    node.run(["--passphrase-file", &first, "unlock"]).refused(5, "wrong passphrase");
    let began = std::time::Instant::now();
    node.ok(["--passphrase-file", &second, "unlock"]);
    eprintln!("a wrong passphrase took {took_wrong:?}, the right one {:?}", began.elapsed());
    node.stop();
    // Back to a key file.
    let key = node.home.join("new.key");
    node.ok(["--passphrase-file", &second, "passphrase", "change", "--new-keyfile", key.to_str().unwrap()]);
    node.ok(["--keyfile", key.to_str().unwrap(), "network", "list"]);
    // The settings may name it, or the command line in their place.
    node.run(["network", "list"]).refused(5, "wrong");
    let given = format!("node.keyfile={}", key.to_str().unwrap());
    node.ok(["--set", &given, "network", "list"]);
    node.run(["--set", "node.keyfiles=1", "network", "list"]).refused(2, "keyfiles");
    node.settings(&format!("node.keyfile = {:?}\n", key.to_str().unwrap()));
    node.ok(["network", "list"]);
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    node.run(["--keyfile", key.to_str().unwrap(), "network", "list"]).refused(5, "chmod 600");
}

#[test]
fn a_disk_that_is_full_makes_the_cache_smaller_and_no_read_fail() {
    common::mounts::require_root("it mounts a small disk for the cache");
    let network = Network::new();
    let disk = network.path("disk");
    fs::create_dir(&disk).unwrap();
    let _small = SmallDisk::mount(&disk, "6m");
    let hash = random_file(&network.path("share/file"), 24 * MIB, "full");
    let _source = network.source("source", &network.path("share"));
    let mut reader = network.member("reader");
    reader.settings(&format!("cache.dir = {:?}\ncache.ram = \"1M\"\n", disk.to_str().unwrap()));
    reader.start();
    reader.mount();
    reader.sees("file", 1);
    for _ in 0..2 {
        assert_eq!(hash_of(&reader.mount_point.join("file")), hash);
    }
    until("chunks were dropped", || reader.json(["cache", "status"])["dropped"].as_u64().unwrap() > 0);
    reader.run(["cache", "pin", "file"]).refused(1, "No space left");
    assert_eq!(reader.json(["cache", "verify"])["damaged"], 0);
    reader.remount();
    reader.sees("file", 1);
    assert_eq!(hash_of(&reader.mount_point.join("file")), hash);
    reader.umount();
    reader.stop();
}

/// A file system in memory, until it is dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(point: &'a Path, size: &str) -> Self {
        let options = format!("size={size}");
        common::process::tool("mount", ["-t", "tmpfs", "-o", &options, "tmpfs", point.to_str().unwrap()]);
        Self(point)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // A daemon that a failing test left may still use it.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}
