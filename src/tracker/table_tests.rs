//! Nodes that come, move, go and fall silent at random, and what those who follow the feed make of it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::tracker::client::Feed;
use crate::wire::message::{Announced, Response};

const REMOTE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9));

#[derive(Debug, Clone)]
enum Step {
    Ping(u8, u16),
    Leave(u8),
    Wait(u64),
    /// As if many changes had been made.
    Compact,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u8..6, 1u16..4).prop_map(|(node, port)| Step::Ping(node, port)),
        1 => (0u8..6).prop_map(Step::Leave),
        2 => (1u64..12).prop_map(Step::Wait),
        1 => Just(Step::Compact),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..80)
}

fn compact(table: &mut Table) {
    let nodes = &table.nodes;
    table.changes.compact(|node, at| nodes.get(&node).is_some_and(|active| active.changed_at == at));
}

fn ask(table: &mut Table, node: NodeId, announce: &Announce, room: usize, now: Instant) -> Announced {
    table.expire(now);
    table.ping(node, announce, REMOTE, now);
    let mut out = Vec::new();
    table.answer_in(announce, room, &mut out);
    match rmp_serde::from_slice(&out).unwrap() {
        Response::Announced(answer) => answer,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn who_follows_the_feed_knows_exactly_who_is_active(steps in steps(), room in prop_oneof![Just(1usize), Just(120), Just(PAGE)]) {
        let start = Instant::now();
        let (mut now, mut boot) = (start, 1);
        let mut table = Table::new(boot, false);
        let mut feeds: BTreeMap<u8, Feed> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Ping(tag, port) => {
                    let node = NodeId([tag; 32]);
                    let feed = feeds.entry(tag).or_insert_with(|| Feed::new(node));
                    let addrs = vec![SocketAddr::from(([0, 0, 0, 0], port))];
                    let answer = ask(&mut table, node, &feed.announce(addrs, false), room, now);
                    let more = answer.more;
                    feed.take(answer);
                    if !more {
                        let known: Vec<NodeId> = feed.active().keys().copied().collect();
                        let mut real: Vec<NodeId> = table.nodes.keys().copied().filter(|other| *other != node).collect();
                        real.sort();
                        prop_assert_eq!(known, real);
                        for (node, addrs) in feed.active() {
                            prop_assert_eq!(&addrs[..], &table.nodes[node].addrs[..]);
                            prop_assert!(addrs.iter().all(|addr| addr.ip() == REMOTE));
                        }
                    }
                }
                Step::Leave(tag) => {
                    let node = NodeId([tag; 32]);
                    let leave = feeds.entry(tag).or_insert_with(|| Feed::new(node)).announce(Vec::new(), true);
                    ask(&mut table, node, &leave, room, now);
                    prop_assert!(!table.nodes.contains_key(&node));
                }
                Step::Wait(secs) => now += Duration::from_secs(secs),
                Step::Compact => compact(&mut table),
                Step::Restart => {
                    boot += 1;
                    table = Table::new(boot, false);
                }
            }
        }
        // Whoever asks on comes to the end of the feed, however small an answer is.
        let node = NodeId([99; 32]);
        let mut feed = Feed::new(node);
        for asked in 0.. {
            prop_assert!(asked < 1000, "no end");
            let answer = ask(&mut table, node, &feed.announce(Vec::new(), false), room, now);
            let more = answer.more;
            feed.take(answer);
            if !more {
                break;
            }
        }
        prop_assert_eq!(feed.active().len() + 1, table.len());
    }
}

#[test]
fn a_departure_that_was_forgotten_between_two_pages_was_never_told() {
    let now = Instant::now();
    let mut table = Table::new(1, false);
    let [asker, gone] = [1, 2].map(|tag| NodeId([tag; 32]));
    let others = [3, 4, 5].map(|tag| NodeId([tag; 32]));
    for node in [[gone].as_slice(), &others].concat() {
        table.ping(node, &Feed::new(node).announce(addrs(1), false), REMOTE, now);
    }
    table.ping(gone, &Feed::new(gone).announce(Vec::new(), true), REMOTE, now);
    let mut feed = Feed::new(asker);
    // One change in an answer: the first tells of the node that has gone since.
    let answer = ask(&mut table, asker, &feed.announce(addrs(1), false), 1, now);
    assert!(answer.more);
    feed.take(answer);
    assert!(feed.active().contains_key(&gone));
    for _ in 0..4 {
        compact(&mut table);
    }
    loop {
        let answer = ask(&mut table, asker, &feed.announce(addrs(1), false), 1, now);
        let more = answer.more;
        feed.take(answer);
        if !more {
            break;
        }
    }
    assert_eq!(feed.active().keys().copied().collect::<Vec<_>>(), others);
}

fn addrs(port: u16) -> Vec<SocketAddr> {
    vec![([10, 0, 0, 1], port).into()]
}

#[test]
fn the_first_ping_adds_and_missed_pings_remove() {
    let start = Instant::now();
    let mut table = Table::new(1, false);
    let node = NodeId([1; 32]);
    let announce = Feed::new(node).announce(addrs(7450), false);
    assert_eq!(table.ping(node, &announce, REMOTE, start), Pinged::Joined);
    assert_eq!(table.len(), 1);
    let again = start + Duration::from_secs(5);
    assert_eq!(table.ping(node, &announce, REMOTE, again), Pinged::Stays);
    assert_eq!(table.expire(again + DROP_AFTER), 0);
    assert_eq!(table.expire(again + DROP_AFTER + Duration::from_millis(1)), 1);
    assert!(table.is_empty());
}

#[test]
fn what_is_kept_of_nodes_that_come_and_go_is_bounded() {
    let mut now = Instant::now();
    let mut table = Table::new(1, false);
    for round in 0..40_000u32 {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&(round % 3000).to_le_bytes());
        let (node, leaving) = (NodeId(id), round % 2 == 1);
        table.ping(node, &Feed::new(node).announce(addrs(round as u16), leaving), REMOTE, now);
        now += Duration::from_micros(100);
        table.expire(now);
    }
    assert!(table.len() <= 1500);
    assert!(table.due.len() <= 2 * 1501 + DUE_ROOM, "{}", table.due.len());
    let mut out = Vec::new();
    table.answer_in(&Feed::new(NodeId([9; 32])).announce(Vec::new(), false), usize::MAX, &mut out);
    assert!(out.len() < 60 * (table.len() + 2 * 2048), "{} bytes", out.len());
}

#[test]
fn addresses_of_one_node_are_bounded() {
    let mut table = Table::new(1, false);
    let node = NodeId([1; 32]);
    let announce = Feed::new(node).announce((0..100).flat_map(addrs).collect(), false);
    table.ping(node, &announce, REMOTE, Instant::now());
    assert_eq!(table.nodes[&node].addrs.len(), MAX_ADDRS);
    // Those beyond count for nothing, and so are no news.
    assert_eq!(table.ping(node, &announce, REMOTE, Instant::now()), Pinged::Stays);
}

#[test]
fn a_shared_table_drops_whom_the_store_loses_and_keeps_who_pings_here() {
    let start = Instant::now();
    let mut table = Table::new(1, true);
    let (here, elsewhere) = (NodeId([1; 32]), NodeId([2; 32]));
    table.ping(here, &Feed::new(here).announce(addrs(1), false), REMOTE, start);
    table.learn(elsewhere, addrs(2).into(), start);
    table.learn(here, addrs(9).into(), start);
    assert_eq!(table.addrs(here), Some(&addrs(1)[..]), "two trackers may see one node at two addresses");
    table.learn(elsewhere, addrs(3).into(), start);
    assert_eq!(table.addrs(elsewhere), Some(&addrs(3)[..]));
    assert_eq!(table.expire(start + DROP_AFTER * 10), 0);
    assert!(table.lose(here, start + DROP_AFTER) && !table.lose(elsewhere, start));
    assert_eq!(table.nodes().collect::<Vec<_>>(), [here]);
    assert!(!table.lose(here, start + DROP_AFTER + Duration::from_millis(1)));
    assert!(table.is_empty());
}
