//! Sets of chunk indices as sorted, disjoint, non-touching runs: what a peer holds, what a transfer still wants.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// A set of `u64`s kept as runs. Cost follows the number of runs, never the number of members.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Ranges {
    runs: Vec<Range<u64>>,
}

/// The runs that came from outside were not sorted, disjoint and non-empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("runs must be sorted, disjoint and not empty")]
pub struct BadRanges;

impl<'de> Deserialize<'de> for Ranges {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Raw {
            runs: Vec<Range<u64>>,
        }
        let raw = Raw::deserialize(from)?;
        Self::from_runs(raw.runs).map_err(serde::de::Error::custom)
    }
}

impl Ranges {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// One run; an empty one gives the empty set.
    pub fn of(run: Range<u64>) -> Self {
        Self { runs: if run.start < run.end { vec![run] } else { Vec::new() } }
    }

    /// Checks runs that came from outside.
    pub fn from_runs(runs: Vec<Range<u64>>) -> Result<Self, BadRanges> {
        let ordered = runs.windows(2).all(|pair| pair[0].end < pair[1].start);
        if ordered && runs.iter().all(|run| run.start < run.end) { Ok(Self { runs }) } else { Err(BadRanges) }
    }

    /// The runs, in order.
    pub fn runs(&self) -> &[Range<u64>] {
        &self.runs
    }

    /// True if there is no member.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The number of members.
    pub fn len(&self) -> u64 {
        self.runs.iter().map(|run| run.end - run.start).sum()
    }

    /// The smallest member.
    pub fn first(&self) -> Option<u64> {
        self.runs.first().map(|run| run.start)
    }

    /// The members, in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.runs.iter().cloned().flatten()
    }

    /// True if `value` is a member.
    pub fn contains(&self, value: u64) -> bool {
        let at = self.runs.partition_point(|run| run.end <= value);
        self.runs.get(at).is_some_and(|run| run.start <= value)
    }

    /// True if the whole of `range` is in the set.
    pub fn contains_all(&self, range: &Range<u64>) -> bool {
        if range.is_empty() {
            return true;
        }
        let at = self.runs.partition_point(|run| run.end <= range.start);
        self.runs.get(at).is_some_and(|run| run.start <= range.start && range.end <= run.end)
    }

    /// Adds every member of `range`.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let from = self.runs.partition_point(|run| run.end < range.start);
        let to = self.runs.partition_point(|run| run.start <= range.end);
        let mut merged = range;
        if from < to {
            merged.start = merged.start.min(self.runs[from].start);
            merged.end = merged.end.max(self.runs[to - 1].end);
        }
        self.runs.splice(from..to, [merged]);
    }

    /// Removes every member of `range`.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let from = self.runs.partition_point(|run| run.end <= range.start);
        let to = self.runs.partition_point(|run| run.start < range.end);
        if from >= to {
            return;
        }
        let left = self.runs[from].start..range.start;
        let right = range.end..self.runs[to - 1].end;
        self.runs.splice(from..to, [left, right].into_iter().filter(|run| run.start < run.end));
    }

    /// Adds one value; true if it was not there.
    pub fn insert_one(&mut self, value: u64) -> bool {
        let new = !self.contains(value);
        if new {
            self.insert(value..value + 1);
        }
        new
    }

    /// Members of both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut left, mut right) = (self.runs.iter().peekable(), other.runs.iter().peekable());
        let mut runs = Vec::new();
        while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
            let run = a.start.max(b.start)..a.end.min(b.end);
            let first_ends = a.end <= b.end;
            if run.start < run.end {
                runs.push(run);
            }
            if first_ends {
                left.next();
            } else {
                right.next();
            }
        }
        Self { runs }
    }

    /// Adds every member of `other`.
    pub fn union_with(&mut self, other: &Self) {
        for run in &other.runs {
            self.insert(run.clone());
        }
    }

    /// Removes every member of `other`.
    pub fn subtract(&mut self, other: &Self) {
        for run in &other.runs {
            self.remove(run.clone());
        }
    }
}

impl FromIterator<u64> for Ranges {
    fn from_iter<I: IntoIterator<Item = u64>>(values: I) -> Self {
        let mut set = Self::new();
        for value in values {
            set.insert(value..value + 1);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn ops() -> impl Strategy<Value = Vec<(bool, u64, u64)>> {
        proptest::collection::vec((any::<bool>(), 0u64..200, 0u64..40), 0..60)
    }

    fn build(ops: &[(bool, u64, u64)]) -> (Ranges, BTreeSet<u64>) {
        let (mut set, mut model) = (Ranges::new(), BTreeSet::new());
        for &(add, start, len) in ops {
            let range = start..start + len;
            if add {
                set.insert(range.clone());
                model.extend(range);
            } else {
                set.remove(range.clone());
                model.retain(|value| !range.contains(value));
            }
        }
        (set, model)
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(a in ops(), b in ops(), probe in 0u64..250, len in 0u64..30) {
            let (set, model) = build(&a);
            let (other, other_model) = build(&b);
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.len(), model.len() as u64);
            prop_assert_eq!(set.contains(probe), model.contains(&probe));
            prop_assert_eq!(set.contains_all(&(probe..probe + len)), (probe..probe + len).all(|v| model.contains(&v)));
            prop_assert_eq!(Ranges::from_runs(set.runs().to_vec()), Ok(set.clone()));
            let both: Vec<u64> = model.intersection(&other_model).copied().collect();
            prop_assert_eq!(set.intersection(&other).iter().collect::<Vec<_>>(), both);
            let mut union = set.clone();
            union.union_with(&other);
            prop_assert_eq!(union.iter().collect::<Vec<_>>(), model.union(&other_model).copied().collect::<Vec<_>>());
            let mut rest = set.clone();
            rest.subtract(&other);
            prop_assert_eq!(rest.iter().collect::<Vec<_>>(), model.difference(&other_model).copied().collect::<Vec<_>>());
        }
    }

    #[test]
    fn runs_from_outside_are_checked() {
        assert!(Ranges::from_runs(vec![0..3, 3..4]).is_err());
        assert!(Ranges::from_runs(vec![5..6, 0..1]).is_err());
        #[allow(clippy::reversed_empty_ranges, clippy::single_range_in_vec_init)]
        let reversed = vec![5..2];
        assert!(Ranges::from_runs(reversed).is_err());
        assert!(Ranges::from_runs(vec![0..3, 4..5]).is_ok());
    }
}
