//! docs/SEMANTICS.md, section by section: each test has the name of one, and shows what it says.

// clippy.toml lets only test functions unwrap, and all of this file is tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileTimes, OpenOptions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use common::contents::{MIB, files_below, hash_of, random_file, text_file};
use common::wait::{until, until_within};
use common::{Network, Node};

/// The errno of what must fail.
fn errno<T>(result: std::io::Result<T>) -> i32 {
    result.err().expect("it did not fail").raw_os_error().expect("an error of the system")
}

fn names(dir: &Path) -> BTreeSet<OsString> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

/// A network with a reader that has it mounted; entries linger for two seconds there.
fn mounted() -> (Network, Node, PathBuf) {
    let network = Network::new();
    let mut reader = network.member("reader");
    reader.settings("mount.linger = \"2s\"\n");
    reader.start();
    let mount = reader.mount();
    (network, reader, mount)
}

#[test]
fn names_section() {
    let (network, reader, mount) = mounted();
    let share = network.path("share");
    let longest = OsString::from_vec(vec![b'n'; 255]);
    let odd = OsStr::from_bytes(b"not-utf8-\xff\xfe and \x1b[31m").to_owned();
    for name in [longest.as_os_str(), odd.as_os_str(), "größe".as_ref(), "gro\u{308}ße".as_ref()] {
        text_file(&share.join(name), name.as_bytes());
    }
    let deep: PathBuf = (0..200).map(|level| format!("level-{level}")).collect();
    text_file(&share.join(&deep).join("bottom"), "deep");
    fs::create_dir(share.join("empty-folder")).unwrap();
    symlink("größe", share.join("a-link")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, share.join("a-pipe"), rustix::fs::Mode::RWXU).unwrap();
    fs::hard_link(share.join("größe"), share.join("hard")).unwrap();
    let _source = network.source("source", &share);
    reader.sees("hard", 1);
    let expected: BTreeSet<OsString> =
        [longest, odd, "größe".into(), "gro\u{308}ße".into(), "level-0".into(), "hard".into()].into();
    assert_eq!(names(&mount), expected);
    for name in expected.iter().filter(|name| *name != "level-0" && *name != "hard") {
        assert_eq!(fs::read(mount.join(name)).unwrap(), name.as_bytes());
    }
    assert_eq!(fs::read_to_string(mount.join(&deep).join("bottom")).unwrap(), "deep");
    let said = reader.ok(["ls"]);
    assert!(!said.contains('\x1b') && said.contains("\\xff"), "{said}");
}

#[test]
fn conflicts_section() {
    let (network, reader, mount) = mounted();
    for (node, text) in [("one", "most have this"), ("two", "most have this"), ("three", "only one has this")] {
        text_file(&network.path("shares").join(node).join("file.txt"), text);
    }
    text_file(&network.path("shares/one/thing"), "a file");
    text_file(&network.path("shares/two/thing/inside"), "in a folder");
    let nodes: Vec<Node> =
        ["one", "two", "three"].map(|name| network.source(name, &network.path("shares").join(name))).into();
    reader.sees("thing/inside", 1);
    until("all four are there", || names(&mount).len() == 4);
    let hash = |text: &str| blake3::hash(text.as_bytes()).to_hex()[..12].to_string();
    let other = format!("file~{}.txt", hash("only one has this"));
    let file = format!("thing~{}", hash("a file"));
    assert_eq!(names(&mount), ["file.txt".into(), other.clone().into(), "thing".into(), file.clone().into()].into());
    assert_eq!(fs::read_to_string(mount.join("file.txt")).unwrap(), "most have this");
    assert_eq!(fs::read_to_string(mount.join(&other)).unwrap(), "only one has this");
    assert_eq!(fs::read_to_string(mount.join(&file)).unwrap(), "a file");
    // Who is live does not matter.
    let mut nodes = nodes;
    nodes[0].stop();
    nodes[1].stop();
    until("it has no source any more", || reader.stat("file.txt").is_none_or(|entry| entry.sources == 0));
    until("it keeps its suffix", || names(&mount).contains(OsStr::new(&other)));
    assert_eq!(fs::read_to_string(mount.join(&other)).unwrap(), "only one has this");
}

#[test]
fn inodes_section() {
    let (network, mut reader, mount) = mounted();
    for path in ["folder/one", "folder/two", "same"] {
        text_file(&network.path("share").join(path), "same content");
    }
    let _source = network.source("source", &network.path("share"));
    reader.sees("same", 1);
    let inode = |path: &str| fs::metadata(mount.join(path)).unwrap().ino();
    let before = ["", "folder", "folder/one", "folder/two", "same"].map(inode);
    assert_eq!(before[0], 1);
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 5, "each path has its own: {before:?}");
    assert_eq!((fs::metadata(&mount).unwrap().nlink(), fs::metadata(mount.join("same")).unwrap().nlink()), (1, 1));
    reader.remount();
    reader.sees("same", 1);
    assert_eq!(["", "folder", "folder/one", "folder/two", "same"].map(inode), before, "the same after a restart");
    text_file(&network.path("share/same"), "other content");
    until("a new version is a new inode", || inode("same") != before[4]);
    assert_eq!(inode("folder/one"), before[2]);
}

#[test]
fn versions_and_open_handles_section() {
    let (network, reader, mount) = mounted();
    let path = network.path("share/file");
    let old = random_file(&path, 3 * MIB, "old");
    let _source = network.source("source", &network.path("share"));
    reader.sees("file", 1);
    let open = File::open(mount.join("file")).unwrap();
    let first = hash_of(&mount.join("file"));
    assert_eq!(first, old);
    until("it is in the cache", || reader.stat("file").unwrap().cached_percent == 100);
    let folder = fs::read_dir(&mount).unwrap();
    let new = random_file(&network.path("next"), 2 * MIB, "new");
    fs::rename(network.path("next"), &path).unwrap();
    until("the new version is shown", || fs::metadata(mount.join("file")).is_ok_and(|meta| meta.len() == 2 * MIB));
    assert_eq!(hash_of(&mount.join("file")), new);
    // The open one stays what it was, wherever its bytes come from now.
    let mut bytes = vec![0; 3 * MIB as usize];
    open.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(blake3::hash(&bytes).to_hex().as_str(), old);
    assert_eq!(open.metadata().unwrap().len(), 3 * MIB);
    assert_eq!(folder.count(), 1, "a folder is listed as it was when it was opened");
    fs::remove_file(&path).unwrap();
    until("the name is gone", || names(&mount).is_empty());
    open.read_exact_at(&mut bytes[..1000], MIB).unwrap();
}

#[test]
fn times_and_modes_section() {
    let (network, reader, mount) = mounted();
    let time = |secs| SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
    for (node, secs) in [("one", 1_000_000_000), ("two", 1_100_000_000)] {
        let file = network.path("shares").join(node).join("folder/file");
        text_file(&file, "the same");
        File::options().write(true).open(&file).unwrap().set_times(FileTimes::new().set_modified(time(secs))).unwrap();
    }
    let program = network.path("shares/one/folder/program");
    text_file(&program, "#!/bin/sh\n");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let _nodes: Vec<Node> = ["two", "one"].map(|name| network.source(name, &network.path("shares").join(name))).into();
    reader.sees("folder/file", 2);
    let meta = fs::metadata(mount.join("folder/file")).unwrap();
    assert_eq!(meta.modified().unwrap(), time(1_000_000_000), "the oldest that anybody claims");
    assert_eq!((meta.atime(), meta.ctime()), (meta.mtime(), meta.mtime()));
    let program = fs::metadata(mount.join("folder/program")).unwrap();
    let folder = fs::metadata(mount.join("folder")).unwrap();
    assert_eq!(folder.modified().unwrap(), program.modified().unwrap(), "the newest below it");
    assert_eq!([&meta, &program, &folder].map(|meta| meta.mode() & 0o7777), [0o444, 0o555, 0o555]);
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    assert_eq!((meta.uid(), meta.gid()), own);
    reader.umount();
    reader.mount_with(&["-o", "uid=12,gid=34,umask=027"]);
    let meta = fs::metadata(mount.join("folder/program")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (12, 34, 0o550));
}

#[test]
fn what_ls_shows_as_peers_come_and_go_section() {
    let (network, reader, mount) = mounted();
    text_file(&network.path("shares/one/read"), "read before");
    text_file(&network.path("shares/one/unread"), "not read");
    text_file(&network.path("shares/two/other"), "another node's");
    let mut one = network.source("one", &network.path("shares/one"));
    let mut two = network.source("two", &network.path("shares/two"));
    reader.sees("other", 1);
    reader.sees("unread", 1);
    let all = ["other", "read", "unread"].map(OsString::from).into();
    assert_eq!(names(&mount), all);
    assert_eq!(fs::read_to_string(mount.join("read")).unwrap(), "read before");
    until("it is in the cache", || reader.stat("read").unwrap().cached_percent == 100);

    // What appears is shown within two seconds, to a kernel that had remembered that it was not there.
    assert_eq!(errno(fs::metadata(mount.join("late"))), libc::ENOENT);
    text_file(&network.path("shares/two/late"), "late");
    let began = Instant::now();
    until_within(Duration::from_secs(10), "a new file is shown", || (mount.join("late").exists()).then_some(()));
    eprintln!("a new file was shown after {:.1?}", began.elapsed());

    // A source goes: its files linger; then what is whole in the cache stays, and the rest goes.
    let state = |path: &str| reader.stat(path).map(|entry| format!("{:?}", entry.state.unwrap()));
    one.stop();
    until("it lingers", || state("unread").as_deref() == Some("Lingering"));
    assert!(mount.join("unread").exists());
    until_within(Duration::from_secs(10), "it has gone", || (!mount.join("unread").exists()).then_some(()));
    until("it stays from the cache", || state("read").as_deref() == Some("Cached"));
    assert_eq!(fs::read_to_string(mount.join("read")).unwrap(), "read before");

    // The last peer goes: nothing invites rsync --delete to empty a mirror.
    let shown = names(&mount);
    two.stop();
    until("there is no peer", || reader.status().networks[0].peers == 0);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(names(&mount), shown, "an empty network keeps its last view");
    assert_eq!(state("other").as_deref(), Some("Offline"));
    assert_eq!(errno(fs::read(mount.join("late"))), libc::EIO);

    // What its owner withdraws goes at once, cached or not.
    one.start();
    reader.sees("unread", 1);
    fs::remove_file(network.path("shares/one/read")).unwrap();
    until_within(Duration::from_secs(5), "what was removed is gone", || (!mount.join("read").exists()).then_some(()));
}

#[test]
fn offline_section() {
    let (network, mut reader, mount) = mounted();
    let hash = random_file(&network.path("share/cached"), 2 * MIB, "cached");
    random_file(&network.path("share/not"), 2 * MIB, "not cached");
    let mut source = network.source("source", &network.path("share"));
    reader.sees("cached", 1);
    assert_eq!(hash_of(&mount.join("cached")), hash);
    until("it is in the cache", || reader.stat("cached").unwrap().cached_percent == 100);
    source.stop();
    reader.remount();
    // No peer, no word from a tracker needed: what was there is there.
    assert_eq!(names(&mount), ["cached", "not"].map(OsString::from).into());
    let began = Instant::now();
    assert_eq!(hash_of(&mount.join("cached")), hash);
    assert_eq!(errno(fs::read(mount.join("not"))), libc::EIO);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let to = network.path("got");
    reader.ok(["get", "cached", to.to_str().unwrap()]);
    assert_eq!(hash_of(&to), hash);
}

#[test]
fn errors_section() {
    let (network, reader, mount) = mounted();
    random_file(&network.path("share/file"), MIB, "errors");
    text_file(&network.path("share/folder/inner"), "inner");
    let mut source = network.source("source", &network.path("share"));
    reader.sees("folder/inner", 1);
    let (file, folder) = (mount.join("file"), mount.join("folder"));
    assert_eq!(errno(fs::metadata(mount.join("none"))), libc::ENOENT);
    assert_eq!(errno(fs::read_dir(&file)), libc::ENOTDIR);
    assert_eq!(errno(fs::metadata(file.join("below"))), libc::ENOTDIR);
    assert_eq!(errno(fs::read(&folder)), libc::EISDIR);
    assert_eq!(errno(OpenOptions::new().write(true).open(&file)), libc::EROFS);
    assert_eq!(errno(File::create(mount.join("new"))), libc::EROFS);
    assert_eq!(errno(fs::remove_file(&file)), libc::EROFS);
    assert_eq!(errno(fs::rename(&file, mount.join("new"))), libc::EROFS);
    assert_eq!(errno(fs::create_dir(mount.join("new"))), libc::EROFS);
    assert_eq!(errno(symlink("x", mount.join("new"))), libc::EROFS);
    assert_eq!(errno(fs::hard_link(&file, mount.join("new"))), libc::EROFS);
    assert_eq!(errno(fs::set_permissions(&file, fs::Permissions::from_mode(0o600))), libc::EROFS);
    assert_eq!(errno(fs::read_link(&file)), libc::EINVAL);
    source.stop();
    until("there is no source", || reader.stat("file").is_none_or(|entry| entry.sources == 0));
    assert_eq!(errno(fs::read(&file)), libc::EIO);
    reader.ok(["lock"]);
    assert_eq!(errno(fs::read(&file)), libc::EACCES);
}

#[test]
fn reading_section() {
    let (network, reader, mount) = mounted();
    let size = 5 * MIB + 123;
    random_file(&network.path("share/file"), size, "reading");
    text_file(&network.path("share/empty"), "");
    let _source = network.source("source", &network.path("share"));
    reader.sees("file", 1);
    let original = fs::read(network.path("share/file")).unwrap();
    let file = File::open(mount.join("file")).unwrap();
    let mut buffer = vec![0; 300_000];
    for at in [size - 1, 0, size - 100_000, 262_143, 262_144, 2 * MIB, MIB, size, size + MIB] {
        let got = file.read_at(&mut buffer, at).unwrap();
        let rest = &original[(at as usize).min(original.len())..];
        let expected = &rest[..rest.len().min(buffer.len())];
        // A short read is no end: only nothing is.
        assert!(got > 0 || expected.is_empty(), "at {at}");
        assert_eq!(buffer[..got], expected[..got], "at {at}");
    }
    assert_eq!(fs::read(mount.join("empty")).unwrap(), b"");
    let seek = |whence| rustix::fs::seek(&file, whence);
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(0)), Ok(size), "all of it is data");
    assert_eq!(seek(rustix::fs::SeekFrom::Data(100)), Ok(100));
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(mount.join("file")).unwrap();
    assert!(direct.read_at(&mut buffer, 0).unwrap() > 0);
    assert_eq!(buffer[..100], original[..100]);
    // This node's own share is read from where it lies, and is not in the cache.
    text_file(&network.path("own/mine"), "mine");
    reader.share(&network.path("own"));
    reader.sees("mine", 1);
    assert_eq!(fs::read_to_string(mount.join("mine")).unwrap(), "mine");
    assert_eq!(reader.stat("mine").unwrap().cached_percent, 0);
}

#[test]
fn sizes_and_st_blocks_section() {
    let (network, reader, mount) = mounted();
    let sizes = [0, 1, 511, 512, 513, 262_144, 5 * (1 << 30) + 7];
    for size in sizes {
        let path = network.path(format!("share/{size}"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Sparse at its source.
        let file = File::create(&path).unwrap();
        file.set_len(size).unwrap();
        if size > 0 {
            file.write_all_at(b"e", size - 1).unwrap();
        }
    }
    let _source = network.source("source", &network.path("share"));
    for size in sizes {
        reader.sees(&size.to_string(), 1);
        let meta = fs::metadata(mount.join(size.to_string())).unwrap();
        assert_eq!((meta.len(), meta.blocks(), meta.blksize()), (size, size.div_ceil(512), 4096));
    }
    let large = File::open(mount.join(sizes[6].to_string())).unwrap();
    let mut bytes = [9; 4];
    large.read_exact_at(&mut bytes, sizes[6] - 4).unwrap();
    assert_eq!(&bytes, b"\0\0\0e");
    large.read_exact_at(&mut bytes, (1 << 32) - 2).unwrap();
    assert_eq!(bytes, [0; 4]);
    assert_eq!(fs::metadata(&mount).unwrap().len(), 0);
}

#[test]
fn df_section() {
    let (network, reader, mount) = mounted();
    random_file(&network.path("share/a/file"), 3 * MIB, "df");
    text_file(&network.path("share/b"), "small");
    let _source = network.source("source", &network.path("share"));
    reader.sees("b", 1);
    until("all is there", || files_below(&mount).len() == 2);
    let stat = rustix::fs::statvfs(&mount).unwrap();
    assert_eq!((stat.f_blocks, stat.f_bsize, stat.f_bfree, stat.f_bavail), ((3 * MIB + 5).div_ceil(4096), 4096, 0, 0));
    assert_eq!((stat.f_files, stat.f_ffree, stat.f_namemax), (4, 0, 255));
}

#[test]
fn a_folder_with_a_hundred_thousand_entries() {
    let (network, reader, mount) = mounted();
    // In memory: a disk would take most of the test's time to make and remove them.
    let share = tempfile::tempdir_in("/dev/shm").unwrap();
    let many = share.path().join("many");
    fs::create_dir(&many).unwrap();
    let count = 100_000;
    for number in 0..count {
        fs::write(many.join(format!("{number:06}")), number.to_string()).unwrap();
    }
    let _source = network.source("source", share.path());
    let began = Instant::now();
    until_within(Duration::from_secs(60), "all are listed", || {
        ({ names(&mount).len() == 1 && names(&mount.join("many")).len() == count }).then_some(())
    });
    eprintln!("seen and listed after {:.1?}", began.elapsed());
    let began = Instant::now();
    let mut bytes = 0;
    for entry in fs::read_dir(mount.join("many")).unwrap() {
        bytes += entry.unwrap().metadata().unwrap().len();
    }
    eprintln!("listed with attributes in {:.1?}", began.elapsed());
    assert_eq!(bytes, (0..count).map(|number| number.to_string().len() as u64).sum::<u64>());
    for number in [0, 54_321, count - 1] {
        assert_eq!(fs::read_to_string(mount.join(format!("many/{number:06}"))).unwrap(), number.to_string());
    }
    assert!(!mount.join("many/100000").exists());
    drop(reader);
}
