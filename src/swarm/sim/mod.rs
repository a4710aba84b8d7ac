//! A simulator: the real planner, table and pace against hundreds of simulated peers on a virtual clock. A case follows
//! from its seed alone. After every event the table's invariant is checked, and at the end the time that it all took
//! against the best that was possible (see `bound`).
//!
//! `FLASHGET_SEEDS=n` runs seeds 0 to n, `FLASHGET_SEED=n` that one alone, with what happened in it.

mod bound;
mod scenario;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use world::{Outcome, run};

/// Seeds that an ordinary test run tries.
const SEEDS: u64 = 1000;
/// The most that a transfer may take, as a multiple of its bound.
const MOST: f64 = 1.2;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

#[test]
fn every_seed_keeps_the_invariant_and_the_bound() {
    if let Some(seed) = setting("FLASHGET_SEED") {
        println!("{:#?}", scenario::Scenario::of(seed));
        let outcome = run(seed, true);
        println!("{outcome:?} ratio {:.3}", outcome.ratio());
        assert!(outcome.ratio() <= MOST);
        return;
    }
    let count = setting("FLASHGET_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut outcomes = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= count {
                return outcomes;
            }
            match std::panic::catch_unwind(|| run(seed, false)) {
                Ok(outcome) => outcomes.push((seed, outcome)),
                Err(_) => panic!("FLASHGET_SEED={seed} runs the seed that failed"),
            }
        }
    };
    let mut outcomes: Vec<(u64, Outcome)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    outcomes.sort_by(|a, b| b.1.ratio().total_cmp(&a.1.ratio()));
    for (seed, outcome) in outcomes.iter().take(setting("FLASHGET_SHOW").unwrap_or(5) as usize) {
        println!("seed {seed}: ratio {:.3}, {outcome:?}", outcome.ratio());
    }
    let chunks: u64 = outcomes.iter().map(|(_, outcome)| outcome.chunks).sum();
    let asked: u64 = outcomes.iter().map(|(_, outcome)| outcome.asked).sum();
    let within = outcomes.iter().filter(|(_, outcome)| outcome.ratio() <= MOST).count();
    println!(
        "{} seeds, {chunks} chunks, {:.2} requests for each; {within} within {MOST}",
        outcomes.len(),
        asked as f64 / chunks as f64
    );
    let tight = outcomes.iter().filter(|(_, outcome)| outcome.took <= MOST * outcome.tight).count();
    println!("{tight} within {MOST} times the bound in which all faults of a case count as one");
    let (seed, worst) = &outcomes[0];
    println!("the worst is seed {seed}: {:.3} times its bound of {:.3} s", worst.ratio(), worst.bound);
    assert!(worst.ratio() <= MOST, "FLASHGET_SEED={seed} took {:.3} times its bound", worst.ratio());
}
