//! `get`: whole files out of the network, with and without what can go wrong on either side.

// clippy.toml lets only test functions unwrap, and all of this file is tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::contents::{files_below, hash_of, random_file, text_file};
use common::{Network, Node};

const MIB: u64 = 1 << 20;

/// Two nodes that share folders of their own, and one that shares nothing.
struct Shares {
    sources: Vec<Node>,
    reader: Node,
    network: Network,
}

impl Shares {
    /// `files`: which source shares what, with which text.
    fn new(files: &[(&str, &str, &str)]) -> Self {
        let network = Network::new();
        ["a", "b"].iter().for_each(|name| fs::create_dir_all(network.path("shares").join(name)).unwrap());
        for (source, path, text) in files {
            text_file(&network.path("shares").join(source).join(path), text);
        }
        let source = |name: &&str| network.source(name, &network.path("shares").join(name));
        let sources: Vec<Node> = ["a", "b"].iter().map(source).collect();
        let mut reader = network.node("reader");
        reader.settings("mount.timeout = \"2s\"\n");
        reader.stop();
        reader.start();
        reader.has_peers(2);
        for (_, path, _) in files {
            reader.sees(path, 1);
        }
        fs::create_dir(network.path("got")).unwrap();
        Self { sources, reader, network }
    }

    fn dest(&self) -> PathBuf {
        self.network.path("got")
    }

    fn got(&self) -> Vec<PathBuf> {
        files_below(&self.dest())
    }
}

#[test]
fn get_copies_files_and_folders_without_a_mount() {
    let shares = Shares::new(&[("a", "folder/one.txt", "one"), ("b", "folder/deep/two.txt", "two")]);
    let (network, reader, dest) = (&shares.network, &shares.reader, shares.dest());
    let (first, second, size) = (network.path("shares/a/file"), network.path("shares/b/file"), 48 * MIB);
    let hash = random_file(&first, size, "whole");
    fs::hard_link(&first, &second).unwrap();
    reader.sees("file", 2);
    let got = reader.json(["get", "file", "folder", dest.to_str().unwrap()]);
    assert_eq!((&got["files"], &got["bytes"]), (&3.into(), &(size + 6).into()));
    assert_eq!(hash_of(&dest.join("file")), hash);
    assert_eq!(shares.got(), ["file", "folder/deep/two.txt", "folder/one.txt"].map(Path::new));
    let again = reader.json(["get", "file", dest.to_str().unwrap()]);
    assert_eq!(again["bytes"], size);
    let to_stdout = reader.run(["get", "file", "-"]).ok();
    assert_eq!(blake3::hash(&to_stdout.stdout).to_hex().as_str(), hash);
    reader.run(["get", "nothing", dest.to_str().unwrap()]).refused(3, "nothing");
}

#[test]
fn two_files_that_would_have_one_name_are_refused_and_one_asked_for_twice_comes_once() {
    let shares = Shares::new(&[("a", "x/same", "one"), ("b", "y/same", "another"), ("b", "z/same", "another")]);
    let (reader, dest) = (&shares.reader, shares.dest());
    let to = dest.to_str().unwrap();
    let said = reader.run(["get", "x/same", "y/same", to]).refused(4, "both");
    assert!(said.contains("x/same") && said.contains("y/same"), "{said}");
    assert_eq!(shares.got(), Vec::<PathBuf>::new());
    // The same bytes: nothing is lost.
    let got = reader.json(["get", "y/same", "z/same", "y/same", to]);
    assert_eq!(got["files"], 1);
    assert_eq!(fs::read_to_string(dest.join("same")).unwrap(), "another");
}

#[test]
fn what_can_not_come_does_not_keep_the_rest_away() {
    let files: Vec<(String, String)> = (0..20).map(|n| (format!("folder/{n:02}"), format!("text {n}"))).collect();
    let all: Vec<(&str, &str, &str)> =
        files.iter().enumerate().map(|(n, (path, text))| (["a", "b"][n % 2], path.as_str(), text.as_str())).collect();
    let mut shares = Shares::new(&all);
    shares.sources[0].kill();
    let to = shares.dest();
    let said = shares.reader.run(["get", "folder", to.to_str().unwrap()]).refused(6, "10 of 20");
    assert!(said.contains("the others did"), "{said}");
    let odd: Vec<PathBuf> = (0..20).filter(|n| n % 2 == 1).map(|n| format!("folder/{n:02}").into()).collect();
    // What was begun is kept for the next time.
    let whole: Vec<PathBuf> = shares.got().into_iter().filter(|path| !is_part(path)).collect();
    assert_eq!(whole, odd);
    shares.sources[0].start();
    let reader = &shares.reader;
    reader.sees("folder/00", 1);
    let got = reader.json(["get", "folder", to.to_str().unwrap()]);
    assert_eq!(got["files"], 20);
    assert_eq!(shares.got().len(), 20);
}

fn is_part(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains(".flashget-part-"))
}

#[test]
fn what_lies_in_the_way_is_neither_followed_nor_overwritten() {
    let shares = Shares::new(&[("a", "file", "text")]);
    let (reader, dest) = (&shares.reader, shares.dest());
    let to = dest.join("file");
    let get = || reader.run(["get", "file", to.to_str().unwrap()]);
    let elsewhere = shares.network.path("elsewhere");
    fs::write(&elsewhere, "mine").unwrap();

    std::os::unix::fs::symlink(&elsewhere, &to).unwrap();
    get().refused(4, "not a regular file");
    fs::remove_file(&to).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &to, rustix::fs::Mode::RWXU).unwrap();
    get().refused(4, "not a regular file");
    fs::remove_file(&to).unwrap();
    fs::create_dir(dest.join("folder")).unwrap();

    // Whatever somebody puts where the part file will be.
    let root = reader.stat("file").unwrap().root.unwrap().to_string();
    let part = dest.join(format!(".file.flashget-part-{}", &root[..12]));
    fs::hard_link(&elsewhere, &part).unwrap();
    get().refused(4, "in the way");
    fs::remove_file(&part).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &part).unwrap();
    get().refused(1, "file");
    fs::remove_file(&part).unwrap();
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "mine");

    get().ok();
    assert_eq!(fs::read_to_string(&to).unwrap(), "text");
}

#[test]
fn whoever_reads_only_the_beginning_of_stdout_gets_no_error() {
    let shares = Shares::new(&[("a", "small", "text")]);
    let size = 8 * MIB;
    random_file(&shares.network.path("shares/a/big"), size, "head");
    shares.reader.sees("big", 1);
    let mut get = shares.reader.command();
    let mut get = get.args(["get", "big", "-"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let head = Command::new("head").args(["-c", "1000"]).stdin(get.stdout.take().unwrap()).output().unwrap();
    assert_eq!(head.stdout.len(), 1000);
    let ended = get.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert!(ended.stderr.is_empty(), "{ended:?}");
}

#[test]
fn what_is_called_as_the_part_file_of_another_does_not_take_its_place() {
    let shares = Shares::new(&[("a", "folder/plain", "what it is")]);
    let (network, reader, dest) = (&shares.network, &shares.reader, shares.dest());
    let root = reader.stat("folder/plain").unwrap().root.unwrap().to_string();
    // Hidden files are shared where that was asked for.
    let trap = format!(".plain.flashget-part-{}", &root[..12]);
    text_file(&network.path("hidden/folder").join(&trap), "something else");
    let source = &shares.sources[1];
    source.ok(["share", "add", network.path("hidden").to_str().unwrap(), "--hidden"]);
    reader.sees(&format!("folder/{trap}"), 1);
    reader.run(["get", "folder", dest.to_str().unwrap()]).refused(4, "part file");
    assert_eq!(shares.got(), Vec::<PathBuf>::new());
    reader.ok(["get", &format!("folder/{trap}"), dest.join("other").to_str().unwrap()]);
    reader.ok(["get", "folder/plain", dest.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(dest.join("plain")).unwrap(), "what it is");
}

#[test]
fn long_names_that_begin_alike_do_not_stand_in_each_others_way() {
    let names: Vec<String> = (0..6).map(|n| format!("folder/{}{n}", "n".repeat(247))).collect();
    let files: Vec<(&str, &str, &str)> = names.iter().map(|name| ("a", name.as_str(), "the same content")).collect();
    let shares = Shares::new(&files);
    let got = shares.reader.json(["get", "folder", shares.dest().to_str().unwrap()]);
    assert_eq!(got["files"], 6);
    assert_eq!(shares.got().len(), 6);
}
