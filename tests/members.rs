//! Nodes find each other and stay together by themselves: without a tracker, after restarts, and when their network falls
//! apart and heals.

// clippy.toml lets only test functions unwrap, and all of this file is tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::contents::{MIB, hash_of, random_file, text_file};
use common::namespaces::Namespaces;
use common::wait::{until, until_within};
use common::{Network, Node};

/// Within this time all see what one has shared.
const SHARED: Duration = Duration::from_secs(5);
/// Within this time a network that was parted is one again.
const HEALED: Duration = Duration::from_secs(10);
/// Within this time a death is known.
const MISSED: Duration = Duration::from_secs(15);

/// Waits until each of `nodes` sees exactly `paths`, all of them live.
fn all_see(nodes: &[&Node], paths: &[String], limit: Duration) {
    let mut sorted = paths.to_vec();
    sorted.sort();
    until_within(limit, &format!("all see {sorted:?}"), || {
        let agree = |node: &&Node| {
            let mut listing = node.listing();
            listing.sort();
            listing == sorted
        };
        nodes.iter().all(agree).then_some(())
    });
}

#[test]
fn when_the_tracker_is_gone_for_good_one_address_is_enough_to_join() {
    let mut network = Network::new();
    let common = network.path("common/common.bin");
    let hash = random_file(&common, 40 * MIB, "common");
    let names = ["a", "b", "c", "d", "e"];
    let mut paths = vec!["common.bin".to_owned()];
    for name in names {
        let dir = network.path("shares").join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::hard_link(&common, dir.join("common.bin")).unwrap();
        text_file(&dir.join(format!("{name}.txt")), name);
        paths.push(format!("{name}.txt"));
    }
    let five: Vec<Node> = names.iter().map(|name| network.source(name, &network.path("shares").join(name))).collect();
    five.iter().for_each(|node| node.has_peers(4));
    network.kill_tracker();

    let mut sixth = network.member("sixth");
    sixth.settings(&format!("node.peers = [\"{}\"]\n", five[0].addr));
    let began = Instant::now();
    sixth.start();
    sixth.has_peers(5);
    sixth.sees("common.bin", 5);
    let mount = sixth.mount();
    all_see(&[&sixth], &paths, MISSED);
    eprintln!("the sixth sees all after {:.1?}", began.elapsed());
    let status = sixth.status();
    assert!(!status.networks[0].trackers[0].reachable);
    assert_eq!((status.networks[0].gossip, status.networks[0].connected), (Some(5), 5));
    for name in names {
        assert_eq!(fs::read_to_string(mount.join(format!("{name}.txt"))).unwrap(), name);
    }
    assert_eq!(hash_of(&mount.join("common.bin")), hash);
    let transfers = sixth.transfers();
    let transfer = transfers.iter().find(|transfer| transfer.size == 40 * MIB).unwrap();
    let brought = transfer.transfer.sources.iter().filter(|source| source.bytes > 0).count();
    assert_eq!(brought, 5, "{:?}", transfer.transfer.sources);

    // What is shared from now on is seen by all, the sixth's included.
    for (node, name) in [(&five[3], "d"), (&sixth, "sixth")] {
        let dir = network.path("shares").join(name);
        fs::create_dir_all(&dir).unwrap();
        if name == "sixth" {
            node.share(&dir);
        }
        let began = Instant::now();
        text_file(&dir.join(format!("later-{name}.txt")), "later");
        paths.push(format!("later-{name}.txt"));
        let all: Vec<&Node> = five.iter().chain([&sixth]).collect();
        all_see(&all, &paths, SHARED);
        eprintln!("shared by {name}, seen by all after {:.1?}", began.elapsed());
    }
}

#[test]
fn after_a_restart_alone_the_last_view_is_there_and_heals_by_itself() {
    let mut network = Network::new();
    let share = network.path("share");
    let cached = random_file(&share.join("cached.bin"), 3 * MIB, "cached");
    let other = random_file(&share.join("other.bin"), 3 * MIB, "other");
    let mut source = network.source("source", &share);
    let mut reader = network.node("reader");
    let mount = reader.mount();
    reader.sees("other.bin", 1);
    assert_eq!(hash_of(&mount.join("cached.bin")), cached);
    until("it is whole in the cache", || reader.stat("cached.bin").unwrap().cached_percent == 100);
    reader.umount();
    reader.stop();
    source.stop();
    network.kill_tracker();

    reader.start();
    let mount = reader.mount();
    assert_eq!(reader.listing(), ["cached.bin", "other.bin"]);
    assert_eq!(hash_of(&mount.join("cached.bin")), cached);
    let state = |path: &str| serde_json::to_value(reader.stat(path).unwrap().state).unwrap();
    assert_eq!((state("cached.bin"), state("other.bin")), ("cached".into(), "offline".into()));
    assert_eq!(reader.stat("other.bin").unwrap().sources, 0);
    let began = Instant::now();
    fs::read(mount.join("other.bin")).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(5), "what has no source fails fast: {:?}", began.elapsed());

    // Nobody says anything to anybody, and no tracker helps.
    source.start();
    reader.sees("other.bin", 1);
    assert_eq!(hash_of(&mount.join("other.bin")), other);
    assert_eq!(state("cached.bin"), "live");
}

#[test]
fn who_dies_is_missed_soon_and_who_leaves_at_once() {
    let mut network = Network::new();
    let mut nodes: Vec<Node> = (0..4)
        .map(|number| {
            let dir = network.path(format!("shares/{number}"));
            text_file(&dir.join(format!("{number}.txt")), "text");
            network.source(&format!("n{number}"), &dir)
        })
        .collect();
    nodes.iter().for_each(|node| node.has_peers(3));
    network.kill_tracker();
    let peers = |node: &Node| node.status().networks[0].peers;
    let mut gone = nodes.pop().unwrap();
    let began = Instant::now();
    gone.kill();
    until_within(MISSED, "the death is known to all", || nodes.iter().all(|node| peers(node) == 2).then_some(()));
    eprintln!("a death was known to all after {:.1?}", began.elapsed());
    let mut gone = nodes.pop().unwrap();
    let began = Instant::now();
    gone.stop();
    until_within(Duration::from_secs(2), "all know who left", || {
        nodes.iter().all(|node| peers(node) == 1).then_some(())
    });
    eprintln!("who left was missed by all after {:.1?}, its own end included", began.elapsed());
}

#[test]
fn a_network_that_falls_apart_works_in_both_halves_and_is_one_again_when_it_can() {
    let spaces = Namespaces::new(6);
    let network = Network::without_tracker("lab");
    let mut nodes: Vec<Node> = (0..6)
        .map(|number| {
            let mut node = network.member(&format!("n{number}"));
            node.lives_in(spaces.name(number), spaces.addr(number));
            node.settings(&format!("node.peers = [\"{}\"]\nmount.linger = \"3s\"\n", spaces.addr(0)));
            node.start();
            let dir = network.path(format!("shares/{number}"));
            text_file(&dir.join(format!("{number}.txt")), format!("of {number}"));
            text_file(&dir.join(format!("withdrawn-{number}.txt")), "soon gone");
            node.share(&dir);
            node
        })
        .collect();
    let file = |number: usize| format!("{number}.txt");
    let mut paths: Vec<String> = (0..6).flat_map(|number| [file(number), format!("withdrawn-{number}.txt")]).collect();
    let all: Vec<&Node> = nodes.iter().collect();
    all_see(&all, &paths, Duration::from_secs(30));

    // Apart: 0, 2, 4 and 1, 3, 5.
    let half = |odd: usize| (0..6).filter(move |number| number % 2 == odd);
    half(1).for_each(|number| spaces.plug(number, 1));
    until_within(Duration::from_secs(60), "each half knows that the other is away", || {
        nodes.iter().all(|node| node.status().networks[0].peers == 2).then_some(())
    });
    paths.clear();
    for odd in [0, 1] {
        // Each half works: what is shared and withdrawn in it is seen in it, and files are read.
        let mut of_half: Vec<String> = Vec::new();
        for number in half(odd) {
            let dir = network.path(format!("shares/{number}"));
            fs::remove_file(dir.join(format!("withdrawn-{number}.txt"))).unwrap();
            text_file(&dir.join(format!("new-{number}.txt")), format!("new of {number}"));
            of_half.extend([file(number), format!("new-{number}.txt")]);
        }
        let nodes: Vec<&Node> = half(odd).map(|number| &nodes[number]).collect();
        all_see(&nodes, &of_half, Duration::from_secs(60));
        let copy = network.path(format!("copy-{odd}"));
        nodes[0].ok(["get".as_ref(), format!("new-{}.txt", 2 + odd).as_ref(), copy.as_os_str()]);
        assert_eq!(fs::read_to_string(&copy).unwrap(), format!("new of {}", 2 + odd));
        paths.extend(of_half);
    }
    // One dies while they are apart.
    nodes[4].kill();
    paths.retain(|path| !path.starts_with('4') && path != "new-4.txt");
    let live: Vec<&Node> = nodes.iter().enumerate().filter(|(number, _)| *number != 4).map(|(_, node)| node).collect();
    until_within(Duration::from_secs(30), "its half misses it", || {
        half(0).filter(|number| *number != 4).all(|number| nodes[number].status().networks[0].peers == 1).then_some(())
    });

    let began = Instant::now();
    half(1).for_each(|number| spaces.plug(number, 0));
    all_see(&live, &paths, HEALED);
    eprintln!("one network again after {:.1?}", began.elapsed());
    assert!(live.iter().all(|node| node.status().networks[0].peers == 4));
    // Nothing comes back from the dead later, either.
    std::thread::sleep(Duration::from_secs(5));
    all_see(&live, &paths, Duration::ZERO);
}

#[test]
fn a_large_network_has_few_sessions_and_calls_whom_it_needs() {
    let network = Network::new();
    let count = 18;
    let nodes: Vec<Node> = (0..count)
        .map(|number| {
            let dir = network.path(format!("shares/{number}"));
            text_file(&dir.join(format!("{number}.txt")), format!("of {number}"));
            random_file(&dir.join(format!("{number}.bin")), 2 * MIB, &number.to_string());
            let mut node = network.member(&format!("n{number}"));
            // As if this were a large one.
            node.settings("node.mesh = 0\n");
            node.start();
            node.share(&dir);
            node
        })
        .collect();
    let reader = &nodes[0];
    nodes.iter().for_each(|node| node.has_peers(count - 1));
    (0..count).for_each(|number| reader.sees(&format!("{number}.txt"), 1));
    let peers = reader.json(["peers"]);
    let connected = |peer: &&serde_json::Value| peer["connected"] == true;
    let all = peers["peers"].as_array().unwrap();
    assert_eq!(all.len(), count - 1);
    let before = all.iter().filter(connected).count();
    let mount = reader.mount();
    for number in 0..count {
        assert_eq!(fs::read_to_string(mount.join(format!("{number}.txt"))).unwrap(), format!("of {number}"));
        assert_eq!(
            hash_of(&mount.join(format!("{number}.bin"))),
            hash_of(&network.path(format!("shares/{number}/{number}.bin")))
        );
    }
    let total: usize = nodes.iter().map(|node| node.status().networks[0].connected).sum();
    eprintln!("sessions of one node before it read: {before}; of all afterwards, each counted twice: {total}");
    assert!(total < count * (count - 1), "not everybody has a session with everybody: {total}");
    // What one shares is told on by those who hear of it.
    let began = Instant::now();
    text_file(&network.path("shares/7/later.txt"), "later");
    until_within(SHARED, "all see it", || nodes.iter().all(|node| node.stat("later.txt").is_some()).then_some(()));
    eprintln!("seen by all after {:.1?}", began.elapsed());
}

#[test]
fn in_a_large_network_a_node_that_nobody_can_dial_is_seen_and_read_by_all() {
    let network = Network::new();
    // So many that some of them have no session with it, however the neighbours are drawn.
    let (count, hidden) = (24, 5);
    let nodes: Vec<Node> = (0..count)
        .map(|number| {
            let dir = network.path(format!("shares/{number}"));
            random_file(&dir.join(format!("{number}.bin")), MIB, &number.to_string());
            let mut node = network.member(&format!("n{number}"));
            // As if this were a large one.
            let mut settings = "node.mesh = 0\n".to_owned();
            if number == hidden {
                // Nobody is there, as behind a router that lets nobody in.
                let nowhere = common::network::free_port(network.ip);
                settings += &format!("node.advertise = \"{nowhere}\"\n");
            }
            node.settings(&settings);
            node.start();
            node.share(&dir);
            node
        })
        .collect();
    nodes.iter().for_each(|node| node.has_peers(count - 1));
    let path = format!("{hidden}.bin");
    nodes.iter().for_each(|node| node.sees(&path, 1));
    let connected = |node: &Node| {
        let peers = node.json(["peers"]);
        let peer = peers["peers"].as_array().unwrap().iter().find(|peer| peer["name"] == format!("n{hidden}")).cloned();
        peer.is_some_and(|peer| peer["connected"] == true)
    };
    let without = nodes.iter().enumerate().filter(|(number, node)| *number != hidden && !connected(node)).count();
    eprintln!("without a session with it: {without}");
    assert!(without > 0, "somebody has to ask others");
    let hash = hash_of(&network.path(format!("shares/{hidden}/{path}")));
    for (number, node) in nodes.iter().enumerate().filter(|(number, _)| *number != hidden) {
        let copy = network.path(format!("copy-{number}"));
        let began = Instant::now();
        node.ok(["get".as_ref(), path.as_ref(), copy.as_os_str()]);
        eprintln!("{number} has it after {:.1?}", began.elapsed());
        assert_eq!(hash_of(&copy), hash);
    }
    assert!(nodes.iter().all(|node| node.status().networks[0].peers == count - 1), "nobody doubts it");
}

#[test]
fn who_moves_to_another_network_stays_a_member_and_is_reached_there() {
    let spaces = Namespaces::new(3);
    let network = Network::without_tracker("lab");
    let nodes: Vec<Node> = (0..3)
        .map(|number| {
            let mut node = network.member(&format!("n{number}"));
            node.lives_in(spaces.name(number), spaces.addr(number));
            let settings = format!(
                "node.listen = \"0.0.0.0:7450\"\nnode.lan = false\nnode.name = \"n{number}\"\nnode.peers = [\"{}\"]\n",
                spaces.addr(0)
            );
            fs::write(node.home.join("config.toml"), settings).unwrap();
            node.start();
            node
        })
        .collect();
    nodes.iter().for_each(|node| node.has_peers(2));
    let gossip = |node: &Node| node.status().networks[0].gossip;
    until("gossip knows all", || nodes.iter().all(|node| gossip(node) == Some(2)));
    let began = Instant::now();
    let moved = spaces.renumber(2, 200);
    // The others hear of it, and nobody is missed in the end.
    until_within(Duration::from_secs(60), "it is where it is now", || {
        let told = |node: &Node| {
            let peers = node.json(["peers"]).to_string();
            peers.contains(&moved.ip().to_string())
        };
        nodes[..2].iter().all(told).then_some(())
    });
    until_within(Duration::from_secs(60), "all are live", || {
        nodes.iter().all(|node| node.status().networks[0].peers == 2 && gossip(node) == Some(2)).then_some(())
    });
    eprintln!("a move was known to all after {:.1?}", began.elapsed());
    let log = fs::read_to_string(&nodes[2].log).unwrap();
    assert!(log.contains("this host has moved"), "{log}");
}

#[test]
fn nodes_on_one_lan_find_each_other_by_themselves_and_strangers_stay_strangers() {
    let spaces = Namespaces::new(3);
    let network = Network::without_tracker("lab");
    let others = Network::without_tracker("others");
    let node = |network: &Network, name: &str, number: usize| {
        let mut node = network.member(name);
        node.lives_in(spaces.name(number), spaces.addr(number));
        fs::write(node.home.join("config.toml"), format!("node.listen = \"0.0.0.0:7450\"\nnode.name = \"{name}\"\n"))
            .unwrap();
        node.start();
        node
    };
    let stranger = node(&others, "stranger", 2);
    let (a, b) = (node(&network, "a", 0), node(&network, "b", 1));
    let dir = network.path("share");
    text_file(&dir.join("a.txt"), "of a");
    a.share(&dir);
    b.sees("a.txt", 1);
    // One of them called the other.
    let found = |node: &Node| node.status().networks[0].found.contains_key("lan");
    assert!(found(&a) || found(&b));
    assert_eq!(b.status().networks[0].peers, 1);
    assert_eq!(stranger.status().networks[0].peers, 0);
    let log = fs::read_to_string(&stranger.log).unwrap();
    assert!(!log.contains("connected"), "{log}");
}

#[test]
fn a_daemon_has_figures_that_prometheus_takes() {
    let network = Network::new();
    let share = network.path("share");
    text_file(&share.join("a.txt"), "text");
    let _source = network.source("source", &share);
    let mut node = network.member("node");
    let addr = common::network::free_port(network.ip);
    node.settings(&format!("node.metrics = \"{addr}\"\n"));
    node.start();
    node.sees("a.txt", 1);
    let get = || {
        let mut stream = std::net::TcpStream::connect(addr).unwrap();
        std::io::Write::write_all(&mut stream, b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        std::io::read_to_string(stream).unwrap()
    };
    let answer = get();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("text/plain; version=0.0.4"), "{answer}");
    for line in [
        "flashget_peers{network=\"lab\"} 1",
        "flashget_sessions{network=\"lab\"} 1",
        "flashget_files{network=\"lab\"} 1",
        "flashget_peers_found{network=\"lab\",by=\"tracker\"} 1",
        "# TYPE flashget_cache_loads_total counter",
    ] {
        assert!(answer.lines().any(|found| found == line), "{line}: {answer}");
    }
    assert!(
        answer.contains(&format!(
            "flashget_tracker_reachable{{network=\"lab\",tracker=\"{}\"}} 1",
            network.tracker_addr()
        ))
    );
    // What two nodes know sums up to the same.
    let sums: Vec<String> =
        [&_source, &node].iter().map(|node| node.status().networks[0].catalog_sum.clone()).collect();
    assert_eq!(sums[0], sums[1]);
}
