//! The tracker helps nodes to find each other, and everything goes on while it is away.

// clippy.toml lets only test functions unwrap, and all of this file is tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::Network;
use common::contents::{MIB, hash_of, random_file, text_file};
use common::process::tool;
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
