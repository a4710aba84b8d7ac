//! What is tried in the simulator, and how long it takes.

use std::fmt;
use std::time::Duration;

use rand::RngExt;

use super::link::SPENT;
use super::world::World;
use crate::members::gossip::swim::Swim;

/// Longer than this nothing may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Long enough for sessions to be there, and for what was said in passing to be heard.
const CALM: Duration = Duration::from_secs(15);

/// What came of one scenario.
pub struct Row {
    pub what: &'static str,
    pub figures: Vec<(&'static str, f64)>,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.what)?;
        self.figures.iter().try_for_each(|(name, figure)| write!(f, " {name} {figure:.2};"))
    }
}

impl Row {
    pub fn figure(&self, name: &str) -> f64 {
        self.figures.iter().find(|(known, _)| *known == name).unwrap().1
    }
}

fn file(of: usize, number: usize) -> String {
    format!("file-{of}-{number}.bin")
}

/// A network that has been there for a while: everybody knows everybody, and has everybody's catalog of one file.
/// `asleep` more nodes do not run yet.
pub fn settled(nodes: usize, asleep: usize, seed: u64) -> World {
    let mut world = World::new(nodes + asleep, seed);
    for who in 0..nodes {
        world.start(who, &[]);
        world.publish(who, &[file(who, 0)]);
    }
    let ids: Vec<_> = (0..nodes).map(|who| world.nodes[who].id).collect();
    let own = |who: usize| world.nodes[who].running.as_ref().unwrap().book.get(ids[who]).unwrap().clone();
    let copies: Vec<_> = (0..nodes).map(own).collect();
    let mine = |who: usize| world.nodes[who].running.as_ref().map(|running| running.swim.records()).unwrap();
    let records: Vec<_> = (0..nodes).flat_map(mine).collect();
    for who in 0..nodes {
        for copy in &copies {
            if world.running(who).unwrap().book.put(copy.clone()) {
                let whose = world.numbers[&copy.node()];
                world.truth.holds(whose, copy.place(), world.now);
            }
        }
        world.learn_members(who, &records);
    }
    world.run(CALM);
    world.spent();
    world
}

fn agreed(world: &World) -> bool {
    world.truth.wrong() == 0 && world.truth.lacking() == 0
}

fn secs(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// Everybody starts within a second, knowing the address of one that started before.
pub fn cold_start(nodes: usize, seed: u64) -> Row {
    let mut world = World::new(nodes, seed);
    for who in 0..nodes {
        let knowing = if who == 0 { Vec::new() } else { vec![world.dice.random_range(0..who)] };
        world.start(who, &knowing);
        world.publish(who, &[file(who, 0)]);
        world.run(Duration::from_secs(1) / nodes as u32);
    }
    world.run_to(PATIENCE, |world| world.truth.wrong() == 0);
    let alive = secs(world.now);
    assert!(world.run_to(PATIENCE, agreed), "{} wrong, {} lacking", world.truth.wrong(), world.truth.lacking());
    let (spent, _) = world.spent();
    let kib = spent.iter().sum::<f64>() / 1024.0;
    let figures =
        vec![("agree on who is alive (s)", alive), ("and on all catalogs (s)", secs(world.now)), ("KiB per node", kib)];
    Row { what: "cold start", figures }
}

/// How a node may end.
pub const ENDS: [&str; 3] = ["one is killed", "one's machine is off", "one leaves"];

/// One node comes to a network that runs; later some end, one after the other, so many `times` in each of these ways; and one
/// shares a file.
pub fn comings_and_goings(nodes: usize, seed: u64, ends: &[&'static str], times: usize) -> Vec<Row> {
    let mut world = settled(nodes, 1, seed);
    let mut rows = Vec::new();
    assert!(agreed(&world), "{} wrong, {} lacking", world.truth.wrong(), world.truth.lacking());

    let began = world.now;
    world.start(nodes, &[0]);
    world.publish(nodes, &[file(nodes, 0)]);
    world.run_to(PATIENCE, |world| world.truth.is_known(nodes));
    let known = secs(world.now - began);
    world.run_to(PATIENCE, |world| world.truth.wrong() == 0);
    let knows = secs(world.now - began);
    assert!(world.run_to(PATIENCE, agreed));
    let figures =
        vec![("all know it (s)", known), ("it knows all (s)", knows), ("all catalogs (s)", secs(world.now - began))];
    rows.push(Row { what: "one joins", figures });

    world.run(CALM);
    for what in ends.iter().copied() {
        let mut longest: f64 = 0.0;
        for _ in 0..times {
            let running: Vec<usize> = (1..nodes).filter(|who| world.nodes[*who].running.is_some()).collect();
            let who = running[world.dice.random_range(0..running.len())];
            let began = world.now;
            match what {
                "one is killed" => world.kill(who),
                "one leaves" => world.leave(who),
                _ => world.darken(who),
            }
            assert!(world.run_to(PATIENCE, |world| world.truth.is_missed(who)), "{what}: {who}");
            longest = longest.max(secs(world.now - began));
            world.run(CALM);
            assert!(agreed(&world), "{} wrong, {} lacking", world.truth.wrong(), world.truth.lacking());
        }
        rows.push(Row { what, figures: vec![("all miss it (s)", longest)] });
    }

    world.spent();
    let began = world.now;
    world.publish(0, &[file(0, 0), file(0, 1)]);
    assert!(world.run_to(PATIENCE, agreed));
    let took = secs(world.now - began);
    world.run(Duration::from_secs(5));
    let catalogs = world.spent().0[super::link::Spent::Catalogs as usize];
    rows.push(Row {
        what: "one shares a file",
        figures: vec![("all have it (s)", took), ("bytes per node", catalogs)],
    });
    rows
}

/// What an idle network costs.
pub fn idle(nodes: usize, seed: u64) -> Row {
    let mut world = settled(nodes, 0, seed);
    let time = Duration::from_secs(60);
    world.run(time);
    let (spent, most) = world.spent();
    let names = ["probes", "gossip", "pings", "sessions", "comparing", "catalogs"];
    let mut figures: Vec<(&str, f64)> = names.into_iter().zip(spent.map(|bytes| bytes / secs(time))).collect();
    figures.push(("all (B/s)", spent.iter().sum::<f64>() / secs(time)));
    figures.push(("the busiest node", most / secs(time)));
    assert_eq!(SPENT.len(), names.len());
    Row { what: "idle", figures }
}

/// Two halves, parted for a minute, in which files are shared and withdrawn, come together.
pub fn parted(nodes: usize, seed: u64) -> Row {
    let mut world = settled(nodes, 0, seed);
    world.parted = true;
    for number in 0..20 {
        world.run(Duration::from_secs(3));
        let who = world.dice.random_range(0..nodes);
        // One more; one less; another instead.
        let files = match number % 3 {
            0 => vec![file(who, 0), file(who, number)],
            1 => Vec::new(),
            _ => vec![file(who, number)],
        };
        world.publish(who, &files);
    }
    let apart = world.truth.wrong();
    world.parted = false;
    let (began, _) = (world.now, world.spent());
    world.run_to(PATIENCE, |world| world.truth.wrong() == 0);
    let alive = secs(world.now - began);
    assert!(world.run_to(PATIENCE, agreed), "{} wrong, {} lacking", world.truth.wrong(), world.truth.lacking());
    let took = secs(world.now - began);
    let kib = world.spent().0.iter().sum::<f64>() / 1024.0;
    // Everybody has what its owner has: as many entries, in the same version.
    for who in 0..nodes {
        let book = &world.nodes[who].running.as_ref().unwrap().book;
        for of in 0..nodes {
            let own = &world.nodes[of].running.as_ref().unwrap().book;
            let id = world.nodes[of].id;
            let (theirs, own) = (book.get(id).unwrap(), own.get(id).unwrap());
            assert!(std::sync::Arc::ptr_eq(theirs, own) || (theirs.place(), theirs.len()) == (own.place(), own.len()));
        }
    }
    let figures = vec![
        ("wrong beliefs at the end", apart as f64),
        ("agree on who is alive (s)", alive),
        ("and on all catalogs (s)", took),
        ("KiB per node", kib),
    ];
    Row { what: "parted, then healed", figures }
}

/// Nodes come and go, one in a hundred each minute (one at least).
pub fn churn(nodes: usize, seed: u64, minutes: u64) -> Row {
    let mut world = settled(nodes, 0, seed);
    world.truth.slanders.clear();
    let changes = (nodes as u64 * minutes / 100).max(9);
    let pause = Duration::from_secs(60 * minutes) / changes as u32;
    let (mut shares, mut worst) = (Vec::new(), 0.0f64);
    let mut away = Vec::new();
    for number in 0..changes {
        let who = world.dice.random_range(0..nodes);
        match number % 3 {
            2 if !away.is_empty() => {
                let back = away.remove(world.dice.random_range(0..away.len()));
                world.start(back, &[]);
            }
            _ if world.nodes[who].running.is_none() => {}
            0 => {
                world.kill(who);
                away.push(who);
            }
            _ => {
                world.leave(who);
                away.push(who);
            }
        }
        let next = world.now + pause;
        while world.now < next {
            world.run((next - world.now).min(Duration::from_secs(1)));
            let share = world.truth.wrong() as f64 / world.truth.beliefs() as f64;
            shares.push(share);
            worst = worst.max(share);
        }
    }
    let average = shares.iter().sum::<f64>() / shares.len() as f64;
    let slander = secs(world.truth.longest_slander(world.now));
    let slanders = world.truth.slanders.len() as f64;
    let (spent, _) = world.spent();
    let rate = spent.iter().sum::<f64>() / secs(pause * changes as u32);
    assert!(world.run_to(PATIENCE, agreed), "{} wrong, {} lacking", world.truth.wrong(), world.truth.lacking());
    let figures = vec![
        ("wrong beliefs, on average (per mille)", average * 1000.0),
        ("at worst (per mille)", worst * 1000.0),
        ("times that one that lives was believed dead", slanders),
        ("for at most (s)", slander),
        ("bytes per second and node", rate),
    ];
    Row { what: "churn", figures }
}

/// All of it at random: what comes of it must be what is so.
pub fn anything(nodes: usize, seed: u64) {
    let mut world = settled(nodes, 0, seed);
    let mut number = 0;
    for _ in 0..40 {
        let pause = world.dice.random_range(100..4000);
        world.run(Duration::from_millis(pause));
        let who = world.dice.random_range(0..nodes);
        number += 1;
        match (world.dice.random_range(0..8), world.nodes[who].running.is_some()) {
            (0, _) => world.parted = !world.parted,
            (1, true) => world.kill(who),
            (2, true) => world.leave(who),
            (3, true) => world.darken(who),
            (4, true) => world.publish(who, &[]),
            (_, true) => world.publish(who, &[file(who, number), file(who, 0)]),
            (_, false) => world.start(who, &[]),
        }
    }
    world.parted = false;
    assert!(
        world.run_to(PATIENCE, agreed),
        "seed {seed}: {} wrong, {} lacking",
        world.truth.wrong(),
        world.truth.lacking()
    );
    // And it stays so.
    world.run(Duration::from_secs(60));
    assert!(agreed(&world), "seed {seed}, later: {} wrong, {} lacking", world.truth.wrong(), world.truth.lacking());
    let lives = |running: &Swim| running.len();
    let running: Vec<usize> =
        world.nodes.iter().filter_map(|node| node.running.as_ref()).map(|r| lives(&r.swim)).collect();
    assert!(running.iter().all(|known| *known == running.len() - 1), "seed {seed}: {running:?}");
}
