//! SWIM among nodes on a virtual clock.

use std::collections::BTreeMap;

use super::*;

/// A network of nodes on a clock of its own; a message takes 20 ms, unless it is lost.
struct Lab {
    now: Instant,
    began: Instant,
    nodes: BTreeMap<u8, Swim>,
    /// What each believes of the others.
    alive: BTreeMap<u8, BTreeMap<u8, bool>>,
    under_way: Vec<(Instant, u8, u8, Vec<u8>)>,
    /// The nodes are in two halves, by the lowest bit.
    parted: bool,
    /// How often somebody noticed that it lives twice.
    twins: usize,
    /// A node may be at another's address.
    either: bool,
}

fn addr(tag: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, tag], 7450))
}

fn node(tag: u8) -> NodeId {
    NodeId([tag; 32])
}

impl Lab {
    fn new() -> Self {
        let now = Instant::now();
        let (nodes, alive) = (BTreeMap::new(), BTreeMap::new());
        Self { now, began: now, nodes, alive, under_way: Vec::new(), parted: false, twins: 0, either: false }
    }

    fn wall(&self) -> u32 {
        1_000_000 + (self.now - self.began).as_secs() as u32
    }

    fn start(&mut self, tag: u8) {
        let swim = Swim::new(node(tag), addr(tag), Arc::default(), [tag; 32], self.wall(), self.now).unwrap();
        self.nodes.insert(tag, swim);
        self.alive.insert(tag, BTreeMap::new());
    }

    fn call(&mut self, from: u8, to: u8) {
        let now = self.now;
        self.nodes.get_mut(&from).unwrap().call(node(to), addr(to), now);
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(10);
            let wall = self.wall();
            for (tag, swim) in &mut self.nodes {
                swim.tick(wall, self.now);
                let (letters, events) = swim.take();
                for (to, letter) in letters {
                    assert!(letter.len() <= MAX_LETTER);
                    let SocketAddr::V4(to) = to else { panic!("{to}") };
                    let to = to.ip().octets()[3];
                    if !self.parted || tag % 2 == to % 2 {
                        self.under_way.push((self.now + Duration::from_millis(20), *tag, to, letter));
                    }
                }
                let alive = self.alive.get_mut(tag).unwrap();
                for event in events {
                    match event {
                        Event::Up(node, at) => {
                            assert!(self.either || at == addr(node.0[0]), "{at}");
                            alive.insert(node.0[0], true);
                        }
                        Event::Down(node) => {
                            alive.insert(node.0[0], false);
                        }
                        Event::Anew(..) => {}
                        Event::Twin => self.twins += 1,
                    }
                }
            }
            let now = self.now;
            let (due, rest) = std::mem::take(&mut self.under_way).into_iter().partition(|(at, ..)| *at <= now);
            self.under_way = rest;
            let due: Vec<(Instant, u8, u8, Vec<u8>)> = due;
            for (_, from, to, letter) in due {
                if let Some(swim) = self.nodes.get_mut(&to) {
                    swim.receive(&letter, Some((addr(from), wall)), wall, self.now);
                }
            }
        }
    }

    fn sees(&self, tag: u8) -> Vec<u8> {
        self.alive[&tag].iter().filter(|(_, alive)| **alive).map(|(tag, _)| *tag).collect()
    }

    fn all_see(&self, whom: &[u8]) -> bool {
        self.nodes
            .keys()
            .all(|tag| self.sees(*tag) == whom.iter().copied().filter(|other| other != tag).collect::<Vec<_>>())
    }
}

fn six() -> Lab {
    let mut lab = Lab::new();
    (1..=6).for_each(|tag| lab.start(tag));
    (2..=6).for_each(|tag| lab.call(tag, tag - 1));
    lab.run(Duration::from_secs(5));
    assert!(lab.all_see(&[1, 2, 3, 4, 5, 6]), "{:?}", lab.alive);
    lab
}

#[test]
fn who_dies_is_missed_within_15_seconds_and_who_leaves_at_once() {
    let mut lab = six();
    lab.nodes.remove(&3);
    lab.run(Duration::from_secs(15));
    assert!(lab.all_see(&[1, 2, 4, 5, 6]), "{:?}", lab.alive);
    let now = lab.now;
    lab.nodes.get_mut(&5).unwrap().leave(now);
    lab.run(Duration::from_millis(10));
    lab.nodes.remove(&5);
    lab.run(Duration::from_secs(1));
    assert!(lab.all_see(&[1, 2, 4, 6]), "{:?}", lab.alive);
    // Started again.
    lab.start(3);
    lab.call(3, 6);
    lab.run(Duration::from_secs(3));
    assert!(lab.all_see(&[1, 2, 3, 4, 6]), "{:?}", lab.alive);
}

#[test]
fn two_halves_find_each_other_again() {
    let mut lab = six();
    lab.parted = true;
    lab.run(Duration::from_secs(30));
    assert_eq!((lab.sees(1), lab.sees(2)), (vec![3, 5], vec![4, 6]));
    lab.parted = false;
    // As `members/gossiping` does.
    for _ in 0..3 {
        for tag in 1..=6 {
            (1..=6).filter(|other| other % 2 != tag % 2).for_each(|other| lab.call(tag, other));
        }
        lab.run(Duration::from_secs(3));
    }
    assert!(lab.all_see(&[1, 2, 3, 4, 5, 6]), "{:?}", lab.alive);
}

#[test]
fn a_node_whose_clock_was_ahead_lives_again() {
    let mut lab = six();
    // Its last life began an hour later than it is now.
    let ahead = lab.wall() + 3600;
    lab.nodes.remove(&2);
    let swim = Swim::new(node(2), addr(2), Arc::default(), [9; 32], ahead, lab.now).unwrap();
    lab.nodes.insert(2, swim);
    lab.call(2, 1);
    lab.run(Duration::from_secs(5));
    lab.nodes.remove(&2);
    lab.run(Duration::from_secs(15));
    assert!(lab.all_see(&[1, 3, 4, 5, 6]), "{:?}", lab.alive);
    lab.start(2);
    lab.call(2, 1);
    lab.run(Duration::from_secs(5));
    assert!(lab.all_see(&[1, 2, 3, 4, 5, 6]), "{:?}", lab.alive);
}

#[test]
fn what_one_knows_another_learns_in_a_session() {
    let mut lab = six();
    lab.start(7);
    let (records, wall, now) = (lab.nodes[&1].records(), lab.wall(), lab.now);
    assert_eq!(records.len(), 6);
    lab.nodes.get_mut(&7).unwrap().learn(&records, true, wall, now);
    lab.run(Duration::from_secs(4));
    assert!(lab.all_see(&[1, 2, 3, 4, 5, 6, 7]), "{:?}", lab.alive);
    // A generation of the far future is nobody's.
    let lie = MemberRecord { node: node(8), generation: wall + 48 * 3600, incarnation: 0, down: false, addr: addr(8) };
    lab.nodes.get_mut(&7).unwrap().learn(&[lie], true, wall, now);
    assert_eq!(lab.nodes[&7].len(), 6);
}

#[test]
fn what_nobody_would_write_changes_nothing() {
    let mut lab = six();
    let (now, wall) = (lab.now, lab.wall());
    lab.call(2, 1);
    let (letters, _) = lab.nodes.get_mut(&2).unwrap().take();
    let (_, letter) = letters.into_iter().next().unwrap();
    let one = lab.nodes.get_mut(&1).unwrap();
    for len in 0..letter.len() {
        one.receive(&letter[..len], None, wall, now);
    }
    for at in 0..2000u32 {
        let hash = blake3::hash(&at.to_le_bytes());
        let mut junk = [&[(at % 11) as u8], &hash.as_bytes()[..]].concat();
        junk.extend_from_slice(&letter[..letter.len().min(at as usize % 64)]);
        one.receive(&junk, None, wall, now);
    }
    lab.run(Duration::from_secs(20));
    assert!(lab.all_see(&[1, 2, 3, 4, 5, 6]), "{:?}", lab.alive);
}

#[test]
fn two_that_live_under_one_name_do_not_outlive_each_other_without_end_and_notice() {
    let mut lab = six();
    // The second one is at node 7's place, and says that it is node 2.
    let swim = Swim::new(node(2), addr(7), Arc::default(), [7; 32], lab.wall() + 1, lab.now).unwrap();
    lab.nodes.insert(7, swim);
    lab.alive.insert(7, BTreeMap::new());
    let now = lab.now;
    lab.nodes.get_mut(&7).unwrap().call(node(1), addr(1), now);
    lab.either = true;
    for _ in 0..6 {
        lab.run(Duration::from_secs(20));
        // As sessions do.
        let (records, wall, now) = (lab.nodes[&1].records(), lab.wall(), lab.now);
        for tag in [2, 7] {
            lab.nodes.get_mut(&tag).unwrap().learn(&records, true, wall, now);
            // And as `members/gossiping` does with those who seem to be dead.
            lab.call(tag, 1);
        }
    }
    lab.run(Duration::from_secs(1));
    assert!((1..=10).contains(&lab.twins), "{}", lab.twins);
    for other in [1, 3, 4, 5, 6] {
        assert!(lab.sees(other).len() >= 4, "the others are not disturbed: {:?}", lab.alive[&other]);
    }
}

#[test]
fn a_member_that_tells_of_many_dead_filled_the_directory_for_ever() {
    let now = Instant::now();
    let wall = 1_000_000;
    let directory = Arc::new(Mutex::new(Directory::with_room(50)));
    let mut swim = Swim::new(node(1), addr(1), Arc::clone(&directory), [1; 32], wall, now).unwrap();
    let record =
        |tag: u8, down| MemberRecord { node: node(tag), generation: wall, incarnation: 0, down, addr: addr(tag) };
    // Ten that live; forty that die, one each second; no room for more.
    let all: Vec<MemberRecord> = (2..=50).map(|tag| record(tag, false)).collect();
    swim.learn(&all, false, wall, now);
    for tag in 12..=50 {
        swim.learn(&[record(tag, true)], false, wall, now + Duration::from_secs(tag.into()));
    }
    let known = |tag: u8| directory.lock().number(&node(tag)).is_some();
    swim.learn(&[record(60, false)], false, wall, now);
    assert!(!known(60) && known(50) && swim.len() == 10);
    // One of those that died long ago has a session all the same.
    swim.forget(wall, now, |peer| *peer == node(13));
    let kept: Vec<u8> = (2..=60).filter(|tag| known(*tag)).collect();
    // A fifth is free: of the dead those that died first are gone.
    let expected: Vec<u8> = (2..=11).chain([13]).chain(23..=50).collect();
    assert_eq!(kept, expected);
    assert_eq!(swim.len(), 10, "nobody who lives is forgotten");
    swim.learn(&[record(60, false)], false, wall, now);
    assert!(known(60) && swim.len() == 11);
    // Whoever is no member any more goes in any case.
    swim.call(node(70), addr(70), now);
    assert!(known(70));
    swim.forget(wall, now, |_| false);
    assert!(!known(70) && known(60));
}

#[test]
fn what_is_known_already_is_no_news() {
    let (now, wall) = (Instant::now(), 1_000_000);
    let mut swim = Swim::new(node(1), addr(1), Arc::default(), [1; 32], wall, now).unwrap();
    let record = |tag: u8, generation, incarnation, down| MemberRecord {
        node: node(tag),
        generation,
        incarnation,
        down,
        addr: addr(tag),
    };
    swim.learn(&[record(2, 5, 3, false), record(3, 5, 0, true)], false, wall, now);
    let is_news = |record: MemberRecord| {
        let mut records = vec![record];
        swim.retain_news(&mut records);
        !records.is_empty()
    };
    for old in [record(2, 5, 3, false), record(2, 5, 2, false), record(2, 4, 9, true), record(3, 5, 0, true)] {
        assert!(!is_news(old), "{old:?}");
    }
    let new = [record(2, 5, 4, false), record(2, 6, 0, false), record(2, 5, 3, true), record(3, 6, 0, false)];
    for new in new.into_iter().chain([record(4, 1, 0, false), record(1, wall, 0, true)]) {
        assert!(is_news(new), "{new:?}");
    }
}
