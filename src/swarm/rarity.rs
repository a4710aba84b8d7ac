//! How many of the partial sources hold each chunk. Sources that hold everything count for no chunk more than for
//! another and are left out, so that a file without partial holders costs nothing here.

use std::ops::Range;

use crate::base::ranges::Ranges;

/// The chunks by the number of partial sources that hold them. Pure.
#[derive(Debug, Clone)]
pub struct Rarity {
    /// `levels[n]`: the chunks that exactly `n` partial sources hold. Together they are `0..chunks`.
    levels: Vec<Ranges>,
}

impl Rarity {
    /// Nobody holds a part of a file of `chunks` chunks yet.
    pub fn new(chunks: u64) -> Self {
        Self { levels: vec![Ranges::of(0..chunks)] }
    }

    /// True if no partial source holds anything: all chunks are equally rare.
    pub fn is_flat(&self) -> bool {
        self.levels.len() == 1
    }

    /// The levels, the rarest first.
    pub fn levels(&self) -> &[Ranges] {
        &self.levels
    }

    /// One more partial source holds these, and did not before.
    pub fn add(&mut self, held: &Ranges) {
        if held.is_empty() {
            return;
        }
        self.levels.push(Ranges::new());
        for level in (0..self.levels.len() - 1).rev() {
            self.shift(held, level, level + 1);
        }
        self.trim();
    }

    /// One partial source less holds these.
    pub fn remove(&mut self, held: &Ranges) {
        for level in 1..self.levels.len() {
            self.shift(held, level, level - 1);
        }
        self.trim();
    }

    fn shift(&mut self, held: &Ranges, from: usize, to: usize) {
        if self.levels[from].is_empty() {
            return;
        }
        let moved = self.levels[from].intersection(held);
        self.levels[from].subtract(&moved);
        self.levels[to].union_with(&moved);
    }

    fn trim(&mut self) {
        while self.levels.len() > 1 && self.levels.last().is_some_and(Ranges::is_empty) {
            self.levels.pop();
        }
    }

    /// The rarest part of `set`. All of it if the levels are flat.
    pub fn rarest(&self, set: &Ranges) -> Ranges {
        if self.is_flat() {
            return set.clone();
        }
        let parts = self.levels.iter().map(|level| level.intersection(set));
        parts.into_iter().find(|part| !part.is_empty()).unwrap_or_default()
    }
}

/// The first run of `set` at or after `from`, going round the end: where work that goes round the file goes on.
pub fn ring_first(set: &Ranges, from: u64) -> Option<Range<u64>> {
    let runs = set.runs();
    let at = runs.partition_point(|run| run.end <= from);
    let run = runs.get(at).or_else(|| runs.first())?;
    Some(run.start.max(if at < runs.len() { from } else { 0 })..run.end)
}

/// Up to `count` members of `set`: the first ones on the way round from `from`, or, if `far`, the last ones.
pub fn ring_take(set: &Ranges, from: u64, count: u64, far: bool) -> Ranges {
    let (mut left, mut taken) = (count, Ranges::new());
    let before = Ranges::of(0..from);
    let mut after = set.clone();
    after.subtract(&before);
    let before = set.intersection(&before);
    let parts = if far { [&before, &after] } else { [&after, &before] };
    for part in parts {
        let runs = part.runs();
        for step in 0..runs.len() {
            let run = if far { &runs[runs.len() - 1 - step] } else { &runs[step] };
            let take = left.min(run.end - run.start);
            taken.insert(if far { run.end - take..run.end } else { run.start..run.start + take });
            left -= take;
            if left == 0 {
                return taken;
            }
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges() -> impl Strategy<Value = Ranges> {
        proptest::collection::vec((0u64..60, 1u64..20), 0..6)
            .prop_map(|runs| runs.into_iter().flat_map(|(start, len)| start..start + len).collect())
    }

    proptest! {
        #[test]
        fn levels_count_the_holders(holders in proptest::collection::vec(ranges(), 0..6), gone in 0usize..6, set in ranges()) {
            let mut rarity = Rarity::new(80);
            let mut counts = [0usize; 80];
            for held in &holders {
                rarity.add(held);
                held.iter().for_each(|chunk| counts[chunk as usize] += 1);
            }
            if let Some(held) = holders.get(gone) {
                rarity.remove(held);
                held.iter().for_each(|chunk| counts[chunk as usize] -= 1);
            }
            for chunk in 0..80 {
                for (count, level) in rarity.levels().iter().enumerate() {
                    prop_assert_eq!(level.contains(chunk), counts[chunk as usize] == count);
                }
            }
            let least = set.iter().map(|chunk| counts[chunk as usize]).min();
            let want: Ranges = set.iter().filter(|chunk| Some(counts[*chunk as usize]) == least).collect();
            prop_assert_eq!(rarity.rarest(&set), want);
        }

        #[test]
        fn going_round_takes_each_once(set in ranges(), from in 0u64..90, count in 0u64..60, far: bool) {
            let mut order: Vec<u64> = set.iter().filter(|chunk| *chunk >= from).collect();
            order.extend(set.iter().filter(|chunk| *chunk < from));
            prop_assert_eq!(ring_first(&set, from).map(|run| run.start), order.first().copied());
            if far { order.reverse(); }
            let want: Ranges = order.into_iter().take(count as usize).collect();
            prop_assert_eq!(ring_take(&set, from, count, far), want);
        }
    }
}
