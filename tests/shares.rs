//! Shares: what of a folder is published, where it appears, and how soon changes are seen elsewhere.

// clippy.toml lets only test functions unwrap, and all of this file is tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::contents::{MIB, hash_of, random_file, text_file};
use common::process::tool;
use common::wait::{until, until_within};
use common::{Network, Node};
use flashget::control::Request;

/// A change has to be seen within 2 s of its settling; a machine that is busy with other tests gets more.
const SEEN: Duration = Duration::from_secs(5);

/// Lists a folder of a mount by `ls`, as people do.
fn ls(dir: &Path) -> Vec<String> {
    tool("ls", ["-1A".as_ref(), dir.as_os_str()]).text().lines().map(str::to_owned).collect()
}

fn seen_within(what: &str, look: impl FnMut() -> bool) {
    let began = Instant::now();
    let mut look = look;
    until_within(SEEN, what, || look().then_some(()));
    eprintln!("{what}: after {:.2?}", began.elapsed());
}

#[test]
fn the_first_mount_of_a_node_shows_what_the_node_itself_shares() {
    let network = Network::new();
    let share = network.path("share");
    random_file(&share.join("big"), 20 * MIB, "own");
    text_file(&share.join("small.txt"), "small");
    let node = network.member("node");
    // Without a daemon: the one that the mount starts has hashed nothing yet.
    node.share(&share);
    let mounted: serde_json::Value = serde_json::from_str(&node.mount_with(&["--json"])).unwrap();
    assert_eq!(mounted["files"], 2, "{mounted}");
    assert_eq!(ls(&node.mount_point), ["big", "small.txt"]);
    // What was withdrawn while no daemon ran is not published by the next one.
    node.umount();
    node.ok(["stop"]);
    node.ends();
    node.ok([OsStr::new("share"), "remove".as_ref(), share.as_os_str()]);
    node.mount();
    assert!(ls(&node.mount_point).is_empty());
}

#[test]
fn changes_in_a_share_are_seen_in_other_mounts_within_seconds() {
    let network = Network::new();
    let share = network.path("share");
    text_file(&share.join("old.txt"), "old");
    text_file(&share.join("folder/inside.txt"), "inside");
    let _source = network.source("source", &share);
    let reader = network.node("reader");
    let mount = reader.mount();
    seen_within("the first files are there", || ls(&mount) == ["folder", "old.txt"]);
    assert_eq!(fs::read_to_string(mount.join("old.txt")).unwrap(), "old");

    let hash = random_file(&share.join("folder/new.bin"), 3 * MIB, "new");
    seen_within("a new file", || ls(&mount.join("folder")) == ["inside.txt", "new.bin"]);
    assert_eq!(hash_of(&mount.join("folder/new.bin")), hash);

    let mut open = fs::File::open(mount.join("old.txt")).unwrap();
    text_file(&share.join("old.txt"), "new, and longer");
    seen_within("a changed file", || {
        fs::read_to_string(mount.join("old.txt")).is_ok_and(|text| text == "new, and longer")
    });
    let mut text = String::new();
    std::io::Read::read_to_string(&mut open, &mut text).unwrap();
    assert_eq!(text, "old", "an open file stays the one that was opened");

    fs::remove_file(share.join("old.txt")).unwrap();
    seen_within("a removed file", || ls(&mount) == ["folder"]);
    assert_eq!(fs::metadata(mount.join("old.txt")).unwrap_err().kind(), std::io::ErrorKind::NotFound);

    fs::rename(share.join("folder"), share.join("renamed")).unwrap();
    seen_within("a renamed folder", || ls(&mount) == ["renamed"]);
    assert_eq!(hash_of(&mount.join("renamed/new.bin")), hash);

    fs::create_dir_all(share.join("a/b/c")).unwrap();
    text_file(&share.join("a/b/c/deep.txt"), "deep");
    seen_within("a file in new folders", || mount.join("a/b/c/deep.txt").is_file());

    text_file(&share.join(".flashgetignore"), "*.bin\n/a\n");
    seen_within("what is ignored from now on", || {
        ls(&mount) == ["renamed"] && ls(&mount.join("renamed")) == ["inside.txt"]
    });
    fs::remove_dir_all(share.join("renamed")).unwrap();
    seen_within("nothing is left", || ls(&mount).is_empty());
}

#[test]
fn a_share_that_is_added_or_removed_while_others_look_comes_and_goes() {
    let network = Network::new();
    let (first, second) = (network.path("first"), network.path("second"));
    text_file(&first.join("one"), "1");
    text_file(&second.join("two"), "2");
    let source = network.source("source", &first);
    let reader = network.node("reader");
    let mount = reader.mount();
    seen_within("the first share", || ls(&mount) == ["one"]);
    source.share(&second);
    seen_within("the second share", || ls(&mount) == ["one", "two"]);
    source.ok([Path::new("share"), "remove".as_ref(), &first]);
    seen_within("the first share has gone", || ls(&mount) == ["two"]);
    assert_eq!(source.json(["share", "list"])["shares"].as_array().unwrap().len(), 1);
}

#[test]
fn only_what_is_meant_to_be_shared_is_and_it_appears_where_it_is_put() {
    let network = Network::new();
    let share = network.path("share");
    for file in ["plain", "sub/plain", ".hidden", ".ssh/id_ed25519", "build/out.o", "sub/notes.log", "sub/keep.log"] {
        text_file(&share.join(file), file);
    }
    text_file(&share.join(".flashgetignore"), "*.log\n!keep.log\n/build\n");
    std::os::unix::fs::symlink("/etc/passwd", share.join("link")).unwrap();
    std::os::unix::fs::symlink("/etc", share.join("folder-link")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, share.join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let home_inside = network.member("inside");
    fs::rename(&home_inside.home, share.join("home")).unwrap();

    let shown = ["plain", "sub/keep.log", "sub/plain"];
    let hidden = [".hidden", ".ssh/id_ed25519", "plain", "sub/keep.log", "sub/plain"];
    let source = network.source("source", &share);
    let reader = network.node("reader");
    until("what is meant to be shared is seen", || reader.listing() == shown);
    source.ok([Path::new("share"), "remove".as_ref(), &share]);
    source.ok([Path::new("share"), "add".as_ref(), &share, "--hidden".as_ref(), "--at".as_ref(), "lab/all".as_ref()]);
    let at = hidden.map(|path| format!("lab/all/{path}"));
    until("hidden files are seen where they were put", || reader.listing() == at);
    let report = &source.json(["share", "list"])["shares"][0];
    assert_eq!((&report["at"], &report["hidden"], &report["files"]), (&"lab/all".into(), &true.into(), &5.into()));
    let mount = reader.mount();
    assert_eq!(fs::read_to_string(mount.join("lab/all/.ssh/id_ed25519")).unwrap(), ".ssh/id_ed25519");
}

#[test]
fn files_of_one_path_and_different_contents_are_both_there_under_names_on_which_all_agree() {
    let network = Network::new();
    let shares = ["a", "b", "c"].map(|name| network.path("shares").join(name));
    text_file(&shares[0].join("docs/report.txt"), "the one that two have");
    text_file(&shares[1].join("docs/report.txt"), "the one that one has");
    text_file(&shares[2].join("docs/report.txt"), "the one that two have");
    let sources: Vec<Node> =
        ["a", "b", "c"].iter().zip(&shares).map(|(name, share)| network.source(name, share)).collect();
    let other = hash_of(&shares[1].join("docs/report.txt"));
    let suffixed = format!("report~{}.txt", &other[..12]);
    let reader = network.node("reader");
    let paths = ["docs/report.txt".to_owned(), format!("docs/{suffixed}")];
    for node in sources.iter().chain([&reader]) {
        until("all see both, and agree", || node.listing() == paths);
        node.sees("docs/report.txt", 2);
    }
    let mount = reader.mount();
    assert_eq!(fs::read_to_string(mount.join("docs/report.txt")).unwrap(), "the one that two have");
    assert_eq!(fs::read_to_string(mount.join("docs").join(&suffixed)).unwrap(), "the one that one has");
}

#[test]
fn a_restart_hashes_nothing_again() {
    let size = 512 * MIB;
    let network = Network::new();
    let share = network.path("share");
    random_file(&share.join("big.bin"), size, "big");
    for i in 0..200 {
        text_file(&share.join(format!("small/{i}")), i.to_string());
    }
    // A file that was changed a moment before it is hashed is hashed once more after a restart.
    std::thread::sleep(Duration::from_millis(500));
    let mut source = network.source("source", &share);
    assert_eq!(source.status().shares[0].files, 201);
    source.stop();
    source.start();
    let read = |pid: rustix::process::Pid| {
        let io = fs::read_to_string(format!("/proc/{}/io", pid.as_raw_nonzero())).unwrap();
        io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse::<u64>().unwrap()
    };
    let mut most = 0;
    until("the share has been looked at", || {
        let share = &source.status().shares[0];
        most = most.max(share.to_hash);
        share.state == "watching" && share.files == 201
    });
    assert_eq!(most, 0, "nothing was to be hashed");
    let read = read(source.pid().unwrap());
    assert!(read < size / 8, "it read {read} bytes");

    // What did change meanwhile is noticed, and nothing else.
    source.stop();
    text_file(&share.join("small/7"), "changed");
    source.start();
    let reader = network.node("reader");
    let changed = hash_of(&share.join("small/7"));
    until("the change is seen", || {
        reader.stat("small/7").is_some_and(|entry| entry.root.unwrap().to_string() == changed)
    });
    assert!(
        matches!(source.ask(&Request::ShareList), Ok(flashget::control::Report::Shares(all)) if all[0].to_hash == 0)
    );
}

#[test]
fn a_share_that_vanishes_offers_nothing_until_it_is_back() {
    let network = Network::new();
    let share = network.path("share");
    text_file(&share.join("file"), "here");
    // Old enough to be known by its times when it is back.
    std::thread::sleep(Duration::from_millis(500));
    let mut source = network.source("source", &share);
    let reader = network.node("reader");
    reader.sees("file", 1);
    source.stop();
    fs::rename(&share, network.path("away")).unwrap();
    source.start();
    until("the share has failed", || source.status().shares[0].state == "failed");
    reader.misses("file");
    fs::rename(network.path("away"), &share).unwrap();
    // An unwatched share is looked for every 30 s.
    until_within(Duration::from_secs(60), "the share is back", || reader.stat("file").filter(|file| file.sources == 1));
}
