//! Bad input: each gets one clear line on stderr and the documented exit code, and changes nothing.

// clippy.toml lets only test functions unwrap, and all of this file is tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::contents::{files_below, text_file};
use common::mounts::is_mounted;
use common::process::Output;
use common::{Network, Node};

/// What a refusal must not touch: every file of the home but the lock and the log, and what the commands list.
#[derive(PartialEq, Eq, Debug)]
struct State {
    files: BTreeMap<PathBuf, blake3::Hash>,
    networks: String,
    shares: String,
    mounts: String,
}

fn state(node: &Node) -> State {
    let running = node.pid().is_some();
    // A running daemon saves what it learns at its own time.
    let settled = |path: &PathBuf| {
        let path = path.to_str().unwrap();
        let alive =
            running && ["state/index", "state/peers", "state/catalogs", "cache"].iter().any(|at| path.starts_with(at));
        !alive && !path.ends_with("lock") && !path.ends_with("daemon.log") && !path.ends_with(".sock")
    };
    let files = files_below(&node.home).into_iter().filter(settled);
    let hash = |path: PathBuf| {
        let hash = blake3::hash(&fs::read(node.home.join(&path)).unwrap());
        (path, hash)
    };
    let names = |list: &str, field: &str| {
        let listed = node.run([list, "list", "--json"]);
        if listed.code() != 0 {
            return listed.stderr;
        }
        let json: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
        let all = json[format!("{list}s")].as_array().unwrap();
        all.iter().map(|one| format!("{} {};", one[field], one["network"])).collect()
    };
    State {
        files: files.map(hash).collect(),
        networks: names("network", "name"),
        shares: names("share", "dir"),
        mounts: if running {
            format!("{:?}", node.status().mounts.iter().map(|m| m.dir.clone()).collect::<Vec<_>>())
        } else {
            String::new()
        },
    }
}

/// Does something that is refused, and sees that nothing changes.
fn refused(node: &Node, code: i32, says: &str, act: impl FnOnce() -> Output) -> String {
    let before = state(node);
    let said = act().refused(code, says);
    assert_eq!(state(node), before, "after: {said}");
    said
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_broken_invite_is_refused() {
    let network = Network::new();
    let good = network.invite.clone();
    let middle = good.len() / 2;
    let other = if good.as_bytes()[middle] == b'a' { "b" } else { "a" };
    let altered = format!("{}{other}{}", &good[..middle], &good[middle + 1..]);
    let broken = [altered.as_str(), &good[..good.len() - 1], &good[1..], "flashget1-", "hello", ""];
    let other_network = Network::named("other");
    let (fresh, member) = (network.outsider("fresh"), other_network.member("member"));
    let running = other_network.node("running");
    for node in [&fresh, &member, &running] {
        for invite in broken {
            refused(node, 2, "invite", || node.run_with(["network", "join", "-"], invite.as_bytes()));
            if !invite.is_empty() {
                refused(node, 2, "invite", || node.run(["network", "join", invite]));
            }
        }
        let none = node.run(["network", "join"]);
        assert_eq!((none.code(), none.text().as_str()), (2, ""));
        assert!(none.stderr.contains("INVITE"), "{}", none.stderr);
    }
    assert!(!fresh.home.join("state/vault").exists() && !fresh.home.join("state/key").exists());
    // Two things can't be read from one stdin.
    let both = ["--passphrase-file", "-", "network", "join", "-"];
    refused(&fresh, 2, "both come from stdin", || fresh.run_with(both, format!("secret\n{good}").as_bytes()));
    // The errors repeat nothing of the secret.
    let said = fresh.run(["network", "join", &altered]).stderr;
    assert!(!said.contains(&good[good.len() / 4..good.len() / 2]), "{said}");
    for node in [&member, &running] {
        refused(node, 4, "already", || node.run(["network", "join", &other_network.invite]));
    }
}

#[test]
fn a_network_that_makes_no_sense_is_not_made() {
    let network = Network::new();
    let fresh = network.outsider("fresh");
    let running = network.node("running");
    for node in [&fresh, &running] {
        for name in ["", "a/b", "a\nb", "a\u{202e}b"] {
            refused(node, 2, "network's name", || node.run(["network", "create", name]));
        }
        refused(node, 2, "address", || node.run(["network", "create", "new", "--tracker", "nowhere:port"]));
        refused(node, 2, "address", || node.run(["network", "create", "new", "--tracker", "host:0"]));
    }
    refused(&running, 4, "already", || running.run(["network", "create", "lab"]));
    assert!(!fresh.home.join("state/vault").exists());
}

#[test]
fn what_is_not_there_is_not_found() {
    let network = Network::new();
    let (fresh, idle, running) = (network.outsider("fresh"), network.member("idle"), network.node("running"));
    let dir = network.path("dir");
    fs::create_dir(&dir).unwrap();
    let missing = network.path("missing");
    for args in [vec!["network", "invite", "lab"], vec!["share", "add", text(&dir)], vec!["mount", text(&dir)]] {
        refused(&fresh, 3, "in no network", || fresh.run(&args));
    }
    for node in [&idle, &running] {
        refused(node, 3, "'nets'", || node.run(["network", "invite", "nets"]));
        refused(node, 3, "'nets'", || node.run(["network", "leave", "nets"]));
        refused(node, 3, "'nets'", || node.run(["share", "add", text(&dir), "--network", "nets"]));
        refused(node, 3, "missing", || node.run(["share", "add", text(&missing)]));
        refused(node, 3, "not shared", || node.run(["share", "remove", text(&dir)]));
        refused(node, 3, "not mounted", || node.run(["umount", text(&dir)]));
    }
    refused(&running, 3, "'nets'", || running.run(["mount", "nets", text(&dir)]));
    refused(&running, 3, "no 'file'", || running.run(["stat", "file"]));
    refused(&running, 3, "no 'file'", || running.run(["ls", "file"]));
    refused(&running, 3, "'nets'", || running.run(["ls", "--network", "nets"]));
    for command in ["status", "peers", "transfers", "ls", "stop"] {
        refused(&idle, 8, "no daemon", || idle.run([command]));
    }
}

#[test]
fn what_can_not_be_shared_is_refused() {
    let network = Network::new();
    let share = network.path("around/share");
    text_file(&share.join("inner/file"), "x");
    let file = share.join("inner/file");
    let (idle, running) = (network.member("idle"), network.node("running"));
    let mount = running.mount();
    for node in [&idle, &running] {
        node.ok(["share", "add", text(&share)]);
        refused(node, 2, "not a folder", || node.run(["share", "add", text(&file)]));
        for again in [&share, &share.join("inner"), &network.path("around"), &share.join("../share/inner/..")] {
            refused(node, 4, "shared already", || node.run(["share", "add", text(again)]));
        }
        for overlap in [mount.as_path(), mount.parent().unwrap(), &mount.join("below")] {
            refused(node, 4, "may not contain each other", || node.run(["share", "add", text(overlap)]));
        }
        let own = node.home.join("state");
        refused(node, 4, "keeps its own files", || node.run(["share", "add", text(&own)]));
        for at in ["..", "a/../b"] {
            refused(node, 2, "", || node.run(["share", "add", text(&mount.join("../../around")), "--at", at]));
        }
    }
    let unshared = network.path("unshared");
    fs::create_dir(&unshared).unwrap();
    refused(&idle, 2, "hidden", || {
        let out = idle.run(["share", "add", text(&unshared), "--hiden"]);
        // An argument that does not exist is explained at length: only its first line is looked at here.
        let first = out.stderr.lines().next().unwrap_or_default();
        assert!(first.contains("unexpected argument '--hiden'"), "{first}");
        Output { stderr: "flashget: see above: --hidden\n".into(), ..out }
    });
}

#[test]
fn what_can_not_be_mounted_on_is_refused() {
    let network = Network::new();
    let share = network.path("around/share");
    text_file(&share.join("inner/file"), "x");
    let node = network.node("node");
    node.share(&share);
    let missing = network.path("missing");
    let mount = |dir: &Path| node.run(["mount", text(dir)]);
    refused(&node, 3, "make it first", || mount(&missing));
    refused(&node, 2, "not a folder", || mount(&share.join("inner/file")));
    for overlap in [share.as_path(), &share.join("inner"), &network.path("around")] {
        refused(&node, 4, "may not contain each other", || mount(overlap));
    }
    for own in [node.home.as_path(), &node.home.join("cache")] {
        refused(&node, 4, "keeps its own files", || mount(own));
    }
    node.mount();
    refused(&node, 4, "busy", || mount(&node.mount_point));
    refused(&node, 4, "in the flashget mount", || mount(&node.mount_point.join("inner")));
    let other = network.node("other");
    refused(&other, 4, "busy", || other.run(["mount", text(&node.mount_point)]));
    assert!(is_mounted(&node.mount_point));
    for (option, says) in [("frobnicate", "'frobnicate'"), ("uid", "uid"), ("umask=9", "umask"), ("rw", "read-only")] {
        refused(&other, 2, says, || other.run(["mount", text(&other.mount_point), "-o", option]));
    }
    for option in ["cache_size=1G", "linger=7s", "peer=192.0.2.7:7450", "tracker=192.0.2.7", "keyfile=/etc/hostname"] {
        let name = option.split('=').next().unwrap();
        refused(&other, 4, name, || other.run(["mount", text(&other.mount_point), "-o", option]));
    }
    let many = other.run(["mount", "lab", text(&other.mount_point), "more"]);
    assert_eq!((many.code(), many.text().as_str()), (2, ""));
    assert!(!is_mounted(&other.mount_point));
}

#[test]
fn a_cache_on_another_disk_is_neither_shared_nor_mounted_over_and_what_lies_beside_it_stays() {
    let network = Network::new();
    let disk = network.path("disk");
    let theirs = disk.join("files/photos/holiday.jpg");
    text_file(&theirs, "x");
    let mut node = network.member("node");
    let other = network.member("other");
    for node in [&node, &other] {
        node.settings(&format!("cache.dir = \"{}\"\n", text(&disk)));
    }
    node.start();
    let cache = disk.join("flashget-cache");
    refused(&node, 4, "keeps its own files", || node.run(["share", "add", text(&cache.join("files"))]));
    for point in [&disk, &cache, &cache.join("files")] {
        refused(&node, 4, "keeps its own files", || node.run(["mount", text(point)]));
    }
    refused(&other, 4, "another home's cache", || other.run(["daemon"]));
    node.share(&disk);
    assert_eq!(node.listing(), ["files/photos/holiday.jpg"]);
    node.stop();
    node.start();
    assert!(theirs.exists());
}

#[test]
fn a_second_daemon_on_the_same_home_is_refused() {
    let network = Network::new();
    let node = network.node("node");
    let pid = node.pid();
    refused(&node, 4, "another flashget daemon", || node.run(["daemon"]));
    assert_eq!(node.pid(), pid);
    node.status();
    let other = network.member("other");
    refused(&other, 4, "--listen", || other.run(["daemon", "--listen", &node.addr.to_string()]));
    refused(&other, 2, "log level", || other.run(["daemon", "--log-level", "a=b=c"]));
    refused(&other, 2, "log format", || other.run(["daemon", "--log-format", "xml"]));
    let tracker = network.in_tracker_home(&["tracker", "--listen", &network.tracker_addr().to_string()]);
    tracker.refused(4, "--listen");
    assert!(other.pid().is_none());
}

#[test]
fn a_vault_opens_with_its_own_key_alone() {
    let network = Network::new();
    let secret = network.path("passphrase");
    let wrong = network.path("wrong");
    text_file(&secret, "correct horse battery staple\n");
    text_file(&wrong, "incorrect\n");
    text_file(&network.path("empty"), "");
    for file in [&secret, &wrong, &network.path("empty")] {
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let node = network.outsider("locked");
    let with = |file: &Path, args: &[&str]| node.run(["--passphrase-file", text(file)].iter().chain(args));
    node.run_with(["--passphrase-file", text(&secret), "network", "join", "-"], network.invite.as_bytes()).ok();
    assert!(!node.home.join("state/key").exists());
    let dir = network.path("dir");
    fs::create_dir(&dir).unwrap();

    // Nobody but its owner may read it, and it is not overlooked where a vault would be made with it.
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    refused(&node, 5, "chmod 600", || with(&secret, &["network", "list"]));
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();

    let locked = "the vault is locked by a passphrase";
    for args in [vec!["network", "list"], vec!["share", "add", text(&dir)], vec!["mount", text(&dir)], vec!["daemon"]] {
        refused(&node, 5, locked, || node.run(&args));
        refused(&node, 5, "wrong passphrase", || with(&wrong, &args));
        refused(&node, 2, "is empty", || with(&network.path("empty"), &args));
    }
    assert!(node.pid().is_none() && !is_mounted(&dir));
    let listed = with(&secret, &["network", "list"]).ok().text();
    assert!(listed.contains("lab"), "{listed}");

    // A daemon that mount starts gets the passphrase too, and shows it to nobody.
    network.undo.mount(&dir);
    with(&secret, &["mount", text(&dir)]).ok();
    node.watch_daemon();
    let process = PathBuf::from(format!("/proc/{}", node.pid().unwrap().as_raw_nonzero()));
    for file in ["cmdline", "environ"] {
        let shown = String::from_utf8_lossy(&fs::read(process.join(file)).unwrap()).into_owned();
        assert!(!shown.contains("battery"), "{file}: {shown}");
    }
    node.umount_at(&dir);

    let keyed = network.member("keyed");
    let key = keyed.home.join("state/key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    for args in [vec!["network", "list"], vec!["mount", text(&dir)], vec!["daemon"]] {
        refused(&keyed, 5, "may be read by others", || keyed.run(&args));
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    keyed.ok(["network", "list"]);
    fs::rename(&key, network.path("elsewhere")).unwrap();
    refused(&keyed, 1, "key", || keyed.run(["network", "list"]));
    keyed.ok(["--keyfile", text(&network.path("elsewhere")), "network", "list"]);
}

#[test]
fn a_settings_file_with_a_mistake_says_where() {
    let network = Network::new();
    let node = network.member("node");
    node.settings("cache.rams = 3\n");
    refused(&node, 2, "rams", || node.run(["config", "check"]));
    refused(&node, 2, "rams", || node.run(["daemon"]));
    refused(&node, 2, "rams", || node.run(["mount", text(&node.mount_point)]));
    node.settings("cache.ram = \"many\"\n");
    refused(&node, 2, "many", || node.run(["config", "check"]));
    // What is given beside it is heard by every command, also by those that read no settings.
    node.settings("");
    for command in [&["status"][..], &["peers"], &["network", "list"], &["config", "check"], &["stop"]] {
        refused(&node, 2, "a whole number", || node.run([&["--set", "node.mesh=x"], command].concat()));
    }
}

/// Mounts with a tracker that is not there; returns the note and how long the mount took.
fn mount_without_tracker(network: &Network) -> (String, Duration) {
    let node = network.member("node");
    network.undo.mount(&node.mount_point);
    let mounted = node.run(["mount", text(&node.mount_point)]).ok();
    node.watch_daemon();
    assert!(is_mounted(&node.mount_point));
    let printed = mounted.text();
    let note = printed.lines().find(|line| line.starts_with("note: ")).unwrap_or_else(|| panic!("no note: {printed}"));
    assert!(note.contains(&network.tracker_addr().to_string()) && note.contains("tracker"), "{note}");
    node.umount();
    (note.into(), mounted.took)
}

#[test]
fn without_its_tracker_a_network_is_mounted_with_a_note() {
    let refusing = Network::without_tracker("lab");
    let (note, took) = mount_without_tracker(&refusing);
    assert!(note.contains("refused") && took < Duration::from_secs(6), "{took:?} {note}");

    // One that takes connections and says nothing.
    let ip = std::net::Ipv4Addr::LOCALHOST;
    let silent = TcpListener::bind((ip, 0)).unwrap();
    let addr = silent.local_addr().unwrap();
    let (note, took) = mount_without_tracker(&Network::at("lab", ip, addr, addr));
    assert!(took < Duration::from_secs(8), "{took:?} {note}");
}
