//! Programs that walk through folders (`cp -r`, `grep -r`, `tar`) open one file after the other in the order of the view.
//! Once two opens lie close together, those that come next are told, ever more of them while the walk goes on: then they
//! can be fetched together, and a small file does not cost a round trip of its own. Pure arithmetic over places in a view.

use std::collections::VecDeque;
use std::ops::Range;

/// Walks that are followed at once; the one that rested longest is forgotten.
const WALKS: usize = 16;
/// Places that a walk may skip (folders, large files, what the walker leaves out) and still be the same.
const GAP: usize = 64;
/// How far ahead to go at first, and at most.
const FIRST: usize = 8;
const MOST: usize = 256;

struct Walk {
    /// Where it was last.
    last: usize,
    /// Everything before this has been told.
    told: usize,
    /// How far ahead to go.
    width: usize,
}

/// See the module.
#[derive(Default)]
pub struct Walks(VecDeque<Walk>);

impl Walks {
    /// The file at place `at` was opened. Returns the places that should be fetched now; empty if this is no walk.
    pub fn opened(&mut self, at: usize) -> Range<usize> {
        let same = |walk: &Walk| at >= walk.last && at <= walk.last + GAP;
        let Some(found) = self.0.iter().position(same) else {
            self.0.truncate(WALKS - 1);
            self.0.push_front(Walk { last: at, told: at + 1, width: FIRST / 2 });
            return 0..0;
        };
        // The newest first.
        let Some(mut walk) = self.0.remove(found) else { return 0..0 };
        let mut next = 0..0;
        if at > walk.last {
            walk.width = (walk.width * 2).min(MOST);
            let (from, until) = (walk.told.max(at + 1), at + 1 + walk.width);
            // A few at a time rather than one for each: they are asked for together.
            if until >= from + walk.width / 4 {
                next = from..until;
                walk.told = until;
            }
            walk.last = at;
        }
        self.0.push_front(walk);
        next
    }

    /// Places mean something else now.
    pub fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_walk_is_told_each_place_once_and_ahead_of_time() {
        let mut walks = Walks::default();
        let mut told = 0..0;
        for at in 100..5000 {
            let next = walks.opened(at);
            if next.is_empty() {
                assert!(at == 100 || at + 1 < told.end, "{at} {told:?}");
                continue;
            }
            assert!(told.is_empty() || next.start == told.end, "{at}: {told:?} {next:?}");
            assert!(next.start > at && next.end <= at + 1 + MOST);
            told = told.start..next.end;
        }
        assert!(told.end > 5000 + MOST / 2);
    }

    #[test]
    fn two_walks_do_not_disturb_each_other_and_jumps_are_none() {
        let mut walks = Walks::default();
        let far = 1_000_000;
        let (mut one, mut other) = (0, 0);
        for step in 0..500 {
            one += walks.opened(step).len();
            other += walks.opened(far + 3 * step).len();
        }
        assert!(one >= 500 && other >= 1000, "{one} {other}");
        let mut walks = Walks::default();
        assert!((0..1000).all(|step| walks.opened((step * 7919) % 1_000_003 * 100).is_empty()));
        assert!(walks.0.len() <= WALKS);
    }

    proptest! {
        #[test]
        fn what_is_told_lies_ahead(places in prop::collection::vec(0usize..300, 1..200)) {
            let mut walks = Walks::default();
            for at in places {
                let next = walks.opened(at);
                prop_assert!(next.is_empty() || (next.start > at && next.end <= at + 1 + MOST));
            }
        }
    }
}
