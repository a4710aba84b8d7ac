//! The tracker helps nodes to find each other, and everything goes on while it is away.

// clippy.toml lets only test functions unwrap, and all of this file is tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use common::Network;
use common::contents::{MIB, hash_of, random_file, text_file};
use common::network::free_port;
use common::process::{Running, tool};
use common::wait::until;

#[test]
fn a_mounted_network_goes_on_without_its_tracker_and_finds_it_again_by_itself() {
    let mut network = Network::new();
    let share = network.path("share");
    let hashes: Vec<String> =
        (0..4).map(|i| random_file(&share.join(format!("{i}.bin")), 3 * MIB + i, &i.to_string())).collect();
    let mut source = network.source("source", &share);
    let mut reader = network.node("reader");
    let mount = reader.mount();
    reader.sees("3.bin", 1);
    assert_eq!(hash_of(&mount.join("0.bin")), hashes[0]);

    network.kill_tracker();
    for node in [&source, &reader] {
        until("it is noticed that the tracker is away", || !node.status().networks[0].trackers[0].reachable);
    }
    let listed = tool("ls", [mount.as_os_str()]).text();
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["0.bin", "1.bin", "2.bin", "3.bin"]);
    assert_eq!(hash_of(&mount.join("1.bin")), hashes[1], "a file that was not read before");
    text_file(&share.join("later.txt"), "published without a tracker");
    reader.sees("later.txt", 1);
    assert_eq!(fs::read_to_string(mount.join("later.txt")).unwrap(), "published without a tracker");

    // A node that is restarted finds its peers from memory.
    let mount = reader.remount();
    reader.sees("2.bin", 1);
    assert_eq!(hash_of(&mount.join("2.bin")), hashes[2]);
    source.stop();
    source.start();
    reader.sees("3.bin", 1);
    assert_eq!(hash_of(&mount.join("3.bin")), hashes[3]);

    // A newcomer knows nobody, until the tracker is back; then nothing has to be done by hand.
    let newcomer = network.node("newcomer");
    let own = network.path("own");
    text_file(&own.join("newcomers.txt"), "new");
    newcomer.share(&own);
    assert_eq!(newcomer.status().networks[0].peers, 0);
    network.start_tracker();
    for node in [&source, &reader, &newcomer] {
        until("the tracker is found again", || node.status().networks[0].trackers[0].reachable);
        node.has_peers(2);
        node.sees("3.bin", 1);
        node.sees("newcomers.txt", 1);
    }
    assert_eq!(fs::read_to_string(mount.join("newcomers.txt")).unwrap(), "new");
    assert_eq!(newcomer.status().networks[0].trackers[0].nodes, 2);
}

#[test]
fn the_tracker_forgets_who_says_goodbye_at_once_and_who_falls_silent_soon() {
    let network = Network::new();
    let watcher = network.node("watcher");
    let (mut polite, mut killed) = (network.node("polite"), network.node("killed"));
    let tracked = || watcher.status().networks[0].trackers[0].nodes;
    until("both are known", || tracked() == 2);
    polite.stop();
    until("one has said goodbye", || tracked() == 1);
    killed.kill();
    until("the other is missed", || tracked() == 0);
    killed.start();
    until("it is back", || tracked() == 1);
}

#[test]
fn a_tracker_with_its_own_key_alone_brings_nodes_together_and_can_not_look() {
    let mut network = Network::new();
    network.kill_tracker();
    let line = network.in_tracker_home(&["network", "invite", "lab", "--for-tracker"]).ok().text();
    assert_eq!(line.lines().count(), 1);
    assert_ne!(line.trim(), network.invite);
    let mut only = network.outsider("only-a-tracker");
    only.join(&line);
    let addr = network.tracker_addr().to_string();
    let mut command = only.command();
    command.args(["tracker", "--listen", &addr]);
    let _tracker = common::process::Running::start(&mut command, &network.tracker_log());

    let share = network.path("share");
    text_file(&share.join("file"), "x");
    let _source = network.source("source", &share);
    let reader = network.node("reader");
    reader.sees("file", 1);

    only.start();
    assert_eq!(only.json(["network", "list"])["networks"][0]["member"], false);
    only.run(["share", "add", share.to_str().unwrap()]).refused(7, "only a tracker's key");
    only.run(["mount", only.mount_point.to_str().unwrap()]).refused(7, "only a tracker's key");
    only.run(["ls"]).refused(7, "only a tracker's key");
}

/// What a server of Prometheus would make of a text: the values by their names with labels. Fails the test if it is not as the
/// format wants it.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let (mut values, mut kinds, mut helped) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped.push(help.split_once(' ').expect(line).0.to_owned());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect(line);
            assert_eq!(helped.last().map(String::as_str), Some(name), "HELP stands before TYPE");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(["counter", "gauge"].contains(&kind), "{line}");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} is there twice");
        } else {
            let (name, value) = line.rsplit_once(' ').expect(line);
            let plain = name.split('{').next().unwrap();
            assert!(kinds.contains_key(plain) && helped.last().map(String::as_str) == Some(plain), "{line}");
            assert!(plain.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
            assert!(values.insert(name.to_owned(), value.parse().expect(line)).is_none(), "{line}");
        }
    }
    values
}

fn scrape(addr: SocketAddr) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    body.to_owned()
}

#[test]
fn a_tracker_shows_its_figures_and_keeps_to_its_limits() {
    let network = Network::without_tracker("lab");
    let (listen, figures) = (network.tracker_addr().to_string(), free_port(network.ip));
    let mut home = network.outsider("home");
    home.join(&network.invite);
    home.run(["tracker", "status"]).refused(8, "no tracker is running");
    let metrics = figures.to_string();
    let mut command = home.command();
    command.args(["tracker", "--listen", &listen, "--max-sessions", "3", "--metrics", &metrics]);
    let tracker = Running::start(&mut command, &network.tracker_log());
    until("it answers", || home.run(["tracker", "status"]).status.success());
    let status = || home.json(["tracker", "status"]);

    // A goodbye takes a session of its own, so there must be room for it.
    let (mut polite, mut killed) = (network.node("polite"), network.node("killed"));
    until("both are there", || status()["networks"][0]["nodes"] == 2);
    polite.stop();
    until("one said goodbye", || status()["leaves"] == 1);
    let (stays, third) = (network.node("stays"), network.node("third"));
    until("all are there", || status()["networks"][0]["nodes"] == 3);
    // No room for a fourth, until one goes.
    let fourth = network.node("fourth");
    until("it is turned away", || status()["refused"]["sessions"].as_u64() > Some(0));
    assert_eq!(status()["networks"][0]["nodes"], 3);
    killed.kill();
    until("the fourth has his place", || {
        let now = status();
        now["networks"][0]["nodes"] == 3 && now["drops"] == 1 && now["sessions"] == 3 && now["joins"] == 5
    });
    stays.has_peers(2);
    third.has_peers(2);
    fourth.has_peers(2);

    let now = status();
    assert_eq!((&now["joins"], &now["max_sessions"], &now["store"]["kind"]), (&5.into(), &3.into(), &"memory".into()));
    assert!(now["store"]["healthy"] == true && now["cpu_per_ping_micros"].as_f64() > Some(0.0), "{now}");
    assert!(now["memory"].as_u64() > Some(1 << 20) && now["uptime_ms"].as_u64() > Some(0), "{now}");
    let values = parse(&scrape(figures));
    let id = now["networks"][0]["id"].as_str().unwrap();
    for (name, value) in [
        ("flashget_tracker_joins_total".to_owned(), 5.0),
        ("flashget_tracker_leaves_total".into(), 1.0),
        ("flashget_tracker_drops_total".into(), 1.0),
        ("flashget_tracker_sessions".into(), 3.0),
        ("flashget_tracker_store_healthy{store=\"memory\"}".into(), 1.0),
        (format!("flashget_tracker_nodes{{network=\"{id}\"}}"), 3.0),
    ] {
        assert_eq!(values.get(&name), Some(&value), "{name} in {values:?}");
    }
    assert!(values["flashget_tracker_pings_total"] >= now["pings"].as_f64().unwrap());
    assert!(values["flashget_tracker_refused_total{reason=\"sessions\"}"] > 0.0);
    assert!(values["flashget_tracker_resident_memory_bytes"] > 1e6);
    let log = fs::read_to_string(network.tracker_log()).unwrap();
    assert!(log.contains("connections were turned away"), "{log}");

    // The socket is the tracker's, and knows nothing of what a daemon does.
    let people = home.ok(["tracker", "status"]);
    assert!(people.contains("NETWORK") && people.contains(&id[..16]), "{people}");
    home.run(["status"]).refused(8, "no daemon");
    home.run(["tracker", "--listen", &listen]).refused(4, "choose another address");
    assert_eq!(home.run(["tracker", "--store", "disk"]).code(), 2);
    drop(tracker);
    home.start();
    home.run(["tracker", "status"]).refused(8, "no tracker is running");
}
