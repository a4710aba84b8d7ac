//! A simulator of membership and catalogs: the real SWIM, roster, known peers, neighbours, comparisons, signed catalogs and
//! fetches of many nodes, on a virtual clock and a virtual network. A case follows from its seed alone.
//!
//! What is not real is the network (5 to 80 ms one way, one datagram in a hundred is lost) and the shell around those state
//! machines, which is mirrored by the file that says so. A catalog's signature is verified once for all nodes that take the
//! same step with it.
//!
//! `scripts/simulate members [--nodes N]` prints the table of docs/SCALE.md.

mod catalogs;
mod gossip;
mod link;
mod scenario;
mod sessions;
mod truth;
mod world;

use std::time::Instant;

use scenario::{ENDS, Row, anything, churn, cold_start, comings_and_goings, idle, parted};

fn setting(name: &str) -> Option<usize> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

fn row<'a>(rows: &'a [Row], what: &str) -> &'a Row {
    rows.iter().find(|row| row.what == what).unwrap()
}

/// What the issue asks of a network of any size.
fn assert_comings_and_goings(rows: &[Row]) {
    for (what, most) in ENDS.into_iter().zip([15.0, 15.0, 1.5]) {
        let ended = rows.iter().find(|row| row.what == what);
        assert!(ended.is_none_or(|row| row.figure("all miss it (s)") <= most), "{what}");
    }
    assert!(row(rows, "one shares a file").figure("all have it (s)") <= 5.0);
    assert!(row(rows, "one joins").figure("all catalogs (s)") <= 10.0);
}

#[test]
fn a_hundred_nodes_miss_the_dead_soon_and_hear_of_news_at_once() {
    let rows = comings_and_goings(100, 1, &ENDS, 3);
    assert_eq!(rows.len(), 5);
    rows.iter().for_each(|row| println!("{row}"));
    assert_comings_and_goings(&rows);
}

#[test]
fn a_hundred_nodes_that_were_parted_agree_within_10_seconds() {
    for seed in 1..=3 {
        let row = parted(100, seed);
        println!("{row}");
        assert!(row.figure("wrong beliefs at the end") >= 100.0 * 49.0);
        assert!(row.figure("and on all catalogs (s)") <= 10.0);
    }
}

#[test]
fn an_idle_node_costs_less_than_2_kib_per_second() {
    for nodes in [10, 100] {
        let row = idle(nodes, 3);
        println!("{nodes} nodes: {row}");
        assert!(row.figure("all (B/s)") < 2048.0 && row.figure("the busiest node") < 2.0 * 2048.0);
    }
}

#[test]
fn a_hundred_nodes_start_knowing_one_address_each() {
    let row = cold_start(100, 4);
    println!("{row}");
    assert!(row.figure("and on all catalogs (s)") <= 15.0);
}

#[test]
fn who_lives_is_not_believed_dead_while_others_come_and_go() {
    let row = churn(100, 5, 10);
    println!("{row}");
    assert!(row.figure("for at most (s)") <= 5.0);
    assert!(row.figure("wrong beliefs, on average (per mille)") <= 10.0);
}

#[test]
fn a_thousand_nodes_miss_the_dead_soon_and_hear_of_news_at_once() {
    // The other ways to end take long to simulate: scripts/simulate members tries them.
    let rows = comings_and_goings(1000, 6, &ENDS[..1], 1);
    assert_eq!(rows.len(), 3);
    rows.iter().for_each(|row| println!("{row}"));
    assert_comings_and_goings(&rows);
}

#[test]
fn whatever_happens_all_agree_in_the_end() {
    let (from, to) = match (setting("FLASHGET_SEED"), setting("FLASHGET_SEEDS")) {
        (Some(seed), _) => (seed, seed + 1),
        (None, seeds) => (0, seeds.unwrap_or(20)),
    };
    for seed in from..to {
        anything(20, seed as u64);
    }
}

/// The table of docs/SCALE.md, for as many nodes as `FLASHGET_NODES` says.
#[test]
#[ignore = "minutes: scripts/simulate members runs it"]
fn table() {
    let nodes = setting("FLASHGET_NODES").unwrap_or(100);
    let only = std::env::var("FLASHGET_ONLY").unwrap_or_default();
    type Scenario = fn(usize) -> Vec<Row>;
    let all: [(&str, Scenario); 5] = [
        ("idle", |nodes| vec![idle(nodes, 1)]),
        ("comings", |nodes| comings_and_goings(nodes, 1, &ENDS, if nodes < 100 { 1 } else { 3 })),
        ("parted", |nodes| vec![parted(nodes, 1)]),
        ("churn", |nodes| vec![churn(nodes, 1, 3)]),
        ("cold", |nodes| vec![cold_start(nodes, 1)]),
    ];
    for (name, scenario) in all.into_iter().filter(|(name, _)| only.is_empty() || only.split(',').any(|o| o == *name)) {
        let began = Instant::now();
        for row in scenario(nodes) {
            println!("{nodes} nodes, {row}");
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
        println!("  ({name} took {:.0} s; {peak})", began.elapsed().as_secs_f64());
    }
}
