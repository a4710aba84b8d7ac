//! Properties of the section table: its invariant under any sequence of events, and that everything arrives.

use proptest::prelude::*;

use super::sections::SectionTable;
use crate::base::chunks::CHUNK;
use crate::base::ids::NodeId;
use crate::base::ranges::Ranges;

fn node(tag: u8) -> NodeId {
    NodeId([tag; 32])
}

#[derive(Clone, Debug)]
enum Step {
    Want(u64, u64),
    WantNow(u64),
    Unwant(u64, u64),
    Forget(u64, u64),
    Source(u8, Option<(u64, u64)>, f64),
    Gone(u8),
    Release(u8),
    Next(u8),
    Verified(u64, u8),
    Failed(u64, u8, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let chunk = 0u64..60;
    let len = 0u64..30;
    let who = 0u8..5;
    prop_oneof![
        (chunk.clone(), len.clone()).prop_map(|(a, b)| Step::Want(a, b)),
        chunk.clone().prop_map(Step::WantNow),
        (chunk.clone(), len.clone()).prop_map(|(a, b)| Step::Unwant(a, b)),
        (chunk.clone(), len.clone()).prop_map(|(a, b)| Step::Forget(a, b)),
        (who.clone(), proptest::option::of((chunk.clone(), len)), 1e3..1e9f64)
            .prop_map(|(w, h, r)| Step::Source(w, h, r)),
        who.clone().prop_map(Step::Gone),
        who.clone().prop_map(Step::Release),
        who.clone().prop_map(Step::Next),
        who.clone().prop_map(Step::Next),
        who.clone().prop_map(Step::Next),
        (chunk.clone(), who.clone()).prop_map(|(c, w)| Step::Verified(c, w)),
        (chunk, who, any::<bool>()).prop_map(|(c, w, u)| Step::Failed(c, w, u)),
    ]
}

fn range((start, len): (u64, u64)) -> Ranges {
    Ranges::of(start..start + len)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_wanted_chunk_is_in_exactly_one_state(steps in proptest::collection::vec(step(), 0..120)) {
        let mut table = SectionTable::new();
        for step in steps {
            match step {
                Step::Want(a, b) => table.want(&range((a, b))),
                Step::WantNow(chunk) => table.want_now(chunk),
                Step::Unwant(a, b) => table.unwant(&range((a, b))),
                Step::Forget(a, b) => table.forget(&range((a, b))),
                Step::Source(who, held, rate) => table.source(node(who), held.map(range), rate),
                Step::Gone(who) => table.source_gone(node(who)),
                Step::Release(who) => table.release_section(node(who)),
                Step::Next(who) => { table.next(node(who)); }
                Step::Verified(chunk, who) => { table.verified(chunk, node(who)); }
                Step::Failed(chunk, who, urgent) => table.failed(chunk, node(who), urgent),
            }
            table.check();
        }
    }

    /// Whatever the sources hold between them arrives, each chunk once, whatever their rates are.
    #[test]
    fn all_that_is_held_arrives_once(
        chunks in 1u64..300,
        sources in proptest::collection::vec((1e5..1e8f64, proptest::option::of((0u64..300, 1u64..300))), 1..6),
    ) {
        let mut table = SectionTable::new();
        let mut reachable = Ranges::new();
        for (tag, (rate, held)) in sources.iter().enumerate() {
            let held = held.map(range);
            reachable.union_with(held.as_ref().unwrap_or(&Ranges::of(0..chunks)));
            table.source(node(tag as u8), held, *rate);
        }
        let reachable = reachable.intersection(&Ranges::of(0..chunks));
        table.want(&Ranges::of(0..chunks));
        let mut delivered = Ranges::new();
        loop {
            let mut asked = Vec::new();
            for tag in 0..sources.len() as u8 {
                for _ in 0..3 {
                    asked.extend(table.next(node(tag)).map(|chunk| (tag, chunk)));
                }
            }
            if asked.is_empty() { break; }
            for (tag, chunk) in asked {
                prop_assert!(delivered.insert_one(chunk), "asked twice");
                prop_assert!(table.verified(chunk, node(tag)));
                table.check();
            }
        }
        prop_assert_eq!(delivered, reachable);
    }
}

/// Runs the table against sources of fixed rates on a virtual clock; the time that the last chunk takes.
fn simulate(chunks: u64, rates: &[f64], depth: usize) -> f64 {
    let mut table = SectionTable::new();
    for (tag, rate) in rates.iter().enumerate() {
        table.source(node(tag as u8), None, *rate);
    }
    table.want(&Ranges::of(0..chunks));
    // Per source: the times at which what it was asked for will be there.
    let mut queues = vec![std::collections::VecDeque::<(u64, f64)>::new(); rates.len()];
    let mut now = 0.0;
    loop {
        for (tag, queue) in queues.iter_mut().enumerate() {
            while queue.len() < depth {
                let Some(chunk) = table.next(node(tag as u8)) else { break };
                let free_at = queue.back().map_or(now, |(_, at)| *at);
                queue.push_back((chunk, free_at + CHUNK as f64 / rates[tag]));
            }
        }
        let due = queues.iter().enumerate().filter_map(|(tag, queue)| queue.front().map(|(_, at)| (tag, *at)));
        let Some((tag, at)) = due.min_by(|a, b| a.1.total_cmp(&b.1)) else { break };
        now = at;
        let (chunk, _) = queues[tag].pop_front().unwrap();
        table.verified(chunk, node(tag as u8));
    }
    assert_eq!(table.done().len(), chunks);
    now
}

#[test]
fn unequal_sources_finish_together() {
    for rates in [vec![25e6; 4], vec![1.25e6, 6.25e6, 25e6, 50e6], vec![100e6, 1e6]] {
        let chunks = 2048;
        let bound = chunks as f64 * CHUNK as f64 / rates.iter().sum::<f64>();
        let slowest = rates.iter().copied().fold(f64::MAX, f64::min);
        let took = simulate(chunks, &rates, 4);
        // The last chunks that the slowest source was asked for can't be asked of another here.
        assert!(took <= bound * 1.02 + 4.0 * CHUNK as f64 / slowest, "{rates:?}: {took} s, bound {bound} s");
    }
}

#[test]
fn a_reader_is_served_in_about_its_order() {
    let mut table = SectionTable::new();
    for tag in 0..4 {
        table.source(node(tag), None, 25e6);
    }
    table.want(&Ranges::of(0..256));
    let mut farthest = 0;
    for round in 0..20u64 {
        for tag in 0..4 {
            farthest = farthest.max(table.next(node(tag)).unwrap());
        }
        assert!(farthest < (round + 1) * 4 + 4 * 8, "round {round} reached {farthest}");
    }
    table.want_now(200);
    assert_eq!(table.next(node(2)), Some(200));
}
