//! Copying from the mount, from several sources at once, and while sources go.

// clippy.toml lets only test functions unwrap, and all of this file is tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use common::contents::{MIB, files_below, hash_of, random_file, text_file};
use common::process::tool;
use common::wait::until_within;
use common::{Network, Node};
use rustix::process::Signal;

/// What `transfers` says of the newest transfer of `path`: each source's name and the bytes that it brought.
fn parts(node: &Node, path: &str) -> Vec<(String, u64)> {
    let transfers = node.json(["transfers"]);
    let all = transfers["transfers"].as_array().unwrap();
    let transfer = all.iter().find(|transfer| transfer["path"] == path).expect("a transfer");
    let part =
        |source: &serde_json::Value| (source["name"].as_str().unwrap().to_owned(), source["bytes"].as_u64().unwrap());
    transfer["sources"].as_array().unwrap().iter().map(part).collect()
}

#[test]
fn five_nodes_show_one_tree_and_three_sources_deliver_one_file() {
    let size = 512 * MIB;
    let network = Network::new();
    let image = network.path("shares/a/images/disk.img");
    let hash = random_file(&image, size, "disk");
    for name in ["b", "c"] {
        let dir = network.path(format!("shares/{name}/images"));
        fs::create_dir_all(&dir).unwrap();
        fs::hard_link(&image, dir.join("disk.img")).unwrap();
    }
    text_file(&network.path("shares/d/papers/one.txt"), "one\n");
    text_file(&network.path("shares/d/top.txt"), "top\n");
    text_file(&network.path("shares/e/papers/two.txt"), "two\n");
    text_file(&network.path("shares/e/papers/old/three.txt"), "three\n");
    let sources: Vec<Node> =
        ["a", "b", "c", "d", "e"].iter().map(|name| network.source(name, &network.path("shares").join(name))).collect();
    let reader = network.node("reader");
    let mount = reader.mount();
    reader.sees("images/disk.img", 3);
    for path in ["papers/one.txt", "papers/two.txt", "papers/old/three.txt", "top.txt"] {
        reader.sees(path, 1);
    }

    let listed = tool("ls", ["-lR".as_ref(), mount.as_os_str()]).text();
    let expected = ["images/disk.img", "papers/old/three.txt", "papers/one.txt", "papers/two.txt", "top.txt"];
    assert_eq!(files_below(&mount), expected.map(Path::new));
    for path in expected {
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        assert_eq!(listed.lines().filter(|line| line.ends_with(&format!(" {name}"))).count(), 1, "{listed}");
    }
    let line = listed.lines().find(|line| line.ends_with(" disk.img")).unwrap();
    assert!(line.starts_with("-r--r--r--") && line.contains(&format!(" {size} ")), "{line}");

    let copy = network.path("copy.img");
    let copied = tool("cp", [mount.join("images/disk.img").as_os_str(), copy.as_os_str()]);
    eprintln!("512 MiB from three sources: {:.1?}", copied.took);
    assert_eq!(hash_of(&copy), hash);
    assert_eq!(reader.stat("images/disk.img").unwrap().root.unwrap().to_string(), hash);

    let parts = parts(&reader, "images/disk.img");
    // A few chunks may have been asked of two sources, or twice where the disk did not keep up with the cache.
    let all: u64 = parts.iter().map(|(_, bytes)| bytes).sum();
    assert!((size..size + size / 10).contains(&all), "{all} {parts:?}");
    for name in ["a", "b", "c"] {
        let (_, bytes) = parts.iter().find(|(source, _)| source == name).unwrap();
        // A third each, give or take: no source was left to idle.
        assert!(*bytes > size / 20, "{name} brought too little: {parts:?}");
    }
    assert_eq!(parts.len(), 3, "{parts:?}");
    drop(sources);
}

/// Three nodes that share one file of `size` bytes, and another one that has it mounted.
struct Three {
    hash: String,
    size: u64,
    sources: Vec<Node>,
    reader: Node,
    /// Undoes everything when dropped.
    _network: Network,
}

impl Three {
    fn new(size: u64) -> Self {
        let network = Network::new();
        let first = network.path("shares/a/file");
        let hash = random_file(&first, size, "three");
        for name in ["b", "c"] {
            let dir = network.path("shares").join(name);
            fs::create_dir(&dir).unwrap();
            fs::hard_link(&first, dir.join("file")).unwrap();
        }
        let source = |name: &&str| network.source(name, &network.path("shares").join(name));
        let sources: Vec<Node> = ["a", "b", "c"].iter().map(source).collect();
        let reader = network.node("reader");
        reader.mount();
        reader.sees("file", 3);
        Self { hash, size, sources, reader, _network: network }
    }

    /// Verified bytes that have come, of all and of one source.
    fn came(&self, name: &str) -> (u64, u64) {
        let transfers = self.reader.transfers();
        let transfer = &transfers[0].transfer;
        let of = transfer.sources.iter().find(|source| source.name == name).map_or(0, |source| source.bytes);
        (transfer.bytes, of)
    }

    /// Copies the file by `cp`, and does something to source "a" in the middle of it. Returns how long the rest took.
    fn copy_and(&mut self, act: impl FnOnce(&mut Node)) -> Duration {
        // Into a pipe: so this test says how far cp gets.
        let mut cp = Command::new("cp");
        cp.arg(self.reader.mount_point.join("file")).arg("/dev/stdout").stdout(Stdio::piped());
        let mut cp = cp.spawn().unwrap();
        let mut copy = Copy { out: cp.stdout.take().unwrap(), hasher: blake3::Hasher::new() };
        copy.read(self.size / 5);
        let (all, of_victim) = self.came("a");
        let percent = all * 100 / self.size;
        assert!((10..60).contains(&percent), "in the middle of it, but {percent} % have come");
        assert!(of_victim > 0, "it was a source of this copy");
        let began = Instant::now();
        act(&mut self.sources[0]);
        copy.read(self.size - self.size / 5);
        assert_eq!(copy.out.read(&mut [0]).unwrap(), 0);
        assert!(cp.wait().unwrap().success());
        assert_eq!(copy.hasher.finalize().to_hex().as_str(), self.hash);
        let (all, of_victim) = self.came("a");
        assert!(all >= self.size);
        assert!(of_victim < self.size / 2, "the others brought the rest");
        began.elapsed()
    }
}

struct Copy {
    out: ChildStdout,
    hasher: blake3::Hasher,
}

impl Copy {
    fn read(&mut self, len: u64) {
        let mut buffer = vec![0; 1 << 16];
        let mut left = len;
        while left > 0 {
            let part = &mut buffer[..left.min(1 << 16) as usize];
            self.out.read_exact(part).unwrap();
            self.hasher.update(part);
            left -= part.len() as u64;
        }
    }
}

#[test]
fn a_source_that_is_killed_in_mid_copy_leaves_the_copy_right() {
    let mut three = Three::new(256 * MIB);
    let took = three.copy_and(Node::kill);
    eprintln!("the rest of the copy, after a source was killed: {took:.1?}");
    let reader = &three.reader;
    until_within(Duration::from_secs(20), "the dead source counts no more", || {
        (reader.stat("file").unwrap().sources == 2).then_some(())
    });
}

#[test]
fn a_source_that_falls_silent_in_mid_copy_leaves_the_copy_right() {
    let mut three = Three::new(256 * MIB);
    let took = three.copy_and(|source| source.signal(Signal::STOP));
    eprintln!("the rest of the copy, after a source fell silent: {took:.1?}");
    three.sources[0].signal(Signal::CONT);
}

#[test]
fn when_every_source_is_gone_reads_fail_and_names_stay() {
    let mut three = Three::new(32 * MIB);
    for source in &mut three.sources {
        source.kill();
    }
    let file = three.reader.mount_point.join("file");
    let began = Instant::now();
    let error = fs::read(&file).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10), "it fails fast: {:?}", began.elapsed());
    assert_eq!(fs::metadata(&file).unwrap().len(), three.size);

    three.sources[1].start();
    three.reader.sees("file", 1);
    assert_eq!(hash_of(&file), three.hash);
}
