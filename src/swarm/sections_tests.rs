//! Properties of the section table: its invariant under any sequence of events, and that everything arrives.

use proptest::prelude::*;

use super::sections::{Place, SectionTable, Slot};
use crate::base::chunks::CHUNK;
use crate::base::ranges::Ranges;

const CHUNKS: u64 = 90;

#[derive(Clone, Debug)]
enum Step {
    Want(u64, u64),
    WantNear(u64, u64),
    Unwant(u64, u64),
    Forget(u64, u64),
    Source(u32, Option<(u64, u64)>, f64),
    HoldsMore(u32, (u64, u64)),
    Welcome(u32),
    Gone(u32),
    Release(u32),
    Next(u32, Option<Place>, bool),
    Take(u64, u32),
    Landed(usize, u32),
    Failed(usize),
    Scatter,
}

fn step() -> impl Strategy<Value = Step> {
    let chunk = 0u64..60;
    let len = 0u64..30;
    let who = 0u32..5;
    let place = (0u64..60, 0u64..40).prop_map(|(head, rank)| Place { head, rank });
    let next = || {
        (0u32..5, proptest::option::weighted(0.8, place.clone()), any::<bool>())
            .prop_map(|(w, r, f)| Step::Next(w, r, f))
    };
    prop_oneof![
        (chunk.clone(), len.clone()).prop_map(|(a, b)| Step::Want(a, b)),
        (chunk.clone(), len.clone()).prop_map(|(a, b)| Step::WantNear(a, b)),
        (chunk.clone(), len.clone()).prop_map(|(a, b)| Step::Unwant(a, b)),
        (chunk.clone(), len.clone()).prop_map(|(a, b)| Step::Forget(a, b)),
        (who.clone(), proptest::option::of((chunk.clone(), len.clone())), 1e3..1e9f64)
            .prop_map(|(w, h, r)| Step::Source(w, h, r)),
        (who.clone(), (chunk.clone(), len)).prop_map(|(w, h)| Step::HoldsMore(w, h)),
        who.clone().prop_map(Step::Welcome),
        who.clone().prop_map(Step::Gone),
        who.clone().prop_map(Step::Release),
        next(),
        next(),
        next(),
        (chunk, who.clone()).prop_map(|(c, w)| Step::Take(c, w)),
        (any::<usize>(), who).prop_map(|(c, w)| Step::Landed(c, w)),
        any::<usize>().prop_map(Step::Failed),
        Just(Step::Scatter),
    ]
}

fn range((start, len): (u64, u64)) -> Ranges {
    Ranges::of(start..start + len)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// Against a model that knows only what was asked for and what came: nothing is lost, doubled or invented.
    #[test]
    fn every_wanted_chunk_is_in_exactly_one_state(steps in proptest::collection::vec(step(), 0..150)) {
        let mut table = SectionTable::new(CHUNKS, 17);
        let (mut known, mut verified) = (Ranges::new(), Ranges::new());
        let mut asked: Vec<(u64, Slot)> = Vec::new();
        let mut there = std::collections::BTreeSet::new();
        for step in steps {
            match step {
                Step::Want(a, b) => { table.want(&range((a, b))); known.union_with(&range((a, b))); }
                Step::WantNear(a, b) => { table.want_near(&range((a, b))); known.union_with(&range((a, b))); }
                Step::Unwant(a, b) => {
                    let mut gone = range((a, b));
                    table.unwant(&gone);
                    gone.subtract(&verified);
                    known.subtract(&gone);
                }
                Step::Forget(a, b) => {
                    let gone = range((a, b)).intersection(&verified);
                    table.forget(&gone);
                    verified.subtract(&gone);
                    known.subtract(&gone);
                }
                Step::Source(who, held, rate) => { table.source(Slot(who), held.map(range), rate); there.insert(who); }
                Step::HoldsMore(who, more) => table.holds_more(Slot(who), &range(more)),
                Step::Welcome(who) => table.welcome(Slot(who)),
                Step::Gone(who) => {
                    let lost = table.gone(Slot(who));
                    let had: Ranges = asked.iter().filter(|(_, slot)| slot.0 == who).map(|(chunk, _)| *chunk).collect();
                    prop_assert_eq!(lost.into_iter().collect::<Ranges>(), had);
                    asked.retain(|(_, slot)| slot.0 != who);
                    there.remove(&who);
                }
                Step::Release(who) => table.release(Slot(who)),
                Step::Next(who, place, free) => if let Some(chunk) = table.next(Slot(who), place, free) {
                    prop_assert!(there.contains(&who) && table.holds(Slot(who), chunk));
                    prop_assert!(known.contains(chunk) && !verified.contains(chunk));
                    prop_assert!(asked.iter().all(|(other, _)| *other != chunk), "asked twice");
                    asked.push((chunk, Slot(who)));
                },
                Step::Take(chunk, who) => if known.contains(chunk) && table.take(chunk, Slot(who)) {
                    prop_assert!(there.contains(&who) && !asked.contains(&(chunk, Slot(who))));
                    asked.push((chunk, Slot(who)));
                },
                Step::Landed(which, who) if !asked.is_empty() => {
                    let (chunk, slot) = asked[which % asked.len()];
                    let from = if which % 7 == 0 { Slot(who) } else { slot };
                    let landed = table.landed(chunk, from);
                    prop_assert!(landed.first);
                    let losers: Vec<Slot> = asked.iter().filter(|(other, slot)| *other == chunk && *slot != from).map(|(_, slot)| *slot).collect();
                    prop_assert_eq!(landed.losers.len(), losers.len());
                    asked.retain(|(other, _)| *other != chunk);
                    verified.insert_one(chunk);
                    known.insert_one(chunk);
                }
                Step::Failed(which) if !asked.is_empty() => {
                    let (chunk, slot) = asked.swap_remove(which % asked.len());
                    table.failed(chunk, slot);
                }
                Step::Landed(..) | Step::Failed(..) => {}
                Step::Scatter => table.scatter(99),
            }
            table.check(Some(&known));
            prop_assert_eq!(table.done(), &verified);
        }
    }

    /// Whatever the sources hold between them arrives, each chunk once, whatever their rates are.
    #[test]
    fn all_that_is_held_arrives_once(
        chunks in 1u64..300, near: bool, scatter: bool,
        sources in proptest::collection::vec((1e5..1e8f64, proptest::option::of((0u64..300, 1u64..300))), 1..6),
    ) {
        let mut table = SectionTable::new(700, 40);
        let mut reachable = Ranges::new();
        for (tag, (rate, held)) in sources.iter().enumerate() {
            let held = held.map(range);
            reachable.union_with(held.as_ref().unwrap_or(&Ranges::of(0..chunks)));
            table.source(Slot(tag as u32), held, *rate);
        }
        let reachable = reachable.intersection(&Ranges::of(0..chunks));
        if scatter { table.scatter(5); }
        if near { table.want_near(&Ranges::of(0..chunks)) } else { table.want(&Ranges::of(0..chunks)) }
        let mut delivered = Ranges::new();
        loop {
            let mut asked = Vec::new();
            for tag in 0..sources.len() as u32 {
                for _ in 0..3 {
                    asked.extend(table.next(Slot(tag), Some(Place::default()), true).map(|chunk| (tag, chunk)));
                }
            }
            if asked.is_empty() { break; }
            for (tag, chunk) in asked {
                prop_assert!(delivered.insert_one(chunk), "asked twice");
                prop_assert!(table.landed(chunk, Slot(tag)).first);
                table.check(None);
            }
        }
        prop_assert_eq!(delivered, reachable);
    }
}

#[test]
fn the_start_is_divided_in_proportion_to_the_rates() {
    let mut table = SectionTable::new(1000, 0);
    for (tag, rate) in [1e6, 2e6, 3e6, 4e6].into_iter().enumerate() {
        table.source(Slot(tag as u32), None, rate);
    }
    table.want(&Ranges::of(0..1000));
    for tag in 0..4u32 {
        table.next(Slot(tag), None, true).unwrap();
        let section = table.section_of(Slot(tag));
        assert!(section.len().abs_diff(100 * u64::from(tag + 1)) <= 1, "{tag}: {section:?}");
        assert_eq!(section.runs().len(), 1, "a section is contiguous");
    }
}

#[test]
fn who_has_finished_takes_the_far_part_of_the_longest_leftover() {
    let mut table = SectionTable::new(1000, 0);
    table.source(Slot(0), None, 1e6);
    table.source(Slot(1), None, 1e6);
    table.want(&Ranges::of(0..1000));
    table.next(Slot(0), None, true).unwrap();
    table.next(Slot(1), None, true).unwrap();
    // Longest in time, not in bytes: the first is slow by now.
    table.rate(Slot(0), 1e5);
    table.source(Slot(2), None, 1e6);
    table.next(Slot(2), None, true).unwrap();
    let section = table.section_of(Slot(2));
    assert!(section.first().unwrap() < 60 && section.runs()[0].end == 500, "{section:?}");
    assert!(section.len().abs_diff(450) < 10, "{section:?}");
}

#[test]
fn a_newcomer_gets_its_share_out_of_every_section() {
    let mut table = SectionTable::new(1000, 0);
    for tag in 0..3 {
        table.source(Slot(tag), None, 1e6);
    }
    table.want(&Ranges::of(0..1000));
    for tag in 0..3 {
        table.next(Slot(tag), None, true).unwrap();
    }
    table.source(Slot(3), None, 1e6);
    table.welcome(Slot(3));
    table.check(None);
    assert!(table.section_of(Slot(3)).len().abs_diff(250) < 60, "{:?}", table.section_of(Slot(3)));
}

#[test]
fn partial_holders_are_left_what_only_they_are_free_for() {
    let mut table = SectionTable::new(100, 0);
    table.source(Slot(0), None, 1e6);
    table.source(Slot(1), Some(Ranges::of(0..50)), 1e6);
    table.want(&Ranges::of(0..100));
    for _ in 0..50 {
        assert!(table.next(Slot(0), None, true).unwrap() >= 50, "the other one could have brought it");
    }
}

#[test]
fn downloaders_that_know_of_each_other_fetch_different_parts() {
    let mut parts = Vec::new();
    for offset in [100u64, 700] {
        let mut table = SectionTable::new(1000, offset);
        table.source(Slot(0), None, 1e6);
        table.want(&Ranges::of(0..1000));
        let part: Ranges = (0..200).filter_map(|_| table.next(Slot(0), None, true)).collect();
        assert_eq!(part.runs().len(), 1);
        parts.push(part);
    }
    assert!(parts[0].intersection(&parts[1]).is_empty());
    // One hears what the other has, and fetches what is still with the source alone, away from the other's front.
    let mut table = SectionTable::new(1000, 0);
    table.source(Slot(0), None, 1e6);
    table.scatter(77);
    table.source(Slot(1), Some(Ranges::of(0..300)), 1.0);
    table.want(&Ranges::of(0..1000));
    let first = table.next(Slot(0), None, true).unwrap();
    assert!((400..900).contains(&first), "{first}");
}

#[test]
fn a_reader_is_served_in_about_its_order() {
    let mut table = SectionTable::new(256, 0);
    for tag in 0..4 {
        table.source(Slot(tag), None, 25e6);
    }
    table.want_near(&Ranges::of(0..256));
    let mut farthest = 0;
    for round in 0..20u64 {
        for tag in 0..4 {
            farthest = farthest.max(table.next(Slot(tag), Some(Place::default()), true).unwrap());
        }
        assert!(farthest < (round + 1) * 4 + 4 * 8, "round {round} reached {farthest}");
    }
    // A slow one brings what will be read when it is there.
    table.source(Slot(4), None, CHUNK as f64);
    assert_eq!(table.next(Slot(4), Some(Place { head: 0, rank: 60 }), true), Some(farthest + 61));
    assert!(table.take(200, Slot(2)));
    assert!(table.take(200, Slot(3)), "a hedge");
    assert!(!table.take(200, Slot(2)), "twice from one");
    assert_eq!(table.landed(200, Slot(3)).losers, vec![Slot(2)]);
    table.check(None);
}
